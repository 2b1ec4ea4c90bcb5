package daemon_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

func comparePaths(a, b storepath.Path) bool { return a == b }

func diff(want, got any) string {
	return cmp.Diff(want, got, cmp.Comparer(comparePaths), cmpopts.EquateEmpty())
}

// eachWay runs a test over a daemon process and over a daemon's socket.
func eachWay(t *testing.T, test func(t *testing.T, store *storetest.Store, c *daemon.Conn)) {
	t.Run("stdio", func(t *testing.T) {
		store := storetest.New(t)
		test(t, store, store.Connect())
	})
	t.Run("socket", func(t *testing.T) {
		store := storetest.New(t)
		c, err := daemon.Open(t.Context(), daemon.Options{Socket: store.Socket()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		test(t, store, c)
	})
}

func TestHandshakeTellsVersions(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *storetest.Store, c *daemon.Conn) {
		out, err := run.Output(t.Context(), run.Cmd{Argv: []string{"nix-daemon", "--version"}})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(strings.TrimSpace(string(out)), " "+c.NixVersion()) {
			t.Errorf("version %q, the program says %q", c.NixVersion(), out)
		}
		if !strings.HasPrefix(c.ProtocolVersion(), "1.3") {
			t.Errorf("protocol %s", c.ProtocolVersion())
		}
		if known, trusted := c.Trusted(); known && !trusted {
			t.Error("the test's user is not trusted")
		}
	})
}

func TestAddedPathsAreAsNixSeesThem(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		base, left, right, top := store.Diamond(c)
		for _, info := range []storepath.Info{base, left, right, top} {
			store.Nix("--verify-path", info.Path.String())
			refs := strings.Fields(store.Nix("--query", "--references", info.Path.String()))
			slices.Sort(refs)
			var want []string
			for _, ref := range info.References {
				want = append(want, ref.String())
			}
			if d := cmp.Diff(want, refs); d != "" {
				t.Error(info.Path, d)
			}
			hash := "sha256:" + storepath.EncodeBase32(info.NarHash[:])
			if got := strings.TrimSpace(store.Nix("--query", "--hash", info.Path.String())); got != hash {
				t.Errorf("%s: hash %s, sent %s", info.Path, got, hash)
			}
			back, err := c.QueryPathInfo(t.Context(), info.Path)
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(info, back); d != "" {
				t.Error(d)
			}
		}
	})
}

func TestSignaturesDeriverAndContentAddressAreKept(t *testing.T) {
	store := storetest.New(t)
	c := store.Connect()
	info, archive := storetest.Prepare(t, storetest.Text{Name: "signed"})
	drv, _ := storetest.Prepare(t, storetest.Text{Name: "signed.drv"})
	info.Deriver = drv.Path
	info.Signatures = []string{"key-1:c2lnbmF0dXJl"}
	if err := c.AddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.AddSignatures(t.Context(), info.Path, []string{"key-2:YW5vdGhlcg=="}); err != nil {
		t.Fatal(err)
	}
	info.Signatures = append(info.Signatures, "key-2:YW5vdGhlcg==")
	back, err := c.QueryPathInfo(t.Context(), info.Path)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(info, back); d != "" {
		t.Error(d)
	}
	file := filepath.Join(t.TempDir(), "flat")
	if err := os.WriteFile(file, []byte("contents"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := storepath.Parse(strings.TrimSpace(store.Nix("--add", file)))
	if err != nil {
		t.Fatal(err)
	}
	added, err := c.QueryPathInfo(t.Context(), path)
	if err != nil || !strings.HasPrefix(added.CA, "fixed:r:sha256:") {
		t.Errorf("content address %q, %v", added.CA, err)
	}
}

func TestQueriesTellValidFromInvalid(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		base, left, right, top := store.Diamond(c)
		missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
		all := []storepath.Path{top.Path, missing.Path, base.Path}
		valid, err := c.QueryValidPaths(t.Context(), all, daemon.ValidPathsOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := []storepath.Path{top.Path, base.Path}
		storepath.Sort(want)
		if d := diff(want, valid); d != "" {
			t.Error(d)
		}
		infos, err := c.QueryPathInfos(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(map[storepath.Path]storepath.Info{top.Path: top, base.Path: base}, infos); d != "" {
			t.Error(d)
		}
		var invalid *daemon.InvalidPathError
		if _, err := c.QueryPathInfo(t.Context(), missing.Path); !errors.As(err, &invalid) || invalid.Path != missing.Path {
			t.Error(err)
		}
		if _, err := c.QueryClosure(t.Context(), []storepath.Path{top.Path, missing.Path}); !errors.As(err, &invalid) {
			t.Error(err)
		}
		closure, err := c.QueryClosure(t.Context(), []storepath.Path{top.Path})
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[storepath.Path]storepath.Info)
		for _, info := range closure {
			got[info.Path] = info
		}
		if d := diff(map[storepath.Path]storepath.Info{base.Path: base, left.Path: left, right.Path: right, top.Path: top}, got); d != "" || len(closure) != 4 {
			t.Error(len(closure), d)
		}
		found, err := c.QueryPathFromHashPart(t.Context(), base.Path.Hash())
		if err != nil || found != base.Path {
			t.Error(found, err)
		}
		if found, err := c.QueryPathFromHashPart(t.Context(), missing.Path.Hash()); err != nil || !found.IsZero() {
			t.Error(found, err)
		}
	})
}

func TestNarFromPathIsWhatWasAdded(t *testing.T) {
	store := storetest.New(t)
	c := store.Connect()
	info, archive := storetest.Prepare(t, storetest.Text{Name: "big", Contents: strings.Repeat("0123456789", 100_000)})
	if err := c.AddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var got bytes.Buffer
		if err := c.NarFromPath(t.Context(), info.Path, &got); err != nil || !bytes.Equal(got.Bytes(), archive) {
			t.Fatalf("%d bytes, %v", got.Len(), err)
		}
	}
	missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
	var invalid *daemon.InvalidPathError
	if err := c.NarFromPath(t.Context(), missing.Path, io.Discard); !errors.As(err, &invalid) {
		t.Error(err)
	}
	broken := errors.New("full disk")
	if err := c.NarFromPath(t.Context(), info.Path, writerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Error(err)
	}
	var closed *daemon.ClosedError
	if err := c.AddTempRoots(t.Context(), []storepath.Path{info.Path}); !errors.As(err, &closed) {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(data []byte) (int, error) { return f(data) }

func TestTempRootsAndIndirectRootsKeepPathsAlive(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		base, _, _, top := store.Diamond(c)
		lost, _ := storetest.Prepare(t, storetest.Text{Name: "not-there-yet"})
		if err := c.AddTempRoots(t.Context(), []storepath.Path{top.Path, lost.Path}); err != nil {
			t.Fatal(err)
		}
		store.Nix("--gc")
		if valid, err := c.QueryValidPaths(t.Context(), []storepath.Path{top.Path, base.Path}, daemon.ValidPathsOptions{}); err != nil || len(valid) != 2 {
			t.Errorf("%v, %v", valid, err)
		}
		link := filepath.Join(t.TempDir(), "result")
		if err := os.Symlink(top.Path.String(), link); err != nil {
			t.Fatal(err)
		}
		if err := c.AddIndirectRoot(t.Context(), link); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		store.Nix("--gc")
		store.Nix("--verify-path", top.Path.String(), base.Path.String())
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		store.Nix("--gc")
		if _, err := os.Lstat(store.RealPath(top.Path)); !errors.Is(err, os.ErrNotExist) {
			t.Error("the path outlived its roots:", err)
		}
	})
}

func TestDeletePathTakesOnlyWhatNothingNeeds(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		base, _, _, top := store.Diamond(c)
		if err := c.Close(); err != nil { // and with it the temporary roots of what was just added
			t.Fatal(err)
		}
		c = store.Connect()
		var refused *daemon.Error
		if _, err := c.DeletePath(t.Context(), base.Path); !errors.As(err, &refused) {
			t.Errorf("a path that others refer to: %v", err)
		}
		var err error
		for range 50 { // the first daemon may still be ending
			if _, err = c.DeletePath(t.Context(), top.Path); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if _, statErr := os.Lstat(store.RealPath(top.Path)); err != nil || !errors.Is(statErr, os.ErrNotExist) {
			t.Errorf("deleted: %v, and the path is there: %v", err, statErr)
		}
		unfinished, _ := storetest.Prepare(t, storetest.Text{Name: "unfinished"})
		if err := os.WriteFile(store.RealPath(unfinished.Path), make([]byte, 1<<16), 0o444); err != nil {
			t.Fatal(err)
		}
		if freed, err := c.DeletePath(t.Context(), unfinished.Path); err != nil || freed < 1<<16 {
			t.Errorf("what an import left: freed %d, %v", freed, err)
		}
		absent, _ := storetest.Prepare(t, storetest.Text{Name: "absent"})
		if _, err := c.DeletePath(t.Context(), absent.Path); err != nil {
			t.Errorf("a path that is not there: %v", err)
		}
	})
}

func TestEnsurePath(t *testing.T) {
	t.Setenv("NIX_CONFIG", "substitute = false")
	store := storetest.New(t)
	c := store.Connect()
	base, _, _, _ := store.Diamond(c)
	if err := c.EnsurePath(t.Context(), base.Path); err != nil {
		t.Error(err)
	}
	missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
	var refused *daemon.Error
	if err := c.EnsurePath(t.Context(), missing.Path); !errors.As(err, &refused) || strings.Contains(refused.Message, "\x1b") {
		t.Error(err)
	}
}

func TestRefusalsLeaveTheConnectionUsable(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
		plain, plainNAR := storetest.Prepare(t, storetest.Text{Name: "plain", Contents: strings.Repeat("x", 300_000)})
		dangling, danglingNAR := storetest.Prepare(t, storetest.Text{Name: "dangling", References: []storepath.Path{missing.Path}})
		wrong := plain
		wrong.NarHash = sha256.Sum256([]byte("something else"))
		skip := daemon.AddOptions{SkipSignatures: true}
		for _, test := range []struct {
			rule   string
			info   storepath.Info
			nar    []byte
			opts   daemon.AddOptions
			reason daemon.Reason
		}{
			{"wrong hash", wrong, plainNAR, skip, daemon.ReasonCorrupt},
			{"cut NAR", plain, plainNAR[:len(plainNAR)/2], skip, daemon.ReasonCorrupt},
			{"empty NAR", plain, nil, skip, daemon.ReasonCorrupt},
			{"no NAR", plain, []byte("something else that is long enough"), skip, daemon.ReasonCorrupt},
			{"missing reference", dangling, danglingNAR, skip, daemon.ReasonInvalidPath},
			{"missing signature", plain, plainNAR, daemon.AddOptions{}, daemon.ReasonUntrusted},
		} {
			err := c.AddToStoreNar(t.Context(), test.info, bytes.NewReader(test.nar), test.opts)
			var refused *daemon.Error
			if !errors.As(err, &refused) || refused.Reason() != test.reason {
				t.Errorf("%s: %v", test.rule, err)
			}
			if valid, err := c.QueryValidPaths(t.Context(), []storepath.Path{test.info.Path}, daemon.ValidPathsOptions{}); err != nil || len(valid) != 0 {
				t.Fatalf("%s: then %v, %v", test.rule, valid, err)
			}
		}
		broken := errors.New("broken source")
		err := c.AddToStoreNar(t.Context(), plain, io.MultiReader(bytes.NewReader(plainNAR[:100_000]), readerFunc(func([]byte) (int, error) { return 0, broken })), skip)
		if !errors.Is(err, broken) {
			t.Error(err)
		}
		if err := c.AddToStoreNar(t.Context(), plain, bytes.NewReader(plainNAR), skip); err != nil {
			t.Error(err)
		}
		if err := c.AddToStoreNar(t.Context(), plain, bytes.NewReader(plainNAR), skip); err != nil {
			t.Error("a second time:", err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(data []byte) (int, error) { return f(data) }

func TestAPathIsNotRegisteredBeforeItsLastBytesAreAllowed(t *testing.T) {
	eachWay(t, func(t *testing.T, store *storetest.Store, c *daemon.Conn) {
		for _, size := range []int{0, 1, 200 << 10} {
			info, nar := storetest.Prepare(t, storetest.Text{Name: fmt.Sprint("path-", size), Contents: strings.Repeat("x", size)})
			other := store.Connect()
			valid := func() bool {
				paths, err := other.QueryValidPaths(t.Context(), []storepath.Path{info.Path}, daemon.ValidPathsOptions{})
				return err == nil && len(paths) == 1
			}
			refusal := errors.New("not now")
			err := c.AddToStoreNar(t.Context(), info, bytes.NewReader(nar), daemon.AddOptions{SkipSignatures: true, BeforeEnd: func() error { return refusal }})
			if !errors.Is(err, refusal) || valid() {
				t.Errorf("%d bytes, refused: %v", size, err)
			}
			asked := 0
			err = c.AddToStoreNar(t.Context(), info, bytes.NewReader(nar), daemon.AddOptions{SkipSignatures: true, BeforeEnd: func() error {
				if asked++; valid() {
					t.Error("it is registered already")
				}
				return nil
			}})
			if err != nil || asked != 1 || !valid() {
				t.Errorf("%d bytes: asked %d times, %v", size, asked, err)
			}
		}
	})
}

func TestManyPathsArePipelined(t *testing.T) {
	store := storetest.New(t)
	c := store.Connect()
	var pendings []*daemon.Pending
	var paths []storepath.Path
	for i := range 300 {
		info, archive := storetest.Prepare(t, storetest.Text{Name: fmt.Sprintf("chain-%d", i), References: paths[max(0, i-1):]})
		pending, err := c.StartAddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true})
		if err != nil {
			t.Fatal(err)
		}
		pendings, paths = append(pendings, pending), append(paths, info.Path)
	}
	for _, pending := range pendings {
		if err := pending.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.AddTempRoots(t.Context(), paths); err != nil {
		t.Error(err)
	}
	infos, err := c.QueryPathInfos(t.Context(), paths)
	if err != nil || len(infos) != len(paths) {
		t.Errorf("%d infos, %v", len(infos), err)
	}
	closure, err := c.QueryClosure(t.Context(), paths[len(paths)-1:])
	if err != nil || len(closure) != len(paths) {
		t.Errorf("%d in the closure, %v", len(closure), err)
	}
}

func TestConnectionIsSharedByGoroutines(t *testing.T) {
	store := storetest.New(t)
	c := store.Connect()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 10 {
				info, archive := storetest.Prepare(t, storetest.Text{Name: fmt.Sprintf("path-%d-%d", worker, i)})
				if err := c.AddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true}); err != nil {
					t.Error(err)
				}
				if back, err := c.QueryPathInfo(t.Context(), info.Path); err != nil || back.NarHash != info.NarHash {
					t.Error(back, err)
				}
			}
		})
	}
	group.Wait()
}

func TestCancellationClosesTheConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *storetest.Store, c *daemon.Conn) {
		ctx, cancel := context.WithCancel(t.Context())
		info, archive := storetest.Prepare(t, storetest.Text{Name: "slow"})
		r := io.MultiReader(bytes.NewReader(archive[:40]), readerFunc(func([]byte) (int, error) {
			cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		}))
		if err := c.AddToStoreNar(ctx, info, r, daemon.AddOptions{SkipSignatures: true}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_, err := c.QueryPathInfo(t.Context(), info.Path)
		var closed *daemon.ClosedError
		if !errors.As(err, &closed) || errors.Is(err, context.Canceled) || c.Err() == nil {
			t.Errorf("then %v", err)
		}
	})
}
