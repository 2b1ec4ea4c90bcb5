//go:build linux

package direct

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// TestMeasureClones compares imports of a workload that was built anew with and without its bases, when FLEET_DIRECT_ROUNDS says how often. In the first, each
// file has other hash parts, one in 300 kB; in the second nothing is where it was. The bases are in memory, as after deltas, or are not.
func TestMeasureClones(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("FLEET_DIRECT_ROUNDS"))
	if err != nil {
		t.Skip("set FLEET_DIRECT_ROUNDS")
	}
	old := workload(t)
	renewed := map[string][]item{"hash parts": rebuilt(t, old, 300_000), "everything": rebuilt(t, old, compareBlock)}
	for range rounds {
		for what, items := range renewed {
			for _, kind := range []string{"btrfs", "xfs"} {
				for _, inMemory := range []bool{true, false} {
					for _, shares := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s/%s/in memory %v/shares %v", what, kind, inMemory, shares), func(t *testing.T) {
							bases := make(map[storepath.Path]storepath.Path)
							for i := range items {
								bases[items[i].info.Path] = old[i].info.Path
							}
							var opts Options
							if shares {
								opts.Base = func(path storepath.Path) storepath.Path { return bases[path] }
							}
							measureClones(t, kind, old, items, inMemory, opts)
						})
					}
				}
			}
		}
	}
}

func measureClones(t *testing.T, kind string, old, items []item, inMemory bool, opts Options) {
	t.Helper()
	requireStore(t)
	diskStore(t, kind, "")
	check(t, importAll(t.Context(), Options{}, old))
	space := settled(t)
	if !inMemory {
		check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	}
	read, written, used, start := sectors(t, 2), sectors(t, 6), cpuTime(t), time.Now()
	check(t, importAll(t.Context(), opts, items))
	registered, cpu := time.Since(start), cpuTime(t)-used
	unix.Sync()
	synced := time.Since(start)
	read, written = sectors(t, 2)-read, sectors(t, 6)-written
	t.Logf("registered %.2f s, synced %.2f s, CPU %.2f s, read %d MB, written %d MB, space %d MB",
		registered.Seconds(), synced.Seconds(), cpu.Seconds(), read>>11, written>>11, (space-settled(t))>>20)
}

// settled is how much space is left once an xfs has given back what it had set aside for writes to come.
func settled(t testing.TB) int64 {
	t.Helper()
	check(t, unix.Mount("", "/nix", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	space := available(t)
	check(t, unix.Mount("", "/nix", "", unix.MS_REMOUNT, ""))
	return space
}

// sectors is a number from the statistics of the store's block device.
func sectors(t testing.TB, field int) int64 {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	device := ""
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[1] == "/nix" {
			device = fields[0]
		}
	}
	stat, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	check(t, err)
	number, err := strconv.ParseInt(strings.Fields(string(stat))[field], 10, 64)
	check(t, err)
	return number
}

// rebuilt are the same trees with other hash parts in them, one in each step bytes of a file.
func rebuilt(t testing.TB, items []item, step int) []item {
	t.Helper()
	result := make([]item, len(items))
	for i, it := range items {
		var archive bytes.Buffer
		w := nar.NewWriter(&archive)
		check(t, errors.Join(nar.Parse(bytes.NewReader(it.nar), rebuilder{w, step}), w.Close()))
		_, name, _ := strings.Cut(it.info.Path.Base(), "-")
		result[i] = packed(t, name, archive.Bytes())
	}
	return result
}

type rebuilder struct {
	*nar.Writer
	step int
}

func (r rebuilder) File(path string, executable bool, size uint64, contents io.Reader) error {
	data, err := io.ReadAll(contents)
	if err != nil {
		return err
	}
	for at := r.step / 400; at < len(data); at += r.step {
		copy(data[at:], "0123456789abcdfghijklmnpqrsvwxyz")
	}
	return r.Writer.File(path, executable, size, bytes.NewReader(data))
}
