package push

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"fleet/closure/duplicates"
	"fleet/closure/storepath"
)

// tree adds a folder of that name to the operator's store. Files that are linked are hard links.
func (l *lab) tree(t *testing.T, name string, files map[string][]byte, links map[string]string) storepath.Path {
	t.Helper()
	parent, err := os.MkdirTemp(l.dir, "tree-")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, name)
	for file, data := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), string(data), 0o644)
	}
	for link, file := range links {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, file), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return l.add(t, dir)
}

// incompressible is that many bytes of which nothing can be left out.
func incompressible(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

// pushAll pushes several paths, and has the host check all that it has.
func pushAll(t *testing.T, s *Session, h *host, roots ...storepath.Path) PushResult {
	t.Helper()
	result, err := s.Push(t.Context(), PushRequest{Roots: roots, RootName: "test-push"})
	if err != nil {
		t.Fatal(err)
	}
	h.sh(t, "nix-store --verify --check-contents 2>&1 && nix-store --check-validity "+roots[0].String()+" "+roots[len(roots)-1].String())
	return result
}

// checkSent compares what was sent with the files that only came once.
func checkSent(t *testing.T, result PushResult, once int) {
	t.Helper()
	t.Logf("%d bytes of NARs in %d bytes, of which %d are new", result.NarBytes, result.WireBytes, once)
	if extra := int(result.WireBytes) - once; extra < 0 || extra > once/20+100_000 {
		t.Errorf("%d bytes were sent for %d", result.WireBytes, once)
	}
}

// Below 16 MiB the daemon imports, and from there on the agent itself.
func sizesOfBothImporters() map[string]int {
	return map[string]int{"daemon": 3 << 20, "direct": 18 << 20}
}

func TestHardLinksAreSentOnce(t *testing.T) {
	for importer, size := range sizesOfBothImporters() {
		t.Run(importer, func(t *testing.T) {
			l := newLab(t)
			h := l.host(t, hostOptions{})
			root := l.tree(t, "git", map[string][]byte{"bin/git": incompressible(size)}, map[string]string{"lib/git-core/git": "bin/git", "lib/git-core/git-add": "bin/git"})
			s := connect(t, l.connector(), h.spec("root"))
			checkSent(t, pushAll(t, s, h, root), size)
		})
	}
}

func TestFilesOfSeveralPathsAreSentOnce(t *testing.T) {
	for importer, size := range sizesOfBothImporters() {
		t.Run(importer, func(t *testing.T) {
			l := newLab(t)
			h := l.host(t, hostOptions{})
			shared := incompressible(size)
			one := l.tree(t, "one", map[string][]byte{"a": incompressible(100_000), "shared": shared}, nil)
			two := l.tree(t, "two", map[string][]byte{"share/doc": incompressible(200_000), "share/shared": shared}, nil)
			other := l.tree(t, "other", map[string][]byte{"shared": shared}, nil)
			s := connect(t, l.connector(), h.spec("root"))
			checkSent(t, pushAll(t, s, h, one, two, other), size+300_000)
		})
	}
}

func TestFilesThatHaveMovedAreNotSent(t *testing.T) {
	for importer, size := range sizesOfBothImporters() {
		t.Run(importer, func(t *testing.T) {
			l := newLab(t)
			h := l.host(t, hostOptions{})
			manual := incompressible(size)
			old := l.tree(t, "editor-1", map[string][]byte{"bin/editor": incompressible(50_000), "share/manual": manual}, nil)
			push(t, connect(t, l.connector(), h.spec("root")), old)
			h.runs(t, old)
			fresh := l.tree(t, "handbook", map[string][]byte{"manual": manual, "index": incompressible(80_000)}, nil)
			s := connect(t, l.connector(), h.spec("root"))
			checkSent(t, pushAll(t, s, h, fresh), 80_000)
		})
	}
}

// The host is asked for the path from which a file has moved: it may have said that it runs something that it has only a part of.
func TestFilesThatTheHostHasOtherwiseAreSent(t *testing.T) {
	const size = 3 << 20
	l := newLab(t)
	h := l.host(t, hostOptions{})
	manual := incompressible(size)
	old := l.tree(t, "editor-1", map[string][]byte{"bin/editor": incompressible(50_000), "share/manual": manual}, nil)
	h.runs(t, old)
	fresh := l.tree(t, "handbook", map[string][]byte{"manual": manual}, nil)
	s := connect(t, l.connector(), h.spec("root"))
	checkSent(t, pushAll(t, s, h, fresh), size)
}

func TestAHostThatCannotKeepAnythingIsSentAll(t *testing.T) {
	const size = 12 << 20
	l := newLab(t)
	h := l.host(t, hostOptions{})
	shared := incompressible(size)
	push := func(c *Connector, s *Session, name string, warnings int) {
		t.Helper()
		one := l.tree(t, name+"-one", map[string][]byte{"name": []byte(name), "shared": shared}, nil)
		two := l.tree(t, name+"-two", map[string][]byte{"other": incompressible(1000), "shared": shared}, nil)
		r := &recorder{}
		c.Reporter = r
		checkSent(t, pushAll(t, s, h, one, two), 2*size)
		if n := r.count("lies in memory; what several paths have is sent with each"); n != warnings {
			t.Errorf("the user is told %d times, not %d: %+v", n, warnings, r.events)
		}
	}
	late := l.connector()
	s := connect(t, late, h.spec("root"))
	h.sh(t, "mkdir /tmp/lab && mount --rbind "+l.dir+" /tmp/lab && mount -t tmpfs memory /var/tmp && mkdir "+l.dir+" && mount --rbind /tmp/lab "+l.dir)
	push(late, s, "late", 1)
	early := l.connector()
	push(early, connect(t, early, h.spec("root")), "early", 0)
}

func TestAHostWithALittleRoomIsNotAskedToKeepAnything(t *testing.T) {
	const size = 12 << 20
	l := newLab(t)
	h := l.host(t, hostOptions{size: "110000k"})
	shared := incompressible(size)
	one := l.tree(t, "one", map[string][]byte{"shared": shared}, nil)
	two := l.tree(t, "two", map[string][]byte{"other": incompressible(1000), "shared": shared}, nil)
	r := &recorder{}
	c := l.connector()
	c.Reporter = r
	checkSent(t, pushAll(t, connect(t, c, h.spec("root")), h, one, two), 2*size)
	if r.count("sent with each") != 0 {
		t.Errorf("the user is told: %+v", r.events)
	}
}

func TestWhatIsKeptOutlivesConnections(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	push(t, connect(t, l.connector(), h.spec("root")), l.helper)
	shared := incompressible(20 << 20)
	one := l.tree(t, "one", map[string][]byte{"shared": shared}, nil)
	two := l.tree(t, "two", map[string][]byte{"fresh": incompressible(9 << 20), "shared": shared}, nil)
	p := newProxy(t, h, 6<<20, 16<<20, 6<<20)
	result := pushAll(t, connect(t, l.connector(), p.through(h.spec("root"))), h, one, two)
	if p.dials.Load() < 4 {
		t.Errorf("%d connections", p.dials.Load())
	}
	// What was under way when a connection broke is sent again.
	if limit := uint64(29<<20 + 3*12<<20); result.WireBytes > limit || result.WireBytes < 29<<20 {
		t.Errorf("%d bytes were sent for %d", result.WireBytes, 29<<20)
	}
}

func TestHostsThatLackTheSameShareAPlan(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 3, 2<<20)
	graph, err := source.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := makeSurvey(t.Context(), source, graph, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	all := manifest{missing: []int{0, 1, 2}}
	cause := errors.New("enough")
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := s.plan(gone, source, all); !errors.Is(err, cause) {
		t.Errorf("after the end of the context: %v", err)
	}
	plans := make([]*duplicates.Plan, 8)
	var group sync.WaitGroup
	for i := range plans {
		group.Go(func() {
			var err error
			if plans[i], err = s.plan(t.Context(), source, all); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, plan := range plans {
		if plan != plans[0] {
			t.Fatal("two plans for the same")
		}
	}
	if n := source.opened; n != 3 {
		t.Errorf("%d paths were opened for 3", n)
	}
	for _, other := range []manifest{{missing: []int{0, 1}}, {missing: all.missing, alone: true}, {missing: all.missing, whole: map[storepath.Path]bool{root: true}}} {
		if plan, err := s.plan(t.Context(), source, other); err != nil || plan == plans[0] {
			t.Errorf("%+v has the same plan, or none: %v", other, err)
		}
	}
}
