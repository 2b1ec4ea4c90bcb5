//go:build linux

package direct

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

func TestNothingOfACorruptNARIsLeft(t *testing.T) {
	items := shapes(t)
	tree, bad := items[5], &closure.CorruptError{}
	flipped := func(i int) []byte {
		data := slices.Clone(tree.nar)
		data[i] ^= 0x20
		return data
	}
	var format *nar.FormatError
	var path *PathError
	huge := packed(t, "huge", claim(t, 1<<40))
	trailing := packed(t, "trailing", append(slices.Clone(tree.nar), make([]byte, 8)...))
	truncated := packed(t, "truncated", tree.nar[:len(tree.nar)-16])
	for _, test := range []struct {
		rule   string
		info   closure.PathInfo
		nar    []byte
		target any
	}{
		{"contents that were changed", tree.info, flipped(len(tree.nar) / 2), &bad},
		{"a structure that was changed", tree.info, flipped(20), &bad},
		{"a NAR that was cut", tree.info, tree.nar[:len(tree.nar)/2], &bad},
		{"no NAR at all", tree.info, nil, &bad},
		{"a file that claims too much", huge.info, huge.nar, &format},
		{"something after its end", trailing.info, trailing.nar, &format},
		{"a NAR that ends too early, as announced", truncated.info, truncated.nar, &path},
	} {
		for name, memory := range map[string]int64{"in memory": 0, "streamed": 16} {
			t.Run(test.rule+", "+name, func(t *testing.T) {
				machineStore(t, "")
				test.info.References = nil
				im := New(t.Context(), Options{Memory: memory})
				good := items[0]
				if err := errors.Join(im.Import(good.info, bytes.NewReader(good.nar)), im.Wait()); err != nil {
					t.Fatal(err)
				}
				_ = im.Import(test.info, bytes.NewReader(test.nar))
				err := im.Wait()
				if !errors.As(err, test.target) {
					t.Errorf("%T %v", err, err)
				}
				if err := im.Import(items[6].info, bytes.NewReader(items[6].nar)); err == nil {
					t.Error("something was imported after an error")
				}
				if err := im.Close(); err != nil {
					t.Error(err)
				}
				left, _ := os.ReadDir("/nix/store")
				for _, entry := range left {
					if entry.Name() != good.info.Path.Base() && entry.Name() != ".links" {
						t.Error("left:", entry.Name())
					}
				}
				nix(t, "--verify-path", good.info.Path.String())
			})
		}
	}
}

func TestAFullStoreIsAnErrorThatLeavesNothing(t *testing.T) {
	items := many(t, 3, 40)
	random := make([]byte, 48<<20)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	if err := errors.Join(w.File("", false, uint64(len(random)), bytes.NewReader(random)), w.Close()); err != nil {
		t.Fatal(err)
	}
	big := packed(t, "big", archive.Bytes())
	for name, memory := range map[string]int64{"in memory": 1 << 30, "streamed": 0} {
		t.Run(name, func(t *testing.T) {
			machineStore(t, "mode=0755,size=40m")
			if err := importAll(t.Context(), Options{}, items); err != nil {
				t.Fatal(err)
			}
			err := importAll(t.Context(), Options{Memory: memory}, append(slices.Clone(items), big))
			var path *PathError
			if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &path) || path.Path != big.info.Path {
				t.Error(err)
			}
			if _, err := os.Lstat(big.info.Path.String()); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			snapshot(t, items)
			verify(t)
		})
	}
}

// registrar makes a program that is used as nix-store.
func registrar(t *testing.T, script string) string {
	t.Helper()
	real, err := run.Output(t.Context(), run.Cmd{Argv: []string{"/bin/sh", "-c", "command -v nix-store"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "nix-store")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nreal="+string(real)+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestARegistrationThatGoesWrong(t *testing.T) {
	items := shapes(t)
	for i := range items {
		items[i].info.Signatures = nil
	}
	var exit *run.ExitError
	var other *RegistrationError
	for _, test := range []struct {
		rule, script string
		target       any
		registered   bool
	}{
		{"it fails", "cat >/dev/null; echo 'database or disk is full' >&2; exit 1", &exit, false},
		{"it does not read", "exit 3", &exit, false},
		{"it is killed", "kill -9 $$", &exit, false},
		{"it fails afterwards", `$real "$@"; exit 1`, &exit, true},
		{"it does nothing", "cat >/dev/null", &other, false},
		{"it registers another deriver", `sed 's/1111111111/2222222222/' | $real "$@"`, &other, true},
		{"it registers another size", `sed -E 's/^([0-9]{3,})$/1\1/' | $real "$@"`, &other, true},
	} {
		t.Run(test.rule, func(t *testing.T) {
			machineStore(t, "")
			err := importAll(t.Context(), Options{Program: registrar(t, test.script), Done: func(path storepath.Path) { t.Error("done:", path) }}, items)
			if !errors.As(err, test.target) {
				t.Errorf("%T %v", err, err)
			}
			if full := strings.Contains(test.script, "full"); IsFull(err) != full {
				t.Error("full:", !full)
			}
			left, _ := filepath.Glob("/nix/store/[0-9a-z]*")
			if test.registered != (len(left) > 0) {
				t.Error("left:", left)
			}
			if !test.registered {
				err := importAll(t.Context(), Options{}, items)
				if err != nil {
					t.Error(err)
				}
				verify(t)
			}
		})
	}
}

func TestADaemonThatEnds(t *testing.T) {
	items := many(t, 7, 400)
	machineStore(t, "")
	var once sync.Once
	im := New(t.Context(), Options{Done: func(storepath.Path) {}})
	for i, it := range items {
		if i == 200 {
			once.Do(func() { im.store.conn.Close() })
		}
		if im.Import(it.info, bytes.NewReader(it.nar)) != nil {
			break
		}
	}
	var closed *daemon.ClosedError
	if err := im.Wait(); !errors.As(err, &closed) {
		t.Error(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	verify(t)
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Error(err)
	}
	snapshot(t, items)
	verify(t)
}
