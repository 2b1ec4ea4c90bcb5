package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fleet/closure/run"
)

const (
	// gitTimeout bounds one call of git.
	gitTimeout = time.Minute
	// maxGit bounds what git prints in one call, in bytes.
	maxGit = 256 << 20
	// indexWait bounds how long another git process is waited for, and indexPause how often it is looked for.
	indexWait  = 5 * time.Second
	indexPause = 50 * time.Millisecond
)

// git runs git in the folder of the flake and returns what it printed. Names are taken as they are, and printed without quotes.
func (s *Store) git(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	out := &bounded{left: maxGit}
	err := s.runner.Run(ctx, run.Cmd{
		Argv:  append([]string{"git", "--literal-pathspecs", "--no-optional-locks", "-C", s.dir}, args...),
		Env:   []string{"LC_ALL=C"},
		Stdin: stdin, Stdout: out, NewSession: true,
	})
	return out.Bytes(), err
}

// bounded is a buffer that refuses to grow without end.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("git printed more than %d bytes", maxGit)
	}
	return b.Buffer.Write(p)
}

// inWorktree says whether the folder of the flake is in a work tree of git. The answer is kept.
func (s *Store) inWorktree(ctx context.Context) (bool, error) {
	if s.worktree != nil {
		return *s.worktree, nil
	}
	out, err := s.git(ctx, nil, "rev-parse", "--is-inside-work-tree")
	var failed *run.ExitError
	switch {
	case errors.As(err, &failed) && strings.Contains(failed.StderrTail, "not a git repository"):
	case err != nil:
		return false, err
	}
	inside := strings.TrimSpace(string(out)) == "true"
	s.worktree = &inside
	return inside, nil
}

// track tells git of what was written and removed below a path: new files are marked as to be added, since Nix sees of a work tree only
// what git knows, and files that git had only been told of, and that are gone, are forgotten. Nothing is staged.
func (s *Store) track(ctx context.Context, below string) error {
	inside, err := s.inWorktree(ctx)
	if err == nil && inside {
		err = errors.Join(s.addNew(ctx, below), s.forgetGone(ctx, below))
	}
	if err != nil {
		return &UntrackedError{Path: below, Err: err}
	}
	return nil
}

func (s *Store) addNew(ctx context.Context, below string) error {
	format := s.folder() + "/format"
	files, err := s.git(ctx, nil, "ls-files", "--others", "-z", "--", below, format)
	if err != nil {
		return err
	}
	files = withoutLeftovers(files)
	if len(files) == 0 {
		return nil
	}
	return s.index(ctx, files, "add", "--intent-to-add")
}

// forgetGone takes files out of the index that neither the last commit nor the work tree has. Deletions of what is committed are the
// person's to commit, as changes are.
func (s *Store) forgetGone(ctx context.Context, below string) error {
	gone, err := s.git(ctx, nil, "ls-files", "--deleted", "-z", "--", below)
	if err != nil || len(gone) == 0 {
		return err
	}
	committed := map[string]bool{}
	if _, err := s.git(ctx, nil, "rev-parse", "--verify", "--quiet", "HEAD"); err == nil {
		names, err := s.git(ctx, nil, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", below)
		if err != nil {
			return err
		}
		for _, name := range fields(names) {
			committed[name] = true
		}
	}
	var forget []byte
	for _, name := range fields(gone) {
		if !committed[name] {
			forget = append(append(forget, name...), 0)
		}
	}
	if len(forget) == 0 {
		return nil
	}
	return s.index(ctx, forget, "rm", "--cached", "--quiet", "--ignore-unmatch")
}

// index runs a command that changes the index, on files that are given with a NUL after each. Another git's lock of the index is waited for.
func (s *Store) index(ctx context.Context, files []byte, args ...string) error {
	for deadline := time.Now().Add(indexWait); ; {
		_, err := s.git(ctx, bytes.NewReader(files), append(args, "--pathspec-from-file=-", "--pathspec-file-nul")...)
		var failed *run.ExitError
		if !errors.As(err, &failed) || !strings.Contains(failed.StderrTail, "index.lock") || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(indexPause):
		}
	}
}

// fields splits names that have a NUL after each.
func fields(data []byte) []string {
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == 0 })
}

// withoutLeftovers drops what is in a folder whose name begins with a dot, which a writer removes or has left.
func withoutLeftovers(files []byte) []byte {
	var kept []byte
	for _, name := range fields(files) {
		if !strings.Contains(name, "/.") {
			kept = append(append(kept, name...), 0)
		}
	}
	return kept
}
