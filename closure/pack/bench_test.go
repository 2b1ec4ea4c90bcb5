package pack

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// BenchmarkPack measures packing and unpacking at each level: bytes that are sent as a percentage of the NARs ("%bytes"), and NAR bytes
// a second, beside one zstd stream of the same NARs.
//
//	FLEET_PACK_TREES="/usr/bin /usr/lib/x86_64-linux-gnu" go test -run '^$' -bench Pack -benchtime 1x ./closure/pack
//
// Each entry of these folders becomes a store path, until there are 256 MiB of NARs. FLEET_PACK_PAIRS adds pairs of folders, "old:new" separated
// by spaces, for instance of two releases of a package. Without the variables there are only small paths.
func BenchmarkPack(b *testing.B) {
	w := newWorld(20)
	old, infos := tiny(w, 1500, 4000)
	renewed, items := rebuilt(w, old, infos)
	benchCase(b, "tiny fresh", renewed, renewed, withoutBases(items))
	benchCase(b, "tiny rebuild", renewed, old, items)
	benchPairs(b, w)
	trees := strings.Fields(os.Getenv("FLEET_PACK_TREES"))
	if len(trees) == 0 {
		return
	}
	old, infos = planted(b, w, trees)
	renewed, items = rebuilt(w, old, infos)
	benchCase(b, "trees fresh", renewed, renewed, withoutBases(items))
	benchCase(b, "trees rebuild", renewed, old, items)
}

func benchPairs(b *testing.B, w world) {
	for _, pair := range strings.Fields(os.Getenv("FLEET_PACK_PAIRS")) {
		from, to, _ := strings.Cut(pair, ":")
		s := newStore()
		base := s.add(w.path("base"), dumped(b, from))
		items := []Item{{Info: s.add(w.path("path"), dumped(b, to)), Base: base}}
		benchCase(b, filepath.Base(to)+" fresh", s, s, withoutBases(items))
		benchCase(b, filepath.Base(to)+" upgrade", s, s, items)
	}
}

func withoutBases(items []Item) []Item {
	var fresh []Item
	for _, item := range items {
		fresh = append(fresh, Item{Info: item.Info})
	}
	return fresh
}

// planted makes store paths of the entries of folders, with store paths all over their NARs.
func planted(b *testing.B, w world, folders []string) (*store, []storepath.Info) {
	const most = 256 << 20
	s := newStore()
	var infos []storepath.Info
	var paths []storepath.Path
	total := 0
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			b.Fatal(err)
		}
		for _, entry := range entries {
			var out bytes.Buffer
			if err := nar.Dump(&out, filepath.Join(folder, entry.Name())); err != nil || total+out.Len() > most {
				continue
			}
			path, err := storepath.ParseBase(w.hash() + "-" + entry.Name())
			if err != nil {
				continue
			}
			total += out.Len()
			refs := plant(w, out.Bytes(), paths, path)
			infos = append(infos, s.add(path, out.Bytes(), refs...))
			paths = append(paths, path)
		}
	}
	b.Logf("%d paths, %d bytes of NARs", len(infos), total)
	return s, infos
}

// plant writes store paths into data, every 20 KB or so.
func plant(w world, data []byte, paths []storepath.Path, self storepath.Path) []storepath.Path {
	refs := []storepath.Path{self}
	for range min(len(paths), 1+w.IntN(8)) {
		if ref := paths[w.IntN(len(paths))]; !contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for at := 200 + w.IntN(2000); at+50 < len(data); at += 1 + w.IntN(40_000) {
		copy(data[at:], storepath.StoreDir+"/"+refs[w.IntN(len(refs))].Hash()+"-")
	}
	return refs
}

func benchCase(b *testing.B, name string, views, have *store, items []Item) {
	total := int64(0)
	for _, item := range items {
		total += int64(item.Info.NarSize)
	}
	for level := range levels {
		b.Run(name+"/pack "+level.String(), func(b *testing.B) {
			defer measure(b, total)()
			for b.Loop() {
				size, _, _ := sumOf(packAll(b, views, items, level))
				b.ReportMetric(100*float64(size)/float64(total), "%bytes")
			}
		})
		if level == Stored {
			continue
		}
		b.Run(name+"/stream "+level.String(), func(b *testing.B) { benchStream(b, views, items, level, total) })
		if level != Default {
			continue
		}
		units := packAll(b, views, items, level)
		b.Run(name+"/unpack", func(b *testing.B) {
			defer measure(b, total)()
			for b.Loop() {
				if err := unpackAll(have, discard{}, units); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// measure reports NAR bytes a second of the clock, and a second of the processor ("MB/cpu-s"), which does not depend on what else the machine does.
func measure(b *testing.B, total int64) (end func()) {
	b.SetBytes(total)
	start := processor(b)
	return func() {
		b.ReportMetric(float64(total)*float64(b.N)/1e6/(processor(b)-start).Seconds(), "MB/cpu-s")
	}
}

func processor(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// benchStream compresses the NARs as one stream, with the window that the level brings along.
func benchStream(b *testing.B, views *store, items []Item, level Level, total int64) {
	if strings.HasSuffix(b.Name(), "rebuild/stream "+level.String()) {
		b.Skip("it is that of the fresh paths")
	}
	defer measure(b, total)()
	for b.Loop() {
		var out countingWriter
		levels := [...]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression}
		z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(levels[level]), zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		for _, item := range items {
			if _, err := z.Write(views.nars[item.Info.Path]); err != nil {
				b.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(100*float64(out)/float64(total), "%bytes")
	}
}

type countingWriter int64

func (w *countingWriter) Write(data []byte) (int, error) {
	*w += countingWriter(len(data))
	return len(data), nil
}

// discard is a sink that reads and forgets.
type discard struct{}

func (discard) Path(_ context.Context, _ storepath.Info, _ storepath.Path, nar io.Reader) error {
	_, err := io.Copy(io.Discard, nar)
	return err
}
