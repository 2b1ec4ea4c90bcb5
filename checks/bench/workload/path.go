package workload

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// Path is a store path of a closure.
type Path struct {
	Path string `json:"path"`
	// NarSize is in bytes.
	NarSize uint64   `json:"narSize"`
	Refs    []string `json:"refs"`
	// Hash is the SHA-256 of the NAR, in hexadecimal digits.
	Hash string `json:"hash"`
}

// recipe says what a path is, before the hashes of what it refers to are known.
type recipe struct {
	name string
	// content stands for what tree returns: recipes of equal content have equal trees.
	content string
	refs    []*recipe
	// tree makes the contents. self and refs are store paths.
	tree func(self string, refs []string) (*node, error)

	path string
}

// place gives the recipe its store path. As in Nix it follows from all that the path is made of, so a change renews whatever is built upon it; the
// salt stands for a change that everything is built upon.
func (r *recipe) place(salt string) string {
	if r.path == "" {
		h := sha256.New()
		fmt.Fprintf(h, "%s\x00%s\x00%s\x00", salt, r.name, r.content)
		for _, ref := range r.refs {
			fmt.Fprintf(h, "%s\x00", ref.place(salt))
		}
		r.path = storepath.StoreDir + "/" + storepath.EncodeBase32(h.Sum(nil)[:20]) + "-" + r.name
	}
	return r.path
}

// export writes the path as `nix-store --export` does (libstore/export-import.cc), and says what it has written.
func (r *recipe) export(w io.Writer) (Path, error) {
	p := Path{Path: r.path}
	for _, ref := range r.refs {
		p.Refs = append(p.Refs, ref.path)
	}
	tree, err := r.tree(r.path, p.Refs)
	if err != nil {
		return p, fmt.Errorf("make %s: %w", r.path, err)
	}
	slices.Sort(p.Refs)
	p.Refs = slices.Compact(p.Refs)
	if err := number(w, 1); err != nil {
		return p, err
	}
	sum := sha256.New()
	archive := nar.NewWriter(io.MultiWriter(w, sum))
	if err := tree.write(archive); err != nil {
		return p, fmt.Errorf("write %s: %w", r.path, err)
	}
	p.NarSize, p.Hash = archive.Size(), hex.EncodeToString(sum.Sum(nil))
	return p, trailer(w, p)
}

const exportMagic = 0x4558494e

func trailer(w io.Writer, p Path) error {
	var b strings.Builder
	_ = number(&b, exportMagic) // a strings.Builder takes everything
	text(&b, p.Path)
	_ = number(&b, uint64(len(p.Refs)))
	for _, ref := range p.Refs {
		text(&b, ref)
	}
	text(&b, "") // deriver
	_ = number(&b, 0)
	_, err := io.WriteString(w, b.String())
	return err
}

func number(w io.Writer, n uint64) error {
	return binary.Write(w, binary.LittleEndian, n)
}

func text(b *strings.Builder, s string) {
	_ = number(b, uint64(len(s)))
	b.WriteString(s)
	b.WriteString(strings.Repeat("\x00", (8-len(s)%8)%8))
}
