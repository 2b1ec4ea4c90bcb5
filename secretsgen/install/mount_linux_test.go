package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func background() context.Context { return context.Background() }

// mountVariable names the test that runs in a mount namespace of its own, see inNamespace.
const mountVariable = "FLEET_TEST_INSTALL_MOUNT"

// inNamespace runs the test again in a process with mounts of its own, which are gone with it; true in there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	requireRoot(t)
	if os.Getenv(mountVariable) == t.Name() {
		return true
	}
	cmd := (&bench{t: t}).self("-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mountVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// mounts describes what is mounted on a folder: "TYPE OPTIONS OPTIONS", one line a mount.
func (b *bench) mounts(folder string) []string {
	b.t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	b.must(err)
	var list []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[4] == folder {
			end := len(fields)
			list = append(list, fields[end-3]+" "+fields[5]+" "+fields[end-1])
		}
	}
	return list
}

// tmpfs mounts a file system of its own, as /run is.
func (b *bench) tmpfs(name, options string) {
	b.t.Helper()
	b.must(unix.Mount("test", b.path(name), "tmpfs", 0, options))
	b.t.Cleanup(func() { _ = unix.Unmount(b.path(name), unix.MNT_DETACH) })
}

func TestGenerationsAreInMemoryThatIsNeverSwapped(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBench(t)
	b.tmpfs("run", "mode=0755")
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	opt := b.options()
	opt.Mount = true
	install := func() {
		t.Helper()
		if report, err := Install(t.Context(), b.m, opt); err != nil || len(report.Failed) > 0 {
			t.Fatal(report, err)
		}
	}
	install()
	b.want(map[string]string{"run/secrets/db/secret": "hunter2 990:96 0440"})
	mounts := b.mounts(b.path("run/secrets.d"))
	if len(mounts) != 1 {
		t.Fatal(mounts)
	}
	for _, want := range []string{"tmpfs ", "nosuid", "nodev", "noexec", "noswap", "size=65536k", "mode=751"} {
		if !strings.Contains(mounts[0], want) {
			t.Errorf("%s has no %s", mounts[0], want)
		}
	}
	before := b.snapshot("run")
	install()
	if diff := cmp.Diff(before, b.snapshot("run")); diff != "" || len(b.mounts(b.path("run/secrets.d"))) != 1 {
		t.Error("a rerun mounts or changes something", diff)
	}
	// More than fits makes it larger, and keeps it out of swap.
	for i := range 20 {
		b.m.Secrets = append(b.m.Secrets, b.secret(fmt.Sprint("large", i), strings.Repeat("x", 1<<20)))
	}
	install()
	install()
	if mounts := b.mounts(b.path("run/secrets.d")); len(mounts) != 1 || strings.Contains(mounts[0], "size=65536k") || !strings.Contains(mounts[0], "noswap") || !strings.Contains(mounts[0], "noexec") {
		t.Error(mounts)
	}
	// The users' phase has a mount of its own.
	opt.Phase = PhaseUsers
	b.m.Secrets[0].NeededForUsers = true
	install()
	if mounts := b.mounts(b.path("run/secrets-for-users.d")); len(mounts) != 1 || !strings.Contains(mounts[0], "noswap") {
		t.Error(mounts)
	}
}

func TestAKernelThatDoesNotKnowNoswapGetsARamfs(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBench(t)
	t.Cleanup(func() { _ = unix.Unmount(b.path("run"), unix.MNT_DETACH) })
	b.must(mountFirst(b.path("run"), [][2]string{{"tmpfs", "no-such-option"}, {"ramfs", "mode=0751"}}))
	if mounts := b.mounts(b.path("run")); len(mounts) != 1 || !strings.HasPrefix(mounts[0], "ramfs") || !strings.Contains(mounts[0], "noexec") {
		t.Error(mounts)
	}
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	b.good()
	if err := mountFirst(b.path("absent"), [][2]string{{"tmpfs", ""}, {"ramfs", ""}}); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

func TestWhatIsMountedAlreadyIsUsedWhereItIsInMemory(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBench(t)
	b.tmpfs("run", "mode=0755")
	b.must(os.Mkdir(b.path("run/secrets.d"), 0o700))
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	opt := b.options()
	opt.Mount = true
	for kind, options := range map[string]string{"ramfs": "mode=0700", "tmpfs": "size=4k", "tmpfs large": "size=1g"} {
		fstype, _, _ := strings.Cut(kind, " ")
		b.must(unix.Mount("theirs", b.path("run/secrets.d"), fstype, 0, options))
		before := len(b.mounts(b.path("run/secrets.d")))
		if _, err := Install(t.Context(), b.m, opt); err != nil {
			t.Error(kind, err)
		}
		b.want(map[string]string{"run/secrets/db/secret": "hunter2 990:96 0440"})
		if n := len(b.mounts(b.path("run/secrets.d"))); n != before {
			t.Errorf("%s: %d mounts", kind, n)
		}
		b.must(unix.Unmount(b.path("run/secrets.d"), 0))
	}
	b.must(unix.Mount(b.path("links"), b.path("run/secrets.d"), "", unix.MS_BIND, "")) // a disk
	if _, err := Install(t.Context(), b.m, opt); err == nil || !strings.Contains(err.Error(), "not in memory") {
		t.Error("secrets were written to a disk:", err)
	}
	if left, err := os.ReadDir(b.path("links")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

// TestAFullFileSystemLeavesTheOldGenerationInUse fills file systems of all sizes up to one that is large enough.
func TestAFullFileSystemLeavesTheOldGenerationInUse(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := newBench(t)
	fits := 0
	for blocks := 12; fits < 3; blocks += 2 {
		b.must(os.MkdirAll(b.path("run/secrets.d"), 0o755))
		b.must(unix.Mount("small", b.path("run/secrets.d"), "tmpfs", 0, fmt.Sprintf("nr_blocks=%d", blocks)))
		b.m.Secrets = []Secret{b.secret("db", "old")}
		b.good()
		look := b.look()
		b.m.Secrets = []Secret{b.secret("db", "new"), b.secret("a", strings.Repeat("a", 100000)), b.secret("z", strings.Repeat("z", 50000))}
		_, err := Install(t.Context(), b.m, b.options())
		var hint interface{ Hint() string }
		switch {
		case err == nil:
			fits++
		case !errors.Is(err, unix.ENOSPC) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), b.path("run/secrets.d")) || !strings.Contains(err.Error(), "stay in use"):
			t.Fatal(err)
		case b.look() != look:
			t.Fatal("the old generation is not in use any more")
		case len(b.generations("secrets")) != 1:
			t.Fatal("something was left", b.generations("secrets"))
		default: // and what fits can be installed still
			b.m.Secrets = b.m.Secrets[:1]
			b.good()
			b.want(map[string]string{"run/secrets/db/secret": "new 990:96 0440"})
		}
		b.must(unix.Unmount(b.path("run/secrets.d"), 0))
		b.must(os.Remove(b.path("run/secrets")))
	}
}

// BenchmarkInstall200Secrets installs 200 secrets on a host; the goal is 1 s.
func BenchmarkInstall200Secrets(bm *testing.B) {
	requireRoot(bm)
	b := newBench(bm)
	dir, err := os.MkdirTemp("/dev/shm", "fleet-install-")
	b.must(err)
	bm.Cleanup(func() { _ = os.RemoveAll(dir) })
	var manifests [2]*Manifest
	for k := range manifests {
		m := clone(bm, b.m)
		for i := range 200 {
			m.Secrets = append(m.Secrets, b.secret(fmt.Sprint("secret-", i), strings.Repeat("x", 64)))
		}
		manifests[k] = m
	}
	data, err := json.Marshal(manifests[0])
	b.must(err)
	bm.Logf("the manifest has %d KiB", len(data)>>10)
	opt := b.options()
	opt.Root = dir
	for i := 0; bm.Loop(); i++ { // every round installs 200 new values
		start := time.Now()
		if report, err := Install(bm.Context(), manifests[i%2], opt); err != nil || len(report.Failed) > 0 {
			bm.Fatal(report, err)
		}
		if took := time.Since(start); took > time.Second {
			bm.Errorf("took %v, more than 1 s", took)
		}
	}
}
