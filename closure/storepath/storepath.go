// Package storepath parses and prints the names of Nix store paths, and holds what a store knows of one path.
//
// It is strict: only complete paths directly below [StoreDir] are accepted, so that a [Path] that came from
// a host, a file or the network can be joined with other text without further checks. It never touches a file system.
package storepath

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	// StoreDir is the only store directory that is supported.
	StoreDir = "/nix/store"
	// HashLength is the number of characters of a path's hash part: 160 bits, 5 a character.
	HashLength = 32
	// MaxNameLength bounds a path's name, in bytes. Nix refuses longer ones, so that names with a
	// suffix such as ".lock" still fit in a file name (libstore/path.cc).
	MaxNameLength = 211
)

// Path is a store path. It is comparable, so it can be the key of a map. The zero value means "none" and
// is printed as the empty string.
type Path struct {
	// base is "<hash>-<name>", or empty.
	base string
}

// ParseError says why a text is not a store path.
type ParseError struct {
	// Text is what was parsed, cut at 300 bytes.
	Text string
	// Reason is the rule that it breaks.
	Reason string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("parse store path %q: %s", e.Text, e.Reason)
}

// Parse reads a full store path, such as /nix/store/<hash>-<name>. Anything below it, a trailing slash
// and the empty text are errors, of type [*ParseError].
func Parse(text string) (Path, error) {
	base, ok := strings.CutPrefix(text, StoreDir+"/")
	if !ok {
		return Path{}, parseError(text, "it is not below "+StoreDir)
	}
	if reason := checkBase(base); reason != "" {
		return Path{}, parseError(text, reason)
	}
	return Path{base: strings.Clone(base)}, nil
}

// ParseBase reads the last component of a store path, <hash>-<name>.
func ParseBase(base string) (Path, error) {
	if reason := checkBase(base); reason != "" {
		return Path{}, parseError(base, reason)
	}
	return Path{base: strings.Clone(base)}, nil
}

// Containing returns the store path that file is, or lies in: /nix/store/<hash>-<name>/bin/sh gives
// /nix/store/<hash>-<name>. The file must be written in its shortest form, without "." or "..".
func Containing(file string) (Path, error) {
	rest, ok := strings.CutPrefix(file, StoreDir+"/")
	if !ok {
		return Path{}, parseError(file, "it is not below "+StoreDir)
	}
	if path.Clean(file) != file {
		return Path{}, parseError(file, "it is not in its shortest form")
	}
	base, _, _ := strings.Cut(rest, "/")
	return ParseBase(base)
}

// String returns the full path, or the empty string for the zero Path.
func (p Path) String() string {
	if p.base == "" {
		return ""
	}
	return StoreDir + "/" + p.base
}

// Base returns "<hash>-<name>".
func (p Path) Base() string { return p.base }

// Hash returns the hash part, 32 characters of Nix's base 32, or the empty string for the zero Path.
func (p Path) Hash() string {
	if p.base == "" {
		return ""
	}
	return p.base[:HashLength]
}

// Name returns what follows the hash part.
func (p Path) Name() string {
	if p.base == "" {
		return ""
	}
	return p.base[HashLength+1:]
}

// IsZero says whether p is the zero Path.
func (p Path) IsZero() bool { return p.base == "" }

// IsDerivation says whether the path names a derivation file.
func (p Path) IsDerivation() bool { return strings.HasSuffix(p.base, ".drv") }

// Compare orders paths as their texts are ordered, bytewise; the zero Path comes first.
func Compare(a, b Path) int { return cmp.Compare(a.base, b.base) }

// Compare is [Compare] as a method.
func (p Path) Compare(other Path) int { return Compare(p, other) }

// Sort sorts paths in place.
func Sort(paths []Path) { slices.SortFunc(paths, Compare) }

// MarshalText returns what [Path.String] returns.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a full store path; the empty text gives the zero Path.
func (p *Path) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Path{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

// checkBase returns the rule that base breaks, or the empty string.
func checkBase(base string) string {
	if len(base) < HashLength+2 || base[HashLength] != '-' {
		return "its last part is not <hash>-<name>"
	}
	for i := range HashLength {
		if _, ok := digitValue(base[i]); !ok {
			return "its hash is not in Nix's base 32"
		}
	}
	name := base[HashLength+1:]
	if len(name) > MaxNameLength {
		return fmt.Sprintf("its name is longer than %d bytes", MaxNameLength)
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return fmt.Sprintf("its name contains %q", name[i:i+1])
		}
	}
	// A name must not be "." or ".." even when it is cut at a "-" (libstore/path.cc).
	if head, _, _ := strings.Cut(name, "-"); head == "." || head == ".." {
		return fmt.Sprintf("its name begins with the component %q", head)
	}
	return ""
}

func nameByte(c byte) bool {
	switch {
	case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return true
	}
	return strings.IndexByte("+-._?=", c) >= 0
}

func parseError(text, reason string) error {
	const maxText = 300
	if len(text) > maxText {
		text = text[:maxText]
	}
	return &ParseError{Text: strings.Clone(text), Reason: reason}
}
