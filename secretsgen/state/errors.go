package state

import (
	"errors"
	"fmt"
	"strings"

	"fleet/secretsgen/secret"
)

// BrokenError says that a file of a secret cannot be read. The secret is never taken for one that is not there.
type BrokenError struct {
	ID secret.ID
	// Path is relative to the folder of the flake.
	Path string
	// Owner is the host whose copy alone is broken; empty where the secret as a whole is.
	Owner string
	Err   error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("read secret %s: %s: %v", e.ID, e.Path, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }

// Conflict says whether git left a conflict in the file.
func (e *BrokenError) Conflict() bool { return errors.Is(e.Err, secret.ErrMergeMarkers) }

// Stray says whether the file has no place in a secret, which is then all right but for that.
func (e *BrokenError) Stray() bool { return errors.Is(e.Err, errStray) }

// Hint is the command that mends it.
func (e *BrokenError) Hint() string {
	if e.Stray() {
		path := word(e.Path)
		return "remove it: git rm -r --force -- " + path + ", or rm -r -- " + path + " where git does not know it"
	}
	if e.Conflict() {
		return fmt.Sprintf("fleet secrets resolve --ours %s, or --theirs: it takes one side's value as a whole", e.ID)
	}
	folder := e.Path
	if i := strings.Index(folder, e.ID.String()); i >= 0 {
		folder = folder[:i+len(e.ID.String())]
	}
	folder = word(folder)
	return fmt.Sprintf("git checkout HEAD -- %s, where the last commit has it right; else: fleet secrets regenerate %s, or set where a person gives the value", folder, e.ID)
}

// word is a path as one word of a shell's command: what the state's files are called may come from a merge request, and people copy commands.
func word(path string) string {
	plain := strings.IndexFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-", r)
	}) < 0
	if plain && path != "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// Faults lists what is broken of a secret, in the order in which it was found.
func (e *Entry) Faults() []*BrokenError { return faults(e.Err) }

func faults(err error) []*BrokenError {
	switch err := err.(type) {
	case *BrokenError:
		return []*BrokenError{err}
	case interface{ Unwrap() []error }:
		var all []*BrokenError
		for _, each := range err.Unwrap() {
			all = append(all, faults(each)...)
		}
		return all
	}
	return nil
}

// UntrackedError says that files were written, but git was not told of them: a flake in git does not see them.
type UntrackedError struct {
	// Path is relative to the folder of the flake.
	Path string
	Err  error
}

func (e *UntrackedError) Error() string { return fmt.Sprintf("add %q to git: %v", e.Path, e.Err) }
func (e *UntrackedError) Unwrap() error { return e.Err }

// Hint is the command that mends it.
func (e *UntrackedError) Hint() string { return "git add --intent-to-add " + e.Path }

// LockedError says that another process writes into the work tree.
type LockedError struct {
	// Holder says who: "process 4711 of alice on laptop since 2026-01-02 15:04:05". It comes from the lock's file, and is empty where nobody can tell.
	Holder string
}

func (e *LockedError) Error() string {
	if e.Holder == "" {
		return "lock the state: another process writes into this work tree"
	}
	return fmt.Sprintf("lock the state: %s writes into this work tree", e.Holder)
}

// Hint is the remedy.
func (e *LockedError) Hint() string {
	return "wait until it is done, or end it, and run the command again"
}
