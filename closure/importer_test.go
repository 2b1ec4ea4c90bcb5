package closure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

func importAll(t *testing.T, im *Importer, source Source, graph *Graph) error {
	t.Helper()
	for _, path := range graph.Topological() {
		info, _ := graph.Info(path)
		var nar bytes.Buffer
		if err := source.NAR(t.Context(), path, &nar); err != nil {
			return err
		}
		if err := im.Import(info, &nar); err != nil {
			return err
		}
	}
	return im.Wait()
}

func TestImporterRegistersAndProtects(t *testing.T) {
	_, source, graph := filled(t)
	for name, memory := range map[string]int64{"in memory": 0, "streamed": 16} {
		t.Run(name, func(t *testing.T) {
			target := storetest.New(t)
			var mu sync.Mutex
			done := make(map[storepath.Path]bool)
			im := NewImporter(t.Context(), ImportOptions{Daemon: target.Options(), SkipSignatures: true, Connections: 3, Memory: memory, Done: func(p storepath.Path) {
				mu.Lock()
				defer mu.Unlock()
				done[p] = true
			}})
			defer im.Close()
			if err := importAll(t, im, source, graph); err != nil {
				t.Fatal(err)
			}
			target.Nix("--gc")
			for _, path := range graph.Paths() {
				target.Nix("--verify-path", path.String())
				if !done[path] {
					t.Errorf("%s was not reported", path)
				}
			}
			if err := errors.Join(im.Close(), im.Close()); err != nil {
				t.Error(err)
			}
			target.Nix("--gc")
			if _, err := os.Lstat(target.RealPath(graph.Roots()[0])); !errors.Is(err, os.ErrNotExist) {
				t.Error("the protection outlived the importer:", err)
			}
		})
	}
}

func TestImporterWorksThroughManyPaths(t *testing.T) {
	target := storetest.New(t)
	im := NewImporter(t.Context(), ImportOptions{Daemon: target.Options(), SkipSignatures: true, Memory: 64 << 10})
	defer im.Close()
	var all []storepath.Path
	for i := range 400 {
		text := storetest.Text{Name: fmt.Sprintf("path-%d", i), Contents: strings.Repeat("x", i*50)}
		if i > 2 {
			text.References = []storepath.Path{all[i-1], all[i/2]}
		}
		info, nar := storetest.Prepare(t, text)
		info.References = sortedUnique(info.References)
		if err := im.Import(info, bytes.NewReader(nar)); err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Path)
	}
	if err := im.Wait(); err != nil {
		t.Fatal(err)
	}
	valid, err := localStore(t, target).Valid(t.Context(), all...)
	if err != nil || len(valid) != len(all) {
		t.Errorf("%d of %d are valid, %v", len(valid), len(all), err)
	}
}

func TestImporterRefuses(t *testing.T) {
	target := storetest.New(t)
	source := target.Connect()
	good, goodNAR := storetest.Prepare(t, storetest.Text{Name: "good", Contents: strings.Repeat("good", 100)})
	missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
	dangling, danglingNAR := storetest.Prepare(t, storetest.Text{Name: "dangling", References: []storepath.Path{missing.Path}})
	tampered := bytes.Replace(goodNAR, []byte("good"), []byte("evil"), 1)
	var corrupt *CorruptError
	var refused *daemon.Error
	for _, test := range []struct {
		rule   string
		info   PathInfo
		nar    []byte
		opts   ImportOptions
		target any
	}{
		{"a NAR that was changed", good, tampered, ImportOptions{SkipSignatures: true}, &corrupt},
		{"a large NAR that was changed", good, tampered, ImportOptions{SkipSignatures: true, Memory: 16}, &corrupt},
		{"a NAR that was cut", good, goodNAR[:100], ImportOptions{SkipSignatures: true}, &corrupt},
		{"a missing reference", dangling, danglingNAR, ImportOptions{SkipSignatures: true}, &refused},
		{"a missing signature", good, goodNAR, ImportOptions{}, &refused},
	} {
		t.Run(test.rule, func(t *testing.T) {
			test.opts.Daemon = target.Options()
			im := NewImporter(t.Context(), test.opts)
			defer im.Close()
			_ = im.Import(test.info, bytes.NewReader(test.nar))
			if err := im.Wait(); !errors.As(err, test.target) {
				t.Error(err)
			}
			if err := im.Import(good, bytes.NewReader(goodNAR)); err == nil {
				t.Error("something was imported after an error")
			}
			if valid, err := source.QueryValidPaths(t.Context(), []storepath.Path{test.info.Path}, daemon.ValidPathsOptions{}); err != nil || len(valid) > 0 {
				t.Errorf("registered: %v, %v", valid, err)
			}
		})
	}
}

func TestSignedPathsNeedNoTrust(t *testing.T) {
	key, err := ParseSigningKey(generatedKey(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONFIG", "trusted-public-keys = "+key.PublicKey().String())
	target := storetest.New(t)
	info, nar := storetest.Prepare(t, storetest.Text{Name: "signed"})
	info.Signatures = []string{key.Sign(info)}
	im := NewImporter(t.Context(), ImportOptions{Daemon: target.Options()})
	defer im.Close()
	if err := errors.Join(im.Import(info, bytes.NewReader(nar)), im.Wait()); err != nil {
		t.Error(err)
	}
}

func TestImporterEndsWithItsContext(t *testing.T) {
	target := storetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	im := NewImporter(ctx, ImportOptions{Daemon: target.Options(), SkipSignatures: true})
	cancel()
	info, nar := storetest.Prepare(t, storetest.Text{Name: "late"})
	if err := im.Import(info, bytes.NewReader(nar)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := im.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkImport imports 1,500 small paths of about 60 MB into an empty store.
func BenchmarkImport(b *testing.B) {
	type prepared struct {
		info PathInfo
		nar  []byte
	}
	var all []prepared
	var size int64
	for i := range 1500 {
		text := storetest.Text{Name: fmt.Sprintf("path-%d", i), Contents: strings.Repeat("x", 40_000)}
		if i > 10 {
			text.References = []storepath.Path{all[i/2].info.Path}
		}
		info, nar := storetest.Prepare(b, text)
		all = append(all, prepared{info, nar})
		size += int64(len(nar))
	}
	for _, connections := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("%d connections", connections), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				target := storetest.New(b)
				im := NewImporter(b.Context(), ImportOptions{Daemon: target.Options(), SkipSignatures: true, Connections: connections})
				b.StartTimer()
				for _, p := range all {
					if err := im.Import(p.info, bytes.NewReader(p.nar)); err != nil {
						b.Fatal(err)
					}
				}
				if err := errors.Join(im.Wait(), im.Close()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
