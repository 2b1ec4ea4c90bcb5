// Package workload makes the closures that pushes are measured with: programs and libraries of Debian as store paths that refer to each other, the
// configuration of a system around them, and what becomes of both in a rebuild, a patch release and an upgrade. What comes out follows
// from the package files and this code alone.
package workload

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// version changes whenever this code makes something else of the same packages.
const version = "3"

// The closures. All but Tiny and Large are a system.
const (
	// Base is what a host runs before.
	Base = "base"
	// Rebuild is Base with another hash in every path, and no other change.
	Rebuild = "rebuild"
	// Patch is Base with a few changed bytes in one package of eight; what is built upon them has other hashes.
	Patch = "patch"
	// Upgrade is Base with the packages of another suite.
	Upgrade = "upgrade"
	// Tiny is configuration alone.
	Tiny = "tiny"
	// Large is one path of 500 MB.
	Large = "large"
)

// Maker makes closures and keeps them.
type Maker struct {
	// Dir is where package files and closures are kept.
	Dir string
	// Old and New are the Debian suites of Base and Upgrade.
	Old, New string
	// Say is told what takes long.
	Say func(string)
}

// Closure is one that was made.
type Closure struct {
	Top string `json:"top"`
	// Paths are in an order that has references first.
	Paths []Path `json:"paths"`
	// Packages says what it was made of, for people.
	Packages []string `json:"packages"`
	// File holds it as `nix-store --export` writes it.
	File string `json:"-"`
}

// Size is the sum of the NARs' sizes, in bytes.
func (c *Closure) Size() uint64 { return sizeOf(c.Paths) }

func sizeOf(paths []Path) uint64 {
	var sum uint64
	for _, p := range paths {
		sum += p.NarSize
	}
	return sum
}

// Without returns the paths that another closure does not have; nil has none.
func (c *Closure) Without(other *Closure) []Path {
	have := map[string]bool{}
	if other != nil {
		for _, p := range other.Paths {
			have[p.Path] = true
		}
	}
	var left []Path
	for _, p := range c.Paths {
		if !have[p.Path] {
			left = append(left, p)
		}
	}
	return left
}

// Make returns a closure, and makes it first where it is missing.
func (m *Maker) Make(ctx context.Context, name string) (*Closure, error) {
	salt := "one"
	if name == Rebuild {
		salt = "two"
	}
	recipes, packages, err := m.recipes(ctx, name)
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256([]byte(version + "\n" + strings.Join(packages, "\n")))
	file := filepath.Join(m.Dir, name+"-"+hex.EncodeToString(key[:6])+".export")
	c, err := load(file)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return c, err
	}
	m.Say("making the closure " + name)
	for _, r := range recipes {
		r.place(salt)
	}
	c = &Closure{Top: recipes[len(recipes)-1].path, Packages: packages, File: file}
	if err := c.write(recipes); err != nil {
		return nil, fmt.Errorf("make closure %q: %w", name, err)
	}
	return c, nil
}

// recipes also returns the names of the package files.
func (m *Maker) recipes(ctx context.Context, name string) ([]*recipe, []string, error) {
	if name == Tiny {
		tiny := configuration("tiny", tinyPaths, nil)
		return append(tiny, links("tiny-1.0", tiny, func(i int) string { return fmt.Sprintf("%04d-%s", i, tiny[i].name) })), nil, nil
	}
	suite, list := m.Old, systemPackages
	switch name {
	case Upgrade:
		suite = m.New
	case Large:
		list = largePackages
	}
	files, err := (&archive{suite: suite, dir: m.Dir}).fetch(ctx, list, m.Say)
	if err != nil {
		return nil, nil, err
	}
	all, err := sources(ctx, files)
	if err != nil {
		return nil, nil, err
	}
	var packages []string
	for _, file := range files {
		packages = append(packages, strings.TrimSuffix(filepath.Base(file), ".deb"))
	}
	switch name {
	case Large:
		return []*recipe{large(ctx, all)}, packages, nil
	case Patch:
		all = patch(all)
	}
	return system(ctx, all), packages, nil
}

// large is a path with the packages' files, up to largeSize.
func large(ctx context.Context, all []source) *recipe {
	r := &recipe{name: "large-1.0", content: "large"}
	r.tree = func(self string, _ []string) (*node, error) {
		root := &node{children: map[string]*node{}}
		size := 0
		for _, s := range all {
			tree, err := s.tree(ctx)
			if err != nil {
				return nil, err
			}
			tree.plant(self, nil)
			_ = tree.walk("", func(name string, n *node) error { // the visitor does not fail
				if n.children == nil && size < largeSize {
					n.content = n.content[:min(len(n.content), largeSize-size)]
					size += len(n.content)
					root.add(name, n)
				}
				return nil
			})
		}
		return root, nil
	}
	return r
}

// write makes the closure's file, and beside it what is in it, as a whole or not at all.
func (c *Closure) write(recipes []*recipe) (err error) {
	f, err := os.Create(c.File + ".new")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	for _, r := range recipes {
		p, err := r.export(w)
		if err != nil {
			return err
		}
		c.Paths = append(c.Paths, p)
	}
	if err := errors.Join(number(w, 0), w.Flush()); err != nil {
		return err
	}
	index, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(indexOf(c.File), index, 0o644); err != nil {
		return err
	}
	return os.Rename(c.File+".new", c.File)
}

func indexOf(file string) string { return file + ".json" }

func load(file string) (*Closure, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(indexOf(file))
	if err != nil {
		return nil, err
	}
	c := &Closure{File: file}
	return c, json.Unmarshal(data, c)
}

// CopyPaths writes an export of some of the closure's paths.
func (c *Closure) CopyPaths(w io.Writer, paths []Path) error {
	wanted := map[string]bool{}
	for _, p := range paths {
		wanted[p.Path] = true
	}
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	var offset int64
	for _, p := range c.Paths {
		size := p.exportSize()
		if wanted[p.Path] {
			if _, err := io.Copy(w, io.NewSectionReader(f, offset, size)); err != nil {
				return fmt.Errorf("copy %s: %w", p.Path, err)
			}
		}
		offset += size
	}
	return number(w, 0)
}

// exportSize is how long the path's part of an export is.
func (p Path) exportSize() int64 {
	var b strings.Builder
	_ = trailer(&b, p) // a strings.Builder takes everything
	return 8 + int64(p.NarSize) + int64(b.Len())
}
