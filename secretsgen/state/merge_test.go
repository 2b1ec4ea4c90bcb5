package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// operators are two people with clones of one repository that has base, of which each has committed what change says.
func operators(t *testing.T, base *state.Entry, ours, theirs func(t *testing.T, s *state.Store)) (dir string, s *state.Store) {
	t.Helper()
	first := repository(t)
	write(t, filepath.Join(first, "flake.nix"), "{ }\n")
	if base != nil {
		put(t, open(t, first), base)
	}
	commit(t, first, "base")
	second := filepath.Join(t.TempDir(), "clone")
	git(t, first, "clone", "-q", first, second)
	configure(t, second)
	theirs(t, open(t, first))
	commit(t, first, "theirs")
	ours(t, open(t, second))
	commit(t, second, "ours")
	return second, open(t, second)
}

func putting(entries ...*state.Entry) func(*testing.T, *state.Store) {
	return func(t *testing.T, s *state.Store) {
		t.Helper()
		for _, e := range entries {
			put(t, s, e)
		}
	}
}

func merge(t *testing.T, dir string) {
	t.Helper()
	if out, err := tryGit(t, dir, "pull", "-q", "--no-rebase", "--no-edit"); err == nil {
		t.Fatalf("there is no conflict: %s", out)
	}
}

// isConflict says whether the secret is named as one in conflict, and with its remedy.
func isConflict(t *testing.T, s *state.Store, id secret.ID) {
	t.Helper()
	conflicts, err := s.Conflicts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]secret.ID{id}, conflicts); diff != "" {
		t.Error(diff)
	}
	var broken *state.BrokenError
	if e := load(t, s).Secrets[id]; !errors.As(e.Err, &broken) || !strings.Contains(broken.Hint(), "fleet secrets resolve") {
		t.Errorf("got %v", e.Err)
	}
}

// isResolved says whether the work tree and the index have just this value, and nothing in conflict.
func isResolved(t *testing.T, s *state.Store, want *state.Entry) {
	t.Helper()
	if diff := cmp.Diff(want, load(t, s).Secrets[want.ID]); diff != "" {
		t.Error(diff)
	}
	if out := git(t, s.Dir(), "ls-files", "--unmerged", "--", s.Path(want.ID)); out != "" {
		t.Errorf("in conflict: %s", out)
	}
	if out := git(t, s.Dir(), "status", "--short", "--", s.Path(want.ID)); strings.Contains(out, "??") || strings.Contains(out, " M ") || strings.Contains(out, " D ") {
		t.Errorf("not staged: %s", out)
	}
}

func TestTwoOperatorsWhoMadeTheSameSecret(t *testing.T) {
	for _, side := range []state.Side{state.Ours, state.Theirs} {
		t.Run(string(side), func(t *testing.T) {
			ours, theirs := entry(t, "shared/db", gen2, 1, "a", "b", "ours"), entry(t, "shared/db", gen3, 1, "a", "b", "theirs")
			dir, s := operators(t, nil, putting(ours, entry(t, "shared/mine", gen1, 1, "a")), putting(theirs, entry(t, "shared/yours", gen1, 1, "a")))
			merge(t, dir)
			isConflict(t, s, ours.ID)
			// The owner that only one side has was merged without a conflict: what is there now is a mix.
			if _, err := os.Stat(filepath.Join(dir, s.Path(ours.ID), "owners/theirs.json")); err != nil {
				t.Fatal(err)
			}
			if err := s.Resolve(t.Context(), ours.ID, side); err != nil {
				t.Fatal(err)
			}
			isResolved(t, s, map[state.Side]*state.Entry{state.Ours: ours, state.Theirs: theirs}[side])
			if tree := load(t, s); len(tree.Secrets) != 3 {
				t.Errorf("got %v", tree.Secrets)
			}
			git(t, dir, "commit", "-q", "--no-edit")
			if out := git(t, dir, "status", "--short"); out != "" {
				t.Errorf("after the merge: %s", out)
			}
			var none *state.NoConflictError
			if err := s.Resolve(t.Context(), ours.ID, side); !errors.As(err, &none) {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestTwoOperatorsWhoRenewedTheSameSecret(t *testing.T) {
	base := entry(t, "host/a/db", gen1, 1, "a")
	ours, theirs := entry(t, "host/a/db", gen2, 2, "a"), entry(t, "host/a/db", gen3, 2, "a")
	dir, s := operators(t, base, putting(ours), putting(theirs))
	merge(t, dir)
	isConflict(t, s, ours.ID)
	if err := s.Resolve(t.Context(), ours.ID, state.Theirs); err != nil {
		t.Fatal(err)
	}
	isResolved(t, s, theirs)
}

func TestInARebaseTheirsIsTheCommitThatIsApplied(t *testing.T) {
	for _, side := range []state.Side{state.Ours, state.Theirs} {
		base := entry(t, "shared/db", gen1, 1, "a", "old")
		mine, upstream := entry(t, "shared/db", gen2, 2, "a", "mine"), entry(t, "shared/db", gen3, 2, "a", "upstream")
		dir, s := operators(t, base, putting(mine), putting(upstream))
		if _, err := tryGit(t, dir, "pull", "-q", "--rebase"); err == nil {
			t.Fatal("there is no conflict")
		}
		isConflict(t, s, base.ID)
		if err := s.Resolve(t.Context(), base.ID, side); err != nil {
			t.Fatal(err)
		}
		isResolved(t, s, map[state.Side]*state.Entry{state.Ours: upstream, state.Theirs: mine}[side])
	}
}

func TestInAStashTheSideIsTakenFromTheIndex(t *testing.T) {
	for _, side := range []state.Side{state.Ours, state.Theirs} {
		dir := repository(t)
		s := open(t, dir)
		put(t, s, entry(t, "shared/db", gen1, 1, "a"))
		commit(t, dir, "base")
		stashed, committed := entry(t, "shared/db", gen2, 2, "a"), entry(t, "shared/db", gen3, 2, "a")
		put(t, s, stashed)
		git(t, dir, "stash", "-q")
		put(t, s, committed)
		commit(t, dir, "another")
		if _, err := tryGit(t, dir, "stash", "pop", "-q"); err == nil {
			t.Fatal("there is no conflict")
		}
		isConflict(t, s, stashed.ID)
		if err := s.Resolve(t.Context(), stashed.ID, side); err != nil {
			t.Fatal(err)
		}
		isResolved(t, s, map[state.Side]*state.Entry{state.Ours: committed, state.Theirs: stashed}[side])
	}
}

func TestRemovedHereAndRenewedThere(t *testing.T) {
	base, renewed := entry(t, "shared/db", gen1, 1, "a"), entry(t, "shared/db", gen2, 2, "a")
	removing := func(t *testing.T, s *state.Store) {
		t.Helper()
		if err := s.Remove(t.Context(), base.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, side := range []state.Side{state.Ours, state.Theirs} {
		dir, s := operators(t, base, removing, putting(renewed))
		merge(t, dir)
		if err := s.Resolve(t.Context(), base.ID, side); err != nil {
			t.Fatal(err)
		}
		if side == state.Theirs {
			isResolved(t, s, renewed)
		} else if tree := load(t, s); len(tree.Secrets) > 0 {
			t.Errorf("got %v", tree.Secrets)
		}
		git(t, dir, "commit", "-q", "--no-edit")
		if out := git(t, dir, "status", "--short"); out != "" {
			t.Errorf("after the merge: %s", out)
		}
	}
}

func TestDifferentOwnersMergeWithoutAConflict(t *testing.T) {
	base := entry(t, "shared/db", gen1, 1, "a")
	dir, s := operators(t, base, putting(entry(t, "shared/db", gen1, 1, "a", "b")), putting(entry(t, "shared/db", gen1, 1, "a", "c")))
	git(t, dir, "pull", "-q", "--no-rebase", "--no-edit")
	if diff := cmp.Diff(entry(t, "shared/db", gen1, 1, "a", "b", "c"), load(t, s).Secrets[base.ID]); diff != "" {
		t.Error(diff)
	}
}

func TestASideThatIsNoWholeValueIsRefused(t *testing.T) {
	base := entry(t, "shared/db", gen1, 1, "a")
	mixing := func(t *testing.T, s *state.Store) {
		t.Helper()
		put(t, s, entry(t, "shared/db", gen2, 2, "a"))
		data, err := owner("b", gen3).Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(s.Dir(), s.Path(base.ID), "owners/b.json"), string(data))
	}
	good := entry(t, "shared/db", gen3, 2, "a")
	dir, s := operators(t, base, putting(good), mixing)
	merge(t, dir)
	before := snapshot(t, filepath.Join(dir, "fleet-state"))
	if err := s.Resolve(t.Context(), base.ID, state.Theirs); err == nil || !strings.Contains(err.Error(), "no whole value") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, snapshot(t, filepath.Join(dir, "fleet-state"))); diff != "" {
		t.Error(diff)
	}
	if err := s.Resolve(t.Context(), base.ID, "both"); err == nil {
		t.Error("a third side was taken")
	}
	if err := s.Resolve(t.Context(), base.ID, state.Ours); err != nil {
		t.Error(err)
	}
	isResolved(t, s, good)
}

func TestMarkersThatWereCommittedAreNoConflictOfGit(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	e := entry(t, "shared/db", gen1, 1, "a")
	put(t, s, e)
	conflict("meta.json")(t, filepath.Join(dir, s.Path(e.ID)))
	commit(t, dir, "by mistake")
	var none *state.NoConflictError
	if err := s.Resolve(t.Context(), e.ID, state.Ours); !errors.As(err, &none) || !strings.Contains(none.Hint(), "fleet secrets regenerate shared/db") {
		t.Errorf("got %v", err)
	}
}
