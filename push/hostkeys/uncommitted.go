package hostkeys

import (
	"bytes"
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"fleet/closure/run"
)

// Uncommitted lists the files of the fleet's state that somebody has to commit, sorted, relative to the folder of the flake: what git
// says has changed, also in earlier runs, and what this store wrote where git cannot be asked. A pin that is not committed
// protects nobody else, and a flake that is fetched from its revision does not have it.
func (s *Store) Uncommitted(ctx context.Context) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	files, ok := s.changed(ctx)
	if !ok {
		files = slices.Collect(maps.Keys(s.written))
	}
	slices.Sort(files)
	return files
}

// changed asks git. The answer is false where there is no git, or dir is no work tree of it.
func (s *Store) changed(ctx context.Context) ([]string, bool) {
	prefix, err := s.git(ctx, "rev-parse", "--show-prefix")
	if err != nil {
		return nil, false
	}
	// The names are relative to the top of the work tree, and end in NUL (git-status(1), porcelain format version 1).
	out, err := s.git(ctx, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--", filepath.Join("fleet-state", s.fleet))
	if err != nil {
		return nil, false
	}
	var files []string
	for entry := range strings.SplitSeq(out, "\x00") {
		if len(entry) > len("XY ") {
			files = append(files, strings.TrimPrefix(entry[len("XY "):], strings.TrimSuffix(prefix, "\n")))
		}
	}
	return files, true
}

// git runs git in the folder of the flake and returns what it printed.
func (s *Store) git(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := s.runner.Run(ctx, run.Cmd{
		Argv:   append([]string{"git", "--no-optional-locks", "-C", s.dir}, args...),
		Stdout: &out, NewSession: true,
	})
	return out.String(), err
}
