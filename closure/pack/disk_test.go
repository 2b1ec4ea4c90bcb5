package pack

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// folder is a store on disk.
type folder string

func (f folder) Open(path storepath.Path) (View, error) {
	return nar.OpenView(filepath.Join(string(f), path.Base()))
}

// write makes a path of a program, a script that names others, and a symlink.
func (f folder) write(t *testing.T, path storepath.Path, program []byte, refs ...storepath.Path) storepath.Info {
	t.Helper()
	dir := filepath.Join(string(f), path.Base())
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n"
	for _, ref := range append(refs, path) {
		script += "exec " + ref.String() + "/bin/program \"$@\"\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "program"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("program", filepath.Join(dir, "bin", "link")); err != nil {
		t.Fatal(err)
	}
	data := dumped(t, dir)
	return storepath.Info{Path: path, NarHash: sha256.Sum256(data), NarSize: uint64(len(data)), References: sorted(append(refs, path)...)}
}

func TestPathsOnDiskArrive(t *testing.T) {
	w := newWorld(17)
	here := folder(t.TempDir())
	large := make([]byte, SegmentSize+1<<20)
	w.fill(large)
	oldLib, newLib := w.path("lib-1"), w.path("lib-1")
	oldTool, newTool, changedTool := w.path("tool-1"), w.path("tool-1"), w.path("tool-2")
	baseLib, lib := here.write(t, oldLib, large), here.write(t, newLib, large)
	baseTool, tool := here.write(t, oldTool, large[:5000], oldLib), here.write(t, newTool, large[:5000], newLib)
	changed := here.write(t, changedTool, bytes.Replace(large, large[100:108], []byte("another!"), 1), newLib)
	libs := map[string]string{oldLib.Hash(): newLib.Hash()}
	items := []Item{
		{Info: lib, Base: baseLib, Refs: libs},
		{Info: tool, Base: baseTool, Refs: map[string]string{oldLib.Hash(): newLib.Hash(), oldTool.Hash(): newTool.Hash()}},
		{Info: changed, Base: baseLib, Refs: libs},
	}
	units := packAll(t, here, items, Default)
	got := newRemember()
	if err := unpackAll(here, got, units); err != nil {
		t.Fatal(err)
	}
	checkArrived(t, items, got)
	if size, nars, deltas := sumOf(units); size > 1500 || deltas < nars-10_000 {
		t.Errorf("%d bytes, %d of %d from bases", size, deltas, nars)
	}
}

func TestABaseThatChangesOnDiskIsNoticed(t *testing.T) {
	w := newWorld(18)
	here := folder(t.TempDir())
	oldTool, newTool := w.path("tool-1"), w.path("tool-1")
	program := w.text(50_000, nil)
	base, tool := here.write(t, oldTool, program), here.write(t, newTool, program)
	units := packAll(t, here, []Item{{Info: tool, Base: base, Refs: map[string]string{oldTool.Hash(): newTool.Hash()}}}, Default)
	file := filepath.Join(string(here), oldTool.Base(), "bin", "program")
	for says, contents := range map[string][]byte{"another hash": []byte(strings.Repeat("x", len(program))), "the base": program[:500]} {
		if err := os.WriteFile(file, contents, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unpackAll(here, newRemember(), units); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, not %q", err, says)
		}
	}
}
