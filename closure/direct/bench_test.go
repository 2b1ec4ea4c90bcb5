//go:build linux

package direct

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

// workload is about 1,500 paths of 120 MB: trees of a machine's own files, and 1,000 tiny ones.
func workload(t testing.TB) []item {
	t.Helper()
	const trees, treeBytes, tiny = 500, 120_000, 1000
	var files []string
	for _, dir := range []string{"/usr/bin", "/usr/lib"} {
		_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, name)
			}
			return nil
		})
	}
	var items []item
	for i := 0; i < trees && len(files) > 0; i++ {
		var archive bytes.Buffer
		w := nar.NewWriter(&archive)
		err := w.Directory("")
		for j := 0; len(files) > 0 && j < 30 && archive.Len() < treeBytes; j++ {
			data, readErr := os.ReadFile(files[0])
			files = files[1:]
			if readErr != nil || len(data) > 20*treeBytes {
				continue
			}
			err = errors.Join(err, w.File(fmt.Sprintf("file-%02d", j), i%2 == 0, uint64(len(data)), bytes.NewReader(data)))
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		items = append(items, packed(t, fmt.Sprintf("tree-%d", i), archive.Bytes(), some(items)...))
	}
	for i := range tiny {
		text := fmt.Sprintf("#!/bin/sh\n# %d\n", i)
		var archive bytes.Buffer
		w := nar.NewWriter(&archive)
		if err := errors.Join(w.File("", true, uint64(len(text)), bytes.NewReader([]byte(text))), w.Close()); err != nil {
			t.Fatal(err)
		}
		items = append(items, packed(t, fmt.Sprintf("tiny-%d", i), archive.Bytes(), some(items)...))
	}
	return items
}

// some are a few of the items that came before.
func some(items []item) []storepath.Path {
	var refs []storepath.Path
	for i := len(items) - 1; i >= 0 && len(refs) < 4; i = i/2 - 1 {
		refs = append(refs, items[i].info.Path)
	}
	return refs
}

// exported writes the stream of `nix-store --export`.
func exported(items []item) []byte {
	var out bytes.Buffer
	number := func(n uint64) { _ = binary.Write(&out, binary.LittleEndian, n) }
	text := func(s string) {
		number(uint64(len(s)))
		out.WriteString(s)
		out.Write(make([]byte, -len(s)&7))
	}
	for _, it := range items {
		number(1)
		out.Write(it.nar)
		number(0x4558494e)
		text(it.info.Path.String())
		number(uint64(len(it.info.References)))
		for _, ref := range it.info.References {
			text(ref.String())
		}
		text("")
		number(0)
	}
	number(0)
	return out.Bytes()
}

// TestMeasure compares the ways to import in one run, when FLEET_DIRECT_ROUNDS says how often. The clock ends when all is on the disk.
func TestMeasure(t *testing.T) {
	var rounds int
	if _, err := fmt.Sscan(os.Getenv("FLEET_DIRECT_ROUNDS"), &rounds); err != nil {
		t.Skip("set FLEET_DIRECT_ROUNDS, and FLEET_DIRECT_DISK to a folder on a disk")
	}
	items := workload(t)
	signed := slices.Clone(items)
	for i := range signed {
		signed[i].info.Signatures = []string{"cache.example.org-1:" + string(bytes.Repeat([]byte("A"), 86)) + "=="}
	}
	var size int
	for _, it := range items {
		size += len(it.nar)
	}
	stream := exported(items)
	withDaemon := func(items []item, connections int) func() error {
		return func() error {
			im := closure.NewImporter(t.Context(), closure.ImportOptions{SkipSignatures: true, Connections: connections})
			for _, it := range items {
				if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
					return err
				}
			}
			return errors.Join(im.Wait(), im.Close())
		}
	}
	ways := []struct {
		name string
		run  func() error
	}{
		{"closure.Importer, 4 connections", withDaemon(items, 4)},
		{"closure.Importer, 1 connection", withDaemon(items, 1)},
		{"nix-store --import", func() error {
			return run.Run(t.Context(), run.Cmd{Argv: []string{"nix-store", "--import"}, Stdin: bytes.NewReader(stream), Stdout: io.Discard})
		}},
		{"direct, 4 workers", func() error { return importAll(t.Context(), Options{Workers: 4}, items) }},
		{"direct", func() error { return importAll(t.Context(), Options{}, items) }},
		{"direct, protected by the caller", func() error { return importAll(t.Context(), Options{Protected: true}, items) }},
		{"direct, all signed", func() error { return importAll(t.Context(), Options{Protected: true}, signed) }},
		{"closure.Importer, all signed", withDaemon(signed, 4)},
	}
	registered, synced, cpu := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
	for round := range rounds {
		for i := range ways {
			i = (i + round) % len(ways)
			t.Run(fmt.Sprintf("%d %s", round, ways[i].name), func(t *testing.T) {
				machineStore(t, "")
				unix.Sync()
				used, start := cpuTime(t), time.Now()
				if err := ways[i].run(); err != nil {
					t.Fatal(err)
				}
				registered[i], cpu[i] = append(registered[i], time.Since(start)), append(cpu[i], cpuTime(t)-used)
				unix.Sync()
				synced[i] = append(synced[i], time.Since(start))
			})
		}
	}
	t.Logf("%d paths, %d MB of NARs, %d rounds", len(items), size>>20, rounds)
	t.Logf("%-34s %10s %22s %8s %10s %8s %8s", "", "registered", "", "times", "synced", "times", "CPU")
	for i, way := range ways {
		m, d := median(registered[i]), median(synced[i])
		t.Logf("%-34s %8.3f s (%7.3f to %7.3f) %7.2fx %8.3f s %7.2fx %6.2f s", way.name, m.Seconds(), slices.Min(registered[i]).Seconds(),
			slices.Max(registered[i]).Seconds(), median(registered[0]).Seconds()/m.Seconds(), d.Seconds(), median(synced[0]).Seconds()/d.Seconds(), median(cpu[i]).Seconds())
	}
}

// cpuTime is what this process and those that it waited for have used of the processors.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if err := unix.Getrusage(who, &usage); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return sum
}

func median(times []time.Duration) time.Duration {
	times = slices.Clone(times)
	slices.Sort(times)
	return times[len(times)/2]
}

// BenchmarkImport measures this package alone.
func BenchmarkImport(b *testing.B) {
	items := workload(b)
	for b.Loop() {
		b.StopTimer()
		machineStore(b, "")
		b.StartTimer()
		if err := importAll(context.Background(), Options{}, items); err != nil {
			b.Fatal(err)
		}
	}
}
