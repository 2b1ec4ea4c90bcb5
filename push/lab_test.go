package push

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/closure"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/transport"
)

const (
	// labVariable marks the process that has an operator's /nix of its own.
	labVariable = "FLEET_PUSH_LAB"
	// labScript gives a test process an empty /nix and /run before it runs.
	labScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 operator /nix
mount -t tmpfs -o mode=0755 run /run
mkdir -p /nix/store /nix/var/nix
chmod 1775 /nix/store
nix-store --init
exec "$@"`
)

// TestMain runs the tests with a store of their own, so that nothing is left in the machine's; and it is the helper on the
// hosts of the tests, which run this binary.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "fleet-helper" {
		os.Exit(helperMain(os.Args[1:]))
	}
	if os.Getenv(labVariable) == "" && labReason() == "" {
		os.Exit(runInLab())
	}
	os.Exit(m.Run())
}

// labReason says what keeps the machine from running hosts, empty where nothing does.
func labReason() string {
	if os.Geteuid() != 0 {
		return "tests with hosts need root"
	}
	for _, program := range []string{"unshare", "sshd", "ssh", "nix-store", "nix-daemon", "sudo", "doas", "openssl"} {
		if err := run.Run(context.Background(), run.Cmd{Argv: []string{"/bin/sh", "-c", "PATH=$PATH:/usr/sbin; command -v " + program}}); err != nil {
			return "tests with hosts need " + program
		}
	}
	return ""
}

func runInLab() int {
	argv := append([]string{"unshare", "--mount", "/bin/sh", "-c", labScript, "lab"}, os.Args...)
	err := run.Run(context.Background(), run.Cmd{
		Argv: argv, Env: []string{labVariable + "=1"}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lab is an operator's machine: a store, a key, and hosts.
type lab struct {
	dir, config string
	hostKey     string
	helper      storepath.Path
	store       *closure.LocalStore
}

// newLab makes a lab for a test that can run beside others.
func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	return newLabAlone(t)
}

// newLabAlone skips the test where hosts cannot run, and fails it where everything is required. All labs have one store.
func newLabAlone(t *testing.T) *lab {
	t.Helper()
	if os.Getenv(labVariable) == "" {
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatal(labReason())
		}
		t.Skip(labReason())
	}
	// Not in /tmp, which is another one on every host.
	dir, err := os.MkdirTemp("/var/tmp", "fleet-push-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{dir: dir, config: filepath.Join(dir, "ssh_config"), store: closure.NewLocalStore(closure.LocalOptions{})}
	t.Cleanup(func() { l.store.Close() })
	l.hostKey = l.key(t, "host_key")
	write(t, filepath.Join(dir, "authorized_keys"), l.key(t, "id"), 0o644)
	write(t, l.config, "IdentityFile "+filepath.Join(dir, "id")+"\nIdentitiesOnly yes\nIdentityAgent none\n", 0o644)
	l.helper = l.addHelper(t)
	return l
}

// key makes a key pair and returns the public half.
func (l *lab) key(t *testing.T, name string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(l.dir, name), string(pem.EncodeToMemory(block)), 0o600)
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line)))
}

// addHelper puts this binary into the operator's store, once a process since it is the same in all labs.
func (l *lab) addHelper(t *testing.T) storepath.Path {
	t.Helper()
	const known = "/nix/helper"
	if text, err := os.ReadFile(known); err == nil {
		path, err := storepath.Parse(string(text))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(l.dir, "helper", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "cp", "--reflink=auto", self, filepath.Join(bin, "fleet-helper"))
	path := l.add(t, filepath.Dir(bin))
	// In one step, since other tests may be looking, or writing the same.
	file := fmt.Sprintf("%s.%s", known, filepath.Base(l.dir))
	write(t, file, path.String(), 0o644)
	if err := os.Rename(file, known); err != nil {
		t.Fatal(err)
	}
	return path
}

// add copies a file or folder into the operator's store.
func (l *lab) add(t *testing.T, path string) storepath.Path {
	t.Helper()
	added, err := storepath.Parse(strings.TrimSpace(command(t, "nix-store", "--add", path)))
	if err != nil {
		t.Fatal(err)
	}
	return added
}

// hostOptions shape a host; the zero value is one with a Nix daemon and a large store.
type hostOptions struct {
	// size is the store's, for mount; empty means large, "none" no Nix at all.
	size string
	// noDaemon leaves Nix to root.
	noDaemon bool
	// conf is added to nix.conf.
	conf string
}

// host is a running host.
type host struct {
	lab  *lab
	port int
}

func (l *lab) host(t *testing.T, o hostOptions) *host {
	t.Helper()
	if o.size == "" {
		o.size = "2g"
	}
	nix := "daemon"
	if o.noDaemon {
		nix = "root"
	}
	dir, err := os.MkdirTemp(l.dir, "host-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{lab: l, port: freePort(t)}
	log := &lockedTail{tail: tail{max: 16 << 10}}
	ctx, cancel := context.WithCancel(context.Background())
	process, err := run.Start(ctx, run.Cmd{
		Argv: []string{"unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "/bin/sh",
			"testdata/host.sh", l.dir, dir, strconv.Itoa(h.port), o.size, nix, o.conf},
		Stdout: log, Stderr: log, Grace: 100 * time.Millisecond,
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-process.Done()
		if t.Failed() {
			t.Logf("host: %s", log)
		}
	})
	h.await(t, process)
	return h
}

// await waits until sshd listens.
func (h *host) await(t *testing.T, process *run.Process) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", h.address())
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-process.Done():
			t.Fatalf("host ended: %v", process.Wait())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("host does not listen")
		}
	}
}

func (h *host) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(h.port)) }

// spec names the host for a login user.
func (h *host) spec(user string) HostSpec {
	return HostSpec{
		Target:    transport.Target{Host: "web", Address: "127.0.0.1", Port: h.port, User: user, HostKeys: []string{h.lab.hostKey}},
		Elevation: elevationAuto, System: system(),
	}
}

// sh runs a command on the host as root, beside any session, and returns its output.
func (h *host) sh(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := h.lab.dialer().Dial(ctx, h.spec("root").Target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Start(ctx, command, transport.ChannelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	errs := drain(ch.Stderr())
	var out bytes.Buffer
	if _, err := out.ReadFrom(ch); err != nil {
		t.Fatal(err)
	}
	if err := ch.Wait(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, errs())
	}
	return strings.TrimSpace(out.String())
}

// openssh is the other transport to hosts.
func (l *lab) openssh() transport.Dialer {
	return transport.NewOpenSSH(transport.Options{ConfigFile: l.config})
}

func (l *lab) dialer() transport.Dialer {
	return transport.NewNative(transport.Options{ConfigFile: l.config})
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func system() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch()] + "-linux"
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) helperFor(_ context.Context, want string) (storepath.Path, error) {
	return l.helper, nil
}

// recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []plan.Event
}

func (r *recorder) Emit(e plan.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// count returns how many events' messages contain text.
func (r *recorder) count(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if strings.Contains(e.Message, text) {
			n++
		}
	}
	return n
}
