package closure_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

// system makes paths of about a size in bytes, each of which refers to some before it.
func system(b *testing.B, salt string, count, size int) ([]closure.PathInfo, [][]byte) {
	dice := rand.New(rand.NewPCG(3, 4))
	var infos []closure.PathInfo
	var nars [][]byte
	for i := range count {
		lines := strings.Repeat(fmt.Sprintf("line %d\n", dice.IntN(1e9)), 1+dice.IntN(size)/8)
		text := storetest.Text{Name: fmt.Sprintf("unit-%d", i), Contents: salt + lines}
		for range min(i, 3) {
			text.References = append(text.References, infos[dice.IntN(i)].Path)
		}
		storepath.Sort(text.References)
		text.References = slices.Compact(text.References)
		info, nar := storetest.Prepare(b, text)
		infos, nars = append(infos, info), append(nars, nar)
	}
	return infos, nars
}

// BenchmarkImport imports paths into a store through its daemon. What several connections gain depends on the paths: small ones are little more than their
// registration, of which the store does one at a time.
func BenchmarkImport(b *testing.B) {
	for name, load := range map[string]struct{ count, size int }{"small": {1500, 4 << 10}, "large": {60, 4 << 20}} {
		for _, connections := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/connections=%d", name, connections), func(b *testing.B) {
				store := storetest.New(b)
				options := closure.ImportOptions{
					Daemon: daemon.Options{Socket: store.Socket()}, SkipSignatures: true, Connections: connections, Memory: 32 << 20,
				}
				for round := 0; b.Loop(); round++ {
					b.StopTimer()
					infos, nars := system(b, fmt.Sprint(round, " "), load.count, load.size)
					b.StartTimer()
					b.SetBytes(importAll(b, options, infos, nars))
				}
				b.ReportMetric(float64(load.count*b.N)/b.Elapsed().Seconds(), "paths/s")
			})
		}
	}
}

// importAll returns how many bytes of NARs it has imported.
func importAll(b *testing.B, options closure.ImportOptions, infos []closure.PathInfo, nars [][]byte) (total int64) {
	im := closure.NewImporter(b.Context(), options)
	defer im.Close()
	for i, info := range infos {
		total += int64(info.NarSize)
		if err := im.Import(info, bytes.NewReader(nars[i])); err != nil {
			b.Fatal(err)
		}
	}
	if err := im.Wait(); err != nil {
		b.Fatal(err)
	}
	return total
}
