// Package nar reads and writes NARs, the archive format of Nix (libutil/archive.cc).
//
// The format has one encoding for each tree, and the package holds both sides to it: a [Parse] that succeeds has read
// exactly the bytes that a [Writer] writes for the same tree. Names are unique and sorted, none can leave its
// directory, lengths and depth are bounded, padding is zero, and a NAR that is cut anywhere is an error that
// wraps [io.ErrUnexpectedEOF]. Memory does not grow with the size of files. Hashes are the caller's affair.
package nar

import (
	"fmt"
	"io"
	"strings"
)

const (
	// magic begins each NAR.
	magic = "nix-archive-1"
	// MaxNameLength is the longest name of a directory entry, in bytes: Linux' NAME_MAX.
	MaxNameLength = 255
	// MaxTargetLength is the longest target of a symlink, in bytes: Linux' PATH_MAX without its final NUL.
	MaxTargetLength = 4095
	// MaxDepth is how deep directories may be nested. Nix itself had no limit for long, and store paths that
	// bundle other package managers' trees nest deeper than one would think.
	MaxDepth = 256
	// maxTag is longer than any tag and type of the format.
	maxTag = 16
)

// Handler receives the nodes of a tree, each directory before what it holds and entries in the order of their names.
// The root's path is empty; others are relative, with slashes. An error ends the parsing and is returned as it is.
type Handler interface {
	Directory(path string) error
	// File must not use contents after it has returned. What it does not read is skipped.
	File(path string, executable bool, size uint64, contents io.Reader) error
	Symlink(path, target string) error
}

// FormatError says that something is not a NAR, or that a tree cannot be one.
type FormatError struct {
	// Path is the node inside of the tree, empty for the root.
	Path   string
	Reason string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return "nar: " + e.Reason
	}
	return fmt.Sprintf("nar: entry %q: %s", e.Path, e.Reason)
}

// checkName returns the rule that the name of a directory entry breaks, or the empty string.
func checkName(name string) string {
	switch {
	case name == "":
		return "an entry has no name"
	case name == "." || name == "..":
		return fmt.Sprintf("an entry is called %q", name)
	case len(name) > MaxNameLength:
		return fmt.Sprintf("a name is longer than %d bytes", MaxNameLength)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Sprintf("a name contains a slash or NUL: %q", name)
	}
	return ""
}

func checkTarget(target string) string {
	switch {
	case target == "":
		return "a symlink has no target"
	case len(target) > MaxTargetLength:
		return fmt.Sprintf("a symlink's target is longer than %d bytes", MaxTargetLength)
	case strings.Contains(target, "\x00"):
		return "a symlink's target contains NUL"
	}
	return ""
}

// padding is the number of zero bytes that follow a string of n bytes.
func padding(n uint64) int { return int(-n & 7) }

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
