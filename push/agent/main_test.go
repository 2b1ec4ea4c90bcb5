package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// places are a test host's folders; the processes that a test starts read them from a file beside /run, since they get no environment.
type places struct {
	Run, NixVar string
	Boot        []string
	EFIVars     string
	BootID      string
	Systemd     bool
}

func (p places) save(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.Run, "..", "places.json"), string(text))
}

// TestMain makes this binary the helper: agent, guard and workers run as real processes of it.
func TestMain(m *testing.M) {
	if superviseLab() {
		return
	}
	if places := os.Getenv(placesFile); places != "" {
		if err := helperMain(places, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() == 0 && os.Getenv(onHost) == "" && os.Getenv(ownStore) == "" {
		os.Exit(runWithOwnStore())
	}
	// No test waits for a network.
	if err := os.Setenv("NIX_CONFIG", "substituters ="); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// placesFile names the file with the test host's folders, for the processes that a test starts: a script sets it, since units get no environment.
const placesFile = "FLEET_AGENT_PLACES"

const (
	// ownStore marks the process that has a /nix of its own.
	ownStore       = "FLEET_AGENT_OWN_STORE"
	ownStoreScript = `set -eu
mount --make-rprivate /
mkdir -p /nix
mount -t tmpfs -o mode=0755 tests /nix
mkdir -p /nix/store /nix/var/nix
exec "$@"`
)

// runWithOwnStore runs the tests once more, where what they add to the store is gone afterwards.
func runWithOwnStore() int {
	err := run.Run(context.Background(), run.Cmd{
		Argv: append([]string{"unshare", "--mount", "/bin/sh", "-c", ownStoreScript, "sh"}, os.Args...), Env: []string{ownStore + "=1"},
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if exit, ok := errors.AsType[*run.ExitError](err); ok {
		return max(exit.Code, 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func helperMain(file string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var p places
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	host, err := p.host()
	if err != nil {
		return err
	}
	last := args[len(args)-1]
	switch args[0] {
	case "agent":
		return Serve(ctx, host, last)
	case "activate":
		return RunDry(ctx, host, last)
	case "guard":
		return RunGuard(ctx, host, last)
	case "guard-worker":
		number, err := strconv.Atoi(last)
		if err != nil {
			return err
		}
		return RunGuardWorker(ctx, host, args[2], number)
	case "boot-guard":
		return BootGuard(ctx, host, func() error { return nil })
	case "attach":
		return AttachGuard(ctx, host, last, os.Stdin, os.Stdout)
	}
	return fmt.Errorf("no such command: %q", args)
}

// host is a host with these folders.
func (p places) host() (*Host, error) {
	host, err := NewHost()
	if err != nil {
		return nil, err
	}
	host.Run, host.NixVar, host.Boot, host.EFIVars, host.BootID = p.Run, p.NixVar, p.Boot, p.EFIVars, p.BootID
	host.Helper = filepath.Join(filepath.Dir(p.Run), "helper")
	if !p.Systemd {
		host.Units = NewProcesses()
	}
	// A reboot is the test's to make.
	host.Reboot = func(ctx context.Context, h *Host, _ string) error {
		if err := os.WriteFile(filepath.Join(h.Run, "rebooting"), nil, 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return host, nil
}

// testHost is a host in temporary folders, with the real store and real processes.
func testHost(t *testing.T) *Host {
	t.Helper()
	// A socket's path is short, and t.TempDir's is not.
	base, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Cleanup(func() { killProcesses(t, &Host{Run: filepath.Join(base, "run")}, "") })
	p := places{
		Run: filepath.Join(base, "run"), NixVar: filepath.Join(base, "var"), Boot: []string{filepath.Join(base, "boot")},
		EFIVars: filepath.Join(base, "efi"), BootID: filepath.Join(base, "boot_id"),
	}
	for _, dir := range []string{p.Run, filepath.Join(p.NixVar, "profiles"), p.Boot[0], p.EFIVars} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.save(t)
	write(t, p.BootID, "11111111-2222-3333-4444-555555555555\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(base, "helper"), fmt.Sprintf("#!/bin/sh\n%s=%s/places.json exec %s \"$@\"\n", placesFile, base, self))
	if err := os.Chmod(filepath.Join(base, "helper"), 0o755); err != nil {
		t.Fatal(err)
	}
	host, err := p.host()
	if err != nil {
		t.Fatal(err)
	}
	host.Units = NewProcesses()
	return host
}

// chrootStore makes the host use an empty store of its own, and returns where its paths really are.
func chrootStore(t *testing.T, host *Host) *storetest.Store {
	t.Helper()
	store := storetest.New(t)
	host.OpenStore = func(ctx context.Context) (*daemon.Conn, error) { return daemon.Open(ctx, store.Options()) }
	host.StoreRoot = store.Root
	return store
}

// connect serves a session and returns a client of it.
func connect(t *testing.T, host *Host) (*proto.Client, *session) {
	t.Helper()
	s := newSession(host, t.TempDir(), host.UID)
	s.born = math.MaxInt64 // it is younger than any switch
	t.Cleanup(s.close)
	return connectTo(t, s), s
}

func connectTo(t *testing.T, s *session) *proto.Client {
	t.Helper()
	near, far := bufferedPipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = proto.Serve(context.Background(), far, "0123456789", s)
	}()
	client, err := proto.NewClient(t.Context(), near, proto.Hello{Token: "0123456789"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return client
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(text), "\n")
}

// waitUntil waits for something that another process brings about.
func waitUntil(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o644) }
