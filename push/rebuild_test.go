package push

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fleet/closure"
	"fleet/closure/storepath"
)

// rebuilt adds a closure of the same contents under other hashes: a builder with another name in its environment.
func (l *lab) rebuilt(t *testing.T, root storepath.Path, n int) storepath.Path {
	t.Helper()
	return l.changed(t, root, n, func([]byte) []byte { return nil })
}

// changed is rebuilt, but for the contents that change returns: nil for the same.
func (l *lab) changed(t *testing.T, root storepath.Path, n int, change func([]byte) []byte) storepath.Path {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(l.dir, "chain-*.root"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range dirs {
		if strings.TrimSpace(command(t, "readlink", link)) != root.String() {
			continue
		}
		expression := strings.Replace(chainExpression, "name = \"chain-", "salt = \"rebuilt\"; name = \"chain-", 1)
		dir := strings.TrimSuffix(link, ".root")
		for i := range n {
			name := filepath.Join(dir, strconv.Itoa(i))
			if data := change([]byte(readFile(t, name))); data != nil {
				write(t, name, string(data), 0o644)
			}
		}
		out := command(t, "nix-build", "--option", "sandbox", "false", "--option", "build-users-group", "", "--option", "substitute", "false",
			"-o", dir+"-rebuilt.root", "-E", fmt.Sprintf("(%s) { dir = %q; last = %d; }", expression, dir, n-1))
		path, err := storepath.Parse(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Fatalf("no chain ends in %s", root)
	return storepath.Path{}
}

// lose deletes a closure from the operator's store, as its garbage collection does once nothing holds it, and gives the lab a store that has seen nothing of it.
func (l *lab) lose(t *testing.T, root storepath.Path) {
	t.Helper()
	paths := strings.Fields(command(t, "nix-store", "--query", "--requisites", root.String()))
	command(t, append([]string{"nix-store", "--delete", "--ignore-liveness"}, paths...)...)
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s is still there: %v", path, err)
		}
	}
	l.store = closure.NewLocalStore(closure.LocalOptions{})
	t.Cleanup(func() { l.store.Close() })
}

// runs makes a host say that it runs a system.
func (h *host) runs(t *testing.T, system storepath.Path) {
	t.Helper()
	h.sh(t, "ln -sfn "+system.String()+" /run/current-system")
}

func TestARebuildSendsNextToNothing(t *testing.T) {
	for _, tt := range []struct {
		rule string
		// spoil is done on the host or to our store after the first push.
		spoil func(t *testing.T, h *host, old storepath.Path)
		// most is what may be sent, in percent.
		most float64
	}{
		{"the host runs the one before", func(*testing.T, *host, storepath.Path) {}, 2},
		{"the host runs something else", func(t *testing.T, h *host, _ storepath.Path) { h.runs(t, h.lab.helper) }, 110},
		{"the host's copy of it has changed", func(t *testing.T, h *host, old storepath.Path) {
			h.sh(t, "mount -o remount,rw /nix/store 2>/dev/null; chmod u+w "+old.String()+" && printf x | dd of="+old.String()+" bs=1 seek=100000 conv=notrunc 2>/dev/null")
		}, 60},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			l := newLab(t)
			h := l.host(t, hostOptions{})
			old := l.chain(t, 4, 400_000)
			push(t, connect(t, l.connector(), h.spec("root")), old)
			h.runs(t, old)
			tt.spoil(t, h, old)
			fresh := l.rebuilt(t, old, 4)
			result := push(t, connect(t, l.connector(), h.spec("root")), fresh)
			share := 100 * float64(result.WireBytes) / float64(result.NarBytes)
			t.Logf("%d bytes of %d were sent, %.2f %%", result.WireBytes, result.NarBytes, share)
			if share > tt.most {
				t.Errorf("%.2f %% were sent, want %.2f at most", share, tt.most)
			}
			if got, want := h.sh(t, "sha256sum <"+fresh.String()), command(t, "sh", "-c", "sha256sum <"+fresh.String()); strings.Fields(got)[0] != strings.Fields(want)[0] {
				t.Error("the contents differ")
			}
		})
	}
}

func TestAPushOfWhatTheHostRunsIsOneQuestion(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	root := l.chain(t, 300, 10)
	push(t, connect(t, l.connector(), h.spec("root")), root)
	h.runs(t, root)
	s := connect(t, l.connector(), h.spec("root"))
	before := s.wire.Load()
	if result := push(t, s, root); result.Paths != 0 {
		t.Errorf("%d paths were sent", result.Paths)
	}
	if n := s.wire.Load() - before; n > 1000 {
		t.Errorf("%d bytes", n)
	}
	h.sh(t, "test -e /nix/var/nix/gcroots/fleet/test-push")
}

// A path that is not reproducible may have other references on a host, which then lacks what is in our closure of it.
func TestASystemThatTheHostHasWithOtherReferences(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	old := l.chain(t, 3, 1000)
	dump := filepath.Join(l.dir, "old.nar")
	write(t, dump, command(t, "nix-store", "--dump", old.String()), 0o644)
	h.sh(t, fmt.Sprintf(`nix-store --restore %[1]s <%[2]s && printf '%%s\n' %[1]s $(sha256sum <%[2]s | cut -d ' ' -f 1) $(stat -c %%s %[2]s) '' 0 | nix-store --load-db`, old, dump))
	h.runs(t, old)
	fresh := l.rebuilt(t, old, 3)
	push(t, connect(t, l.connector(), h.spec("root")), fresh)
	h.sh(t, "nix-store --check-validity $(nix-store --query --requisites "+fresh.String()+")")
	// What is new refers to what the host was taken to have.
	top := l.on(t, old)
	push(t, connect(t, l.connector(), h.spec("root")), top)
	h.sh(t, "nix-store --check-validity "+top.String())
}

// on adds a path that refers to all of a closure.
func (l *lab) on(t *testing.T, root storepath.Path) storepath.Path {
	t.Helper()
	all := strings.Fields(command(t, "nix-store", "--query", "--requisites", root.String()))
	var inputs []string
	for _, path := range all {
		inputs = append(inputs, fmt.Sprintf("(builtins.storePath %s)", path))
	}
	out := command(t, "nix-build", "--option", "sandbox", "false", "--option", "build-users-group", "", "--option", "substitute", "false", "-o", filepath.Join(l.dir, "on.root"), "-E",
		fmt.Sprintf(`derivation { name = "on"; system = builtins.currentSystem; builder = "/bin/sh"; all = [ %s ]; args = [ "-c" "echo $all >$out" ]; }`, strings.Join(inputs, " ")))
	path, err := storepath.Parse(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
