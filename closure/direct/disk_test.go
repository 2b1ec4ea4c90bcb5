//go:build linux

package direct

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
)

// imageSize is that of a file system, in bytes. The file that holds it takes what is written to it.
const imageSize = 12 << 30

// diskStore mounts an empty store at /nix until the test ends, on a file system of that kind in a file. Options are those of tmpfs, of which the
// size in MiB is heeded, and further arguments those of mkfs.
func diskStore(t testing.TB, kind, options string, mkfs ...string) {
	t.Helper()
	requireKernel(t, kind)
	image := filepath.Join(t.TempDir(), "image")
	file, err := os.Create(image)
	check(t, err)
	check(t, file.Truncate(imageSize))
	check(t, file.Close())
	tool(t, append(append([]string{"mkfs." + kind, "-q"}, mkfs...), image)...)
	tool(t, "mount", "-o", "loop", "-t", kind, image, "/nix")
	initStore(t)
	if size := regexp.MustCompile(`size=(\d+)m`).FindStringSubmatch(options); size != nil {
		left, err := strconv.ParseInt(size[1], 10, 64)
		check(t, err)
		leaveSpace(t, left<<20)
	}
}

// requireKernel skips the test where the kernel knows no such file system, or cannot mount a file. What is installed does not change that.
func requireKernel(t testing.TB, kind string) {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	check(t, err)
	if _, err := os.Stat("/dev/loop-control"); err != nil || !slices.Contains(strings.Fields(string(known)), kind) {
		t.Skipf("the kernel cannot mount a file as %s", kind)
	}
}

// tool runs a program without which a test is skipped.
func tool(t testing.TB, argv ...string) {
	t.Helper()
	if _, err := run.Output(context.Background(), run.Cmd{Argv: argv}); err != nil {
		lacking(t, err)
	}
}

// leaveSpace fills /nix until there is so much left.
func leaveSpace(t testing.TB, left int64) {
	t.Helper()
	fd, err := unix.Open("/nix/filler", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Fallocate(fd, 0, 0, available(t)-left))
}

// available is how much space is left in the machine's store, in bytes.
func available(t testing.TB) int64 {
	t.Helper()
	unix.Sync()
	var st unix.Statfs_t
	check(t, unix.Statfs("/nix", &st))
	return int64(st.Bavail) * int64(st.Bsize)
}
