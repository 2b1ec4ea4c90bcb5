//go:build linux

package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/closure/storetest"
)

const (
	// ownStore marks the process that has a /nix of its own.
	ownStore       = "FLEET_DIRECT_OWN_STORE"
	ownStoreScript = `set -eu
mount --make-rprivate /
mkdir -p /nix
mount -t tmpfs -o mode=0755 tests /nix
exec "$@"`
	// onDisk names a folder in which the stores of benchmarks are; they are in memory where it is not set. Whoever sets it removes what is left in it.
	onDisk = "FLEET_DIRECT_DISK"
	// onFileSystem is btrfs or xfs where the stores of all tests are to be on such a file system of their own; they are in memory where it is not set.
	onFileSystem = "FLEET_DIRECT_FILESYSTEM"
)

// TestMain runs the tests where /nix is theirs.
func TestMain(m *testing.M) {
	if child := os.Getenv(importChild); child != "" {
		if err := childMain(child); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() == 0 && os.Getenv(ownStore) == "" {
		os.Exit(runWithOwnStore())
	}
	// No test waits for a network, or depends on the machine's settings.
	for name, value := range map[string]string{"NIX_CONFIG": "substituters =\nauto-optimise-store = false\nmin-free = 0", "NIX_REMOTE": ""} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

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

// machineStore mounts an empty store at /nix until the test ends. Options are those of tmpfs.
func machineStore(t testing.TB, options string) {
	t.Helper()
	requireStore(t)
	if kind := os.Getenv(onFileSystem); kind != "" {
		diskStore(t, kind, options)
		return
	}
	source, fs, flags := "tests", "tmpfs", uintptr(0)
	if dir := os.Getenv(onDisk); dir != "" && options == "" {
		// It stays until the process ends: ext4 looks at every inode that was freed a moment ago before it takes another.
		dir, err := os.MkdirTemp(dir, "store-")
		if err != nil {
			t.Fatal(err)
		}
		source, fs, flags = dir, "", unix.MS_BIND
	} else if options == "" {
		options = "mode=0755"
	}
	if err := unix.Mount(source, "/nix", fs, flags, options); err != nil {
		t.Fatal(err)
	}
	initStore(t)
}

// requireStore skips the test where there can be no store of its own.
func requireStore(t testing.TB) {
	t.Helper()
	storetest.RequireNix(t)
	if os.Geteuid() != 0 {
		lacking(t, "root is needed")
	}
}

// initStore makes a store of what was mounted at /nix, which is unmounted when the test ends.
func initStore(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if err := unix.Unmount("/nix", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, dir := range []string{"/nix/store", "/nix/var/nix"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	nix(t, "--init")
}

// lacking skips a test for want of something, or fails it where nothing may be wanting.
func lacking(t testing.TB, what ...any) {
	t.Helper()
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatal(what...)
	}
	t.Skip(what...)
}

// nix runs nix-store on the machine's store.
func nix(t testing.TB, args ...string) string {
	t.Helper()
	out, err := run.Output(context.Background(), run.Cmd{Argv: append([]string{"nix-store"}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// verify fails the test where the store is not whole.
func verify(t testing.TB) {
	t.Helper()
	var output bytes.Buffer
	err := run.Run(context.Background(), run.Cmd{Argv: []string{"nix-store", "--verify", "--check-contents"}, Stderr: &output})
	if err != nil {
		t.Errorf("the store is not whole: %v\n%s", err, output.String())
	}
}

// locksLeft are the lock files in the store.
func locksLeft(t testing.TB) []string {
	t.Helper()
	left, err := filepath.Glob("/nix/store/*.lock")
	if err != nil {
		t.Fatal(err)
	}
	return left
}
