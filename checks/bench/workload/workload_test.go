package workload

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// packages makes two small Debian packages, of which the second depends on the first.
func packages(t *testing.T) []source {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("there is no dpkg-deb")
	}
	dir := t.TempDir()
	var files []string
	for name, text := range map[string]string{"liba": "Package: liba\nVersion: 1:2.0~rc1-3\n", "b": "Package: b\nVersion: 1.0\nDepends: libx | liba, liba (>= 1), c\n"} {
		root := filepath.Join(dir, name)
		for file, content := range map[string]string{
			"DEBIAN/control":        text + "Architecture: amd64\nMaintainer: nobody <nobody@localhost>\nDescription: test\n",
			"usr/bin/" + name:       "#!/usr/bin/liba -e\nexec /usr/lib/" + name + "\n",
			"usr/lib/" + name:       "\x7fELF" + strings.Repeat("x", 3*elfHead),
			"usr/share/doc/" + name: "left out",
		} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("dpkg-deb", "--build", "--root-owner-group", "-Znone", root, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, pattern := range []string{"liba_*.deb", "b_*.deb"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		files = append(files, found...)
	}
	all, err := sources(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// make writes a system's closure into a file of its own.
func makeSystem(t *testing.T, all []source, salt string) (*Closure, []byte) {
	t.Helper()
	recipes := system(t.Context(), all)
	for _, r := range recipes {
		r.place(salt)
	}
	c := &Closure{Top: recipes[len(recipes)-1].path, File: filepath.Join(t.TempDir(), "export")}
	if err := c.write(recipes); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	return c, data
}

func TestAClosureFollowsFromItsPackages(t *testing.T) {
	all := packages(t)
	c, first := makeSystem(t, all, "one")
	_, second := makeSystem(t, all, "one")
	if !bytes.Equal(first, second) {
		t.Error("two closures of the same packages differ")
	}
	if len(c.Paths) != tinyPaths+len(all)+3 {
		t.Errorf("%d paths", len(c.Paths))
	}
	seen := map[string]bool{}
	for _, p := range c.Paths {
		if _, err := storepath.Parse(p.Path); err != nil {
			t.Error(err)
		}
		for _, ref := range p.Refs {
			if !seen[ref] {
				t.Errorf("%s comes before %s, which it refers to", p.Path, ref)
			}
		}
		seen[p.Path] = true
	}
}

func TestARebuildRenewsHashesAlone(t *testing.T) {
	all := packages(t)
	before, _ := makeSystem(t, all, "one")
	after, _ := makeSystem(t, all, "two")
	if got := len(after.Without(before)); got != len(after.Paths) {
		t.Errorf("%d of %d paths are new", got, len(after.Paths))
	}
	for i, p := range after.Paths {
		if old := before.Paths[i]; p.NarSize != old.NarSize || nameOf(p.Path) != nameOf(old.Path) {
			t.Errorf("%s of %d bytes has become %s of %d", old.Path, old.NarSize, p.Path, p.NarSize)
		}
	}
}

func TestAPatchReleaseRenewsWhatIsBuiltUponIt(t *testing.T) {
	all := packages(t)
	before, _ := makeSystem(t, all, "one")
	patched := append([]source{}, all...)
	patched[1].patched = true // b, which liba does not need
	after, _ := makeSystem(t, patched, "one")
	for _, p := range after.Without(before) {
		if strings.Contains(p.Path, "-liba-") {
			t.Errorf("%s is new, and nothing of it has changed", p.Path)
		}
	}
	if n := len(after.Without(before)); n < 4 || n >= len(after.Paths) {
		t.Errorf("%d of %d paths are new", n, len(after.Paths))
	}
}

func TestFilesNameStorePaths(t *testing.T) {
	all := packages(t)
	recipes := system(t.Context(), all)
	for _, r := range recipes {
		r.place("one")
	}
	liba, b := recipes[0], recipes[1]
	if liba.name != "liba-2.0-rc1" || len(b.refs) != 1 || b.refs[0] != liba {
		t.Fatalf("%s, and b refers to %d", liba.name, len(b.refs))
	}
	tree, err := b.tree(b.path, []string{liba.path})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(tree.children["bin"].children["b"].content), "#!"+liba.path+"/bin/liba -e\nexec "+b.path+"/lib/b\n"; got != want {
		t.Errorf("the script is %q, want %q", got, want)
	}
	if elf := tree.children["lib"].children["b"].content; !bytes.Contains(elf, []byte(b.path+"/lib:"+liba.path+"/lib\x00")) {
		t.Error("the program does not name its libraries")
	}
	if tree.children["share"] != nil {
		t.Error("documentation is there")
	}
}

func TestPartOfAnExportIsAnExport(t *testing.T) {
	c, _ := makeSystem(t, packages(t), "one")
	var part bytes.Buffer
	if err := c.CopyPaths(&part, c.Paths[1:2]); err != nil {
		t.Fatal(err)
	}
	if got, want := int64(part.Len()), c.Paths[1].exportSize()+8; got != want {
		t.Fatalf("%d bytes, want %d", got, want)
	}
	body := part.Bytes()[8:]
	if err := nar.Parse(bytes.NewReader(body[:c.Paths[1].NarSize]), nar.NewWriter(&bytes.Buffer{})); err != nil {
		t.Error(err)
	}
}

func TestTinyPathsNeedNoPackages(t *testing.T) {
	m := &Maker{Dir: t.TempDir(), Say: func(string) {}}
	c, err := m.Make(context.Background(), Tiny)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Make(t.Context(), Tiny)
	if err != nil || again.Top != c.Top || len(again.Paths) != tinyPaths+1 {
		t.Errorf("%v, %v", again, err)
	}
}

func nameOf(path string) string { return path[len(storepath.StoreDir)+1+32:] }
