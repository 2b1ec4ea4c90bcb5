package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

func mount(t *testing.T, source, target, kind, data string) {
	t.Helper()
	requireRoot(t)
	if err := syscall.Mount(source, target, kind, 0, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestAFullDiskLeavesTheOldValue(t *testing.T) {
	dir := t.TempDir()
	mount(t, "none", dir, "tmpfs", "size=64k")
	s := open(t, dir)
	old := entry(t, "shared/db", gen1, 1, "a", "b")
	put(t, s, old)
	before := snapshot(t, dir)
	large := strings.Repeat("x", 10<<10)
	fits := 0
	for owners := 3; owners < 40; owners++ {
		e := entry(t, "shared/db", gen2, 2)
		for i := range owners {
			o := owner("a", gen2)
			o.Parts["secret"] = sealedText(large)
			e.Owners["host-"+strconv.Itoa(i)] = o
		}
		var failed *state.WriteError
		switch err := s.Put(t.Context(), e); {
		case err == nil:
			fits++
			put(t, s, old)
			continue
		case !errors.As(err, &failed) || !errors.Is(err, syscall.ENOSPC) || failed.Hint() == "":
			t.Fatalf("got %v", err)
		}
		if diff := cmp.Diff(before, snapshot(t, dir)); fits == 0 && diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(old, load(t, s).Secrets[old.ID]); diff != "" {
			t.Error(diff)
		}
		entries, err := os.ReadDir(filepath.Join(dir, "fleet-state/default/secrets/shared"))
		if err != nil || len(entries) != 1 {
			t.Errorf("left on the full disk: %v, %v", entries, err)
		}
	}
	if fits > 10 {
		t.Errorf("%d values found room", fits)
	}
}

func TestAFolderOfALowerLayerIsReplaced(t *testing.T) {
	top := t.TempDir()
	lower, merged := filepath.Join(top, "lower"), filepath.Join(top, "merged")
	for _, folder := range []string{"lower", "over", "merged"} {
		if err := os.Mkdir(filepath.Join(top, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, open(t, lower), entry(t, "shared/db", gen1, 1, "a", "b"))
	put(t, open(t, lower), entry(t, "host/a/db", gen1, 1, "a"))
	// An upper layer on another layer is refused, as where /tmp is one itself.
	mount(t, "none", filepath.Join(top, "over"), "tmpfs", "")
	for _, folder := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(top, "over", folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "none", merged, "overlay", "lowerdir="+lower+",upperdir="+top+"/over/upper,workdir="+top+"/over/work,redirect_dir=off")
	s := open(t, merged)
	want := entry(t, "shared/db", gen2, 2, "b", "c")
	put(t, s, want)
	if err := s.Remove(t.Context(), id(t, "host/a/db")); err != nil {
		t.Fatal(err)
	}
	tree := load(t, s)
	if diff := cmp.Diff(map[secret.ID]*state.Entry{want.ID: want}, tree.Secrets); diff != "" {
		t.Error(diff)
	}
	entries, err := os.ReadDir(filepath.Join(merged, "fleet-state/default/secrets/shared"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
