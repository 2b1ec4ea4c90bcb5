package closure

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

func generatedKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return "fleet-test:" + base64.StdEncoding.EncodeToString(key)
}

func localStore(t *testing.T, store *storetest.Store) *LocalStore {
	t.Helper()
	s := NewLocalStore(LocalOptions{Daemon: store.Options()})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// filled is a private store with a diamond of paths, and its graph.
func filled(t *testing.T) (*storetest.Store, *LocalStore, *Graph) {
	t.Helper()
	store := storetest.New(t)
	_, _, _, top := store.Diamond(store.Connect())
	source := localStore(t, store)
	graph, err := source.Closure(t.Context(), top.Path)
	if err != nil {
		t.Fatal(err)
	}
	return store, source, graph
}

func TestLocalStoreReadsWhatIsThere(t *testing.T) {
	_, source, graph := filled(t)
	if graph.Len() != 4 {
		t.Fatalf("%d paths", graph.Len())
	}
	for _, path := range graph.Topological() {
		info, _ := graph.Info(path)
		v := NewVerifier()
		if err := source.NAR(t.Context(), path, v); err != nil {
			t.Fatal(err)
		}
		if err := v.Check(info); err != nil {
			t.Error(err)
		}
	}
	missing := testPath(t, "missing")
	var invalid *daemon.InvalidPathError
	if _, err := source.Closure(t.Context(), graph.Roots()[0], missing); !errors.As(err, &invalid) || invalid.Path != missing {
		t.Error(err)
	}
	if err := source.NAR(t.Context(), missing, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	valid, err := source.Valid(t.Context(), missing, graph.Roots()[0])
	if err != nil || len(valid) != 1 || valid[0] != graph.Roots()[0] {
		t.Error(valid, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := source.NAR(ctx, graph.Roots()[0], io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOneCancelledQueryDoesNotStopOthers(t *testing.T) {
	store, _, graph := filled(t)
	source := localStore(t, store)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%4 == 0 {
				go cancel()
			}
			_, err := source.Closure(ctx, graph.Roots()...)
			if err != nil && (i%4 != 0 || !errors.Is(err, context.Canceled)) {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestProtectedPathsOutliveACollection(t *testing.T) {
	store, source, graph := filled(t)
	if err := source.Protect(t.Context(), graph.Roots()...); err != nil {
		t.Fatal(err)
	}
	if err := source.Protect(t.Context(), testPath(t, "missing")); err != nil {
		t.Fatal(err)
	}
	if _, err := source.roots.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A lost connection: the next use has to protect everything again.
	_ = source.roots.conn.Close()
	if err := source.Protect(t.Context(), testPath(t, "missing")); err != nil {
		t.Fatal(err)
	}
	store.Nix("--gc")
	for _, path := range graph.Paths() {
		store.Nix("--verify-path", path.String())
	}
}

func TestSignaturesAreThoseOfNix(t *testing.T) {
	store, _, graph := filled(t)
	text := generatedKey(t)
	key, err := ParseSigningKey(text)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root := graph.Roots()[0]
	nix := []string{"nix", "--extra-experimental-features", "nix-command", "--store", store.Root}
	if err := run.Run(t.Context(), run.Cmd{Argv: append(nix, "store", "sign", "--recursive", "--key-file", file, root.String())}); err != nil {
		t.Fatal(err)
	}
	signed, err := store.Connect().QueryPathInfos(t.Context(), graph.Paths())
	if err != nil {
		t.Fatal(err)
	}
	for path, info := range signed {
		ours := key.Sign(info)
		if len(info.Signatures) != 1 || info.Signatures[0] != ours {
			t.Errorf("%s: %q, Nix has %q", path, ours, info.Signatures)
		}
		if !key.PublicKey().Verify(info, ours) {
			t.Errorf("%s: the signature is not verified", path)
		}
		info.NarSize++
		if key.PublicKey().Verify(info, ours) {
			t.Errorf("%s: a signature of something else is verified", path)
		}
	}
	public, err := ParsePublicKey(key.PublicKey().String())
	if err != nil || public.String() != key.PublicKey().String() {
		t.Error(public, err)
	}
}

// pathInfoJSON asks Nix' own program, whose answer is a list here and a map in newer versions.
func pathInfoJSON(t *testing.T, store *storetest.Store, root storepath.Path) map[string]float64 {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: []string{"nix", "--extra-experimental-features", "nix-command", "--store", store.Root, "path-info", "--json", "--recursive", root.String()}})
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]float64)
	var list []map[string]any
	if json.Unmarshal(out, &list) == nil {
		for _, info := range list {
			sizes[info["path"].(string)] = info["narSize"].(float64)
		}
		return sizes
	}
	var byPath map[string]map[string]any
	if err := json.Unmarshal(out, &byPath); err != nil {
		t.Fatal(err)
	}
	for path, info := range byPath {
		sizes[path] = info["narSize"].(float64)
	}
	return sizes
}

func TestNixImportsOurExport(t *testing.T) {
	_, source, graph := filled(t)
	var stream bytes.Buffer
	if err := WriteExport(t.Context(), &stream, source, graph); err != nil {
		t.Fatal(err)
	}
	target := storetest.New(t)
	imported := strings.Fields(target.NixInput(&stream, "--import"))
	if len(imported) != graph.Len() {
		t.Errorf("imported %q", imported)
	}
	infos, err := target.Connect().QueryPathInfos(t.Context(), graph.Paths())
	if err != nil {
		t.Fatal(err)
	}
	sizes := pathInfoJSON(t, target, graph.Roots()[0])
	for _, path := range graph.Paths() {
		want, _ := graph.Info(path)
		target.Nix("--verify-path", path.String())
		if d := diff(want, infos[path]); d != "" {
			t.Error(d)
		}
		if sizes[path.String()] != float64(want.NarSize) {
			t.Errorf("%s: Nix prints a size of %v, not %d", path, sizes[path.String()], want.NarSize)
		}
	}
}

func TestExportIsByteForByteThatOfNix(t *testing.T) {
	store, source, graph := filled(t)
	var args []string
	for _, path := range graph.Topological() {
		args = append(args, path.String())
	}
	golden := store.Nix(append([]string{"--export"}, args...)...)
	var stream bytes.Buffer
	if err := WriteExport(t.Context(), &stream, source, graph); err != nil {
		t.Fatal(err)
	}
	if stream.String() != golden {
		t.Errorf("%d bytes, Nix has %d", stream.Len(), len(golden))
	}
}

func TestExportRefusesAPathThatWasTamperedWith(t *testing.T) {
	store, source, graph := filled(t)
	file := store.RealPath(graph.Roots()[0])
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if err := WriteExport(t.Context(), io.Discard, source, graph); !errors.As(err, &corrupt) || corrupt.Path != graph.Roots()[0] {
		t.Error(err)
	}
}

func TestWhoWaitsForAnInterruptedQuestionAsksAgain(t *testing.T) {
	store, _, graph := filled(t)
	source := localStore(t, store)
	asked := &question{answered: make(chan struct{})}
	for _, path := range graph.Paths() {
		source.asking[path] = asked
	}
	result := make(chan error, 1)
	go func() {
		again, err := source.Closure(t.Context(), graph.Roots()...)
		if err == nil && again.Len() != graph.Len() {
			err = errors.New("it is another graph")
		}
		result <- err
	}()
	source.mu.Lock()
	clear(source.asking)
	source.mu.Unlock()
	close(asked.answered)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if len(source.asking) > 0 {
		t.Errorf("%d questions are still under way", len(source.asking))
	}
}
