package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"fleet/secretsgen/secret"
)

// Side is a side of a merge.
type Side string

// The sides, as git calls them. In a rebase and a cherry-pick, ours is what it goes onto, and theirs the commit that is being applied.
const (
	Ours   Side = "ours"
	Theirs Side = "theirs"
)

// NoConflictError says that there is nothing to resolve.
type NoConflictError struct{ ID secret.ID }

func (e *NoConflictError) Error() string {
	return fmt.Sprintf("resolve secret %s: git has no conflict in it", e.ID)
}

// Hint is the remedy where conflict markers have been committed.
func (e *NoConflictError) Hint() string {
	return fmt.Sprintf("where its files have conflict markers all the same, they were committed: restore its folder from the commit before (git log -- '*%s*'), or make a new value: fleet secrets regenerate %s", e.ID, e.ID)
}

// staged is a file in the index. Stage 0 is a file without conflict, 2 is ours, 3 is theirs.
type staged struct {
	mode, blob, file string
	stage            int
}

// Conflicts lists the secrets that git has a conflict in, sorted. Without git there are none.
func (s *Store) Conflicts(ctx context.Context) ([]secret.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	inside, err := s.inWorktree(ctx)
	if err != nil || !inside {
		return nil, err
	}
	files, err := s.staged(ctx, "--unmerged", path.Join(s.folder(), "secrets"))
	if err != nil {
		return nil, fmt.Errorf("list conflicts: %w", err)
	}
	ids := map[secret.ID]bool{}
	for _, f := range files {
		if id, ok := s.idOf(f.file); ok {
			ids[id] = true
		}
	}
	return slices.SortedFunc(maps.Keys(ids), compareIDs), nil
}

// staged lists files of the index.
func (s *Store) staged(ctx context.Context, option, below string) ([]staged, error) {
	out, err := s.git(ctx, nil, "ls-files", option, "-z", "--", below)
	if err != nil {
		return nil, err
	}
	var files []staged
	for _, entry := range fields(out) {
		info, file, _ := strings.Cut(entry, "\t")
		words := strings.Fields(info)
		if len(words) != 3 {
			return nil, fmt.Errorf("git ls-files printed %.80q", entry)
		}
		stage, err := strconv.Atoi(words[2])
		if err != nil {
			return nil, fmt.Errorf("git ls-files printed %.80q", entry)
		}
		files = append(files, staged{mode: words[0], blob: words[1], file: file, stage: stage})
	}
	return files, nil
}

// Resolve ends the conflict in a secret with the whole value of one side, or its absence, and stages that. A mix of sides is never written:
// where one side's value cannot be had as a whole, it is an error. Where git has no conflict, it is a [*NoConflictError].
func (s *Store) Resolve(ctx context.Context, id secret.ID, side Side) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("resolve secret: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	inside, err := s.inWorktree(ctx)
	if err != nil {
		return fmt.Errorf("resolve secret %s: %w", id, err)
	}
	if !inside {
		return &NoConflictError{id}
	}
	files, err := s.staged(ctx, "--stage", s.Path(id))
	if err != nil {
		return fmt.Errorf("resolve secret %s: %w", id, err)
	}
	if !slices.ContainsFunc(files, func(f staged) bool { return f.stage > 0 }) {
		return &NoConflictError{id}
	}
	if err := s.resolve(ctx, id, side, files); err != nil {
		return fmt.Errorf("resolve secret %s with %s: %w", id, side, err)
	}
	return nil
}

func (s *Store) resolve(ctx context.Context, id secret.ID, side Side, files []staged) error {
	value, err := s.sideOf(ctx, id, side, files)
	if err != nil {
		return err
	}
	if len(value) == 0 {
		_, err = s.remove(id)
	} else {
		_, err = s.replace(id, value)
	}
	if err != nil {
		return err
	}
	return s.index(ctx, append([]byte(s.Path(id)), 0), "add", "--all")
}

// sideOf is the folder of a side, empty where it has none. It is taken from the side's commit, which has all of it; the index has
// only what is in conflict, and is what is left where the commit is not known, as with git stash.
func (s *Store) sideOf(ctx context.Context, id secret.ID, side Side, files []staged) (content, error) {
	stage := map[Side]int{Ours: 2, Theirs: 3}[side]
	if stage == 0 {
		return nil, fmt.Errorf("there are the sides %s and %s", Ours, Theirs)
	}
	tree, ok, err := s.commitSide(ctx, id, side, stage, files)
	if err != nil {
		return nil, err
	}
	if !ok {
		for _, f := range files {
			if f.stage == 0 || f.stage == stage {
				tree = append(tree, f)
			}
		}
	}
	value, err := s.contentOf(ctx, id, tree)
	if err != nil || len(value) == 0 {
		return nil, err
	}
	if !ok {
		value = withoutOtherGens(value)
	}
	if err := whole(parse(s.fleet, s.Path(id), id, value)); err != nil {
		return nil, fmt.Errorf("this side has no whole value: %w", err)
	}
	return value, nil
}

// commitSide finds the commit of a side: one that has, for every file in conflict, what the index has for the side.
func (s *Store) commitSide(ctx context.Context, id secret.ID, side Side, stage int, files []staged) (tree []staged, ok bool, err error) {
	candidates := []string{"HEAD"}
	if side == Theirs {
		candidates = []string{"MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD", "REVERT_HEAD^"}
	}
	for _, candidate := range candidates {
		out, err := s.git(ctx, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", candidate+"^{commit}")
		if err != nil {
			continue // there is none of that name
		}
		if tree, err = s.tree(ctx, strings.TrimSpace(string(out)), s.Path(id)); err != nil {
			return nil, false, err
		}
		if agrees(tree, stage, files) {
			return tree, true, nil
		}
	}
	return nil, false, nil
}

// agrees says whether a tree has a side's version of each file in conflict, and no version where the side has none.
func agrees(tree []staged, stage int, files []staged) bool {
	side, conflict := map[string]string{}, map[string]bool{}
	for _, f := range files {
		conflict[f.file] = conflict[f.file] || f.stage > 0
		if f.stage == stage {
			side[f.file] = f.blob
		}
	}
	has := map[string]string{}
	for _, f := range tree {
		has[f.file] = f.blob
	}
	for file, unmerged := range conflict {
		if unmerged && has[file] != side[file] {
			return false
		}
	}
	return true
}

// tree lists the files of a commit.
func (s *Store) tree(ctx context.Context, commit, below string) ([]staged, error) {
	out, err := s.git(ctx, nil, "ls-tree", "-r", "-z", commit, "--", below)
	if err != nil {
		return nil, err
	}
	var files []staged
	for _, entry := range fields(out) {
		info, file, _ := strings.Cut(entry, "\t")
		words := strings.Fields(info)
		if len(words) != 3 {
			return nil, fmt.Errorf("git ls-tree printed %.80q", entry)
		}
		files = append(files, staged{mode: words[0], blob: words[2], file: file})
	}
	return files, nil
}

// contentOf reads the files of a secret from git.
func (s *Store) contentOf(ctx context.Context, id secret.ID, files []staged) (content, error) {
	if len(files) > maxFiles {
		return nil, fmt.Errorf("there are more than %d files", maxFiles)
	}
	var hashes []string
	for _, f := range files {
		if f.mode != "100644" && f.mode != "100755" {
			return nil, fmt.Errorf("%s is no file", f.file)
		}
		hashes = append(hashes, f.blob)
	}
	blobs, err := s.blobs(ctx, hashes)
	if err != nil {
		return nil, err
	}
	value := make(content, len(files))
	for i, f := range files {
		if blobs[i] == nil {
			return nil, errors.New("git does not have all of its files")
		}
		value[strings.TrimPrefix(f.file, s.Path(id)+"/")] = blobs[i]
	}
	return value, nil
}

// withoutOtherGens drops owners' copies that are not of the generation of meta.json: in an index they may be the other side's.
func withoutOtherGens(value content) content {
	meta, err := secret.DecodeMeta(value[metaFile])
	if err != nil {
		return value
	}
	kept := maps.Clone(value)
	for file, data := range value {
		if owner, err := secret.DecodeOwner(data); err == nil && path.Dir(file) == ownersFolder && owner.Gen != meta.Gen {
			delete(kept, file)
		}
	}
	return kept
}
