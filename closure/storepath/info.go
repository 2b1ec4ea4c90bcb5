package storepath

import (
	"fmt"
	"strings"
)

// Info is what a store knows of one path. Package closure calls it PathInfo; it is kept here, so that
// the client of the Nix daemon needs nothing of package closure.
type Info struct {
	Path Path
	// NarHash is the SHA-256 of the path's NAR.
	NarHash [32]byte
	// NarSize is the size of the NAR, in bytes.
	NarSize uint64
	// References are sorted and include the path itself where it refers to itself.
	References []Path
	// Deriver is the zero Path where it is not known.
	Deriver Path
	// Signatures are "name:base64", as in narinfo files.
	Signatures []string
	// CA is the content address in Nix's notation, empty for input-addressed paths.
	CA string
}

// Fingerprint is the text that a signature of the path signs: path, hash, size and references, but neither
// deriver nor content address (libstore/path-info.cc).
func (i Info) Fingerprint() string {
	var refs strings.Builder
	for k, ref := range i.References {
		if k > 0 {
			refs.WriteByte(',')
		}
		refs.WriteString(ref.String())
	}
	return fmt.Sprintf("1;%s;sha256:%s;%d;%s", i.Path, EncodeBase32(i.NarHash[:]), i.NarSize, refs.String())
}
