package closure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// cutter opens connections that can be cut, as where a daemon is killed.
type cutter struct {
	socket string
	mu     sync.Mutex
	conns  []net.Conn
	opened int
}

func (c *cutter) open(ctx context.Context) (*daemon.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns, c.opened = append(c.conns, conn), c.opened+1
	return daemon.NewConn(ctx, conn, daemon.ConnOptions{})
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func TestImporterReplacesADaemonThatHasDied(t *testing.T) {
	c := &cutter{socket: storetest.New(t).Socket()}
	done := make(chan storepath.Path, 100)
	released := 0
	im := NewImporter(t.Context(), ImportOptions{
		Open: c.open, Release: func(conn *daemon.Conn) { released++; _ = conn.Close() },
		SkipSignatures: true, Connections: 2, Memory: 4 << 10, Done: func(p storepath.Path) { done <- p },
	})
	defer im.Close()
	for i := range 6 {
		// The first of two is held in memory, the second is streamed.
		info, nar := storetest.Prepare(t, storetest.Text{Name: "path", Contents: fmt.Sprint(i, strings.Repeat("x", i%2*2000))})
		if err := im.Import(info, bytes.NewReader(nar)); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != info.Path {
			t.Fatalf("%s was registered, not %s", got, info.Path)
		}
		c.cut()
	}
	if err := errors.Join(im.Wait(), im.Close()); err != nil {
		t.Error(err)
	}
	if c.opened < 4 || released == 0 || released > 2 {
		t.Errorf("%d connections were opened, %d given back", c.opened, released)
	}
}

func TestAStreamEndsWhenAnotherPathFails(t *testing.T) {
	target := storetest.New(t)
	im := NewImporter(t.Context(), ImportOptions{Daemon: target.Options(), SkipSignatures: true, Connections: 2, Memory: 4 << 10})
	defer im.Close()
	bad, badNAR := storetest.Prepare(t, storetest.Text{Name: "bad"})
	bad.NarHash[0] ^= 1
	if err := im.Import(bad, bytes.NewReader(badNAR)); err != nil {
		t.Fatal(err)
	}
	large, largeNAR := storetest.Prepare(t, storetest.Text{Name: "large", Contents: strings.Repeat("x", 1<<20)})
	read := 0
	endless := readerFunc(func(p []byte) (int, error) {
		// The rest comes only once the other path has failed.
		if read++; read > 1 {
			im.group.Wait()
		}
		return copy(p, largeNAR[:min(len(p), 100)]), nil
	})
	var corrupt *CorruptError
	if err := im.Import(large, endless); !errors.As(err, &corrupt) || corrupt.Path != bad.Path {
		t.Error(err)
	}
	if read > 3 {
		t.Errorf("the stream was read %d times", read)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
