package state_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fleet/secretsgen/state"
)

func TestTheHistoryOfASecret(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	db := id(t, "shared/db")
	put(t, s, entry(t, "shared/db", gen1, 1, "a", "b"))
	put(t, s, entry(t, "shared/other", gen1, 1, "a"))
	commit(t, dir, "Made it\n\nwith a body")
	put(t, s, entry(t, "shared/other", gen2, 2, "a"))
	commit(t, dir, "Something else")
	renewed := entry(t, "shared/db", gen2, 2, "a", "c")
	renewed.Meta.ExpiresAt = &at
	put(t, s, renewed)
	commit(t, dir, "Renewed \x1b[31mit")
	o := owner("c", gen2)
	o.Parts["secret"] = sealedText("again")
	renewed.Owners["c"] = o
	put(t, s, renewed)
	git(t, dir, "commit", "-q", "--all", "-m", "Wrapped again")
	if err := s.Remove(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "commit", "-q", "--all", "-m", "Removed")
	put(t, s, entry(t, "shared/db", gen3, 1, "a"))

	changes, err := s.Log(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	want := []state.Change{
		{ID: db, Gen: gen3, OwnersAdded: []string{"a"}},
		{ID: db, Author: "A Person", Subject: "Removed", OldGen: gen2, Removed: true, OldExpiresAt: &at, OwnersRemoved: []string{"a", "c"}},
		{ID: db, Author: "A Person", Subject: "Wrapped again", OldGen: gen2, Gen: gen2, OldExpiresAt: &at, ExpiresAt: &at, OwnersRewrapped: []string{"c"}},
		{ID: db, Author: "A Person", Subject: "Renewed [31mit", OldGen: gen1, Gen: gen2, ExpiresAt: &at, OwnersAdded: []string{"c"}, OwnersRemoved: []string{"b"}},
		{ID: db, Author: "A Person", Subject: "Made it", Gen: gen1, OwnersAdded: []string{"a", "b"}},
	}
	if diff := cmp.Diff(want, changes, cmpopts.IgnoreFields(state.Change{}, "Commit", "At")); diff != "" {
		t.Error(diff)
	}
	for _, c := range changes[1:] {
		if len(c.Commit) < 40 || c.At.IsZero() {
			t.Errorf("got %+v", c)
		}
	}
}

func TestAMergeIsComparedWithTheBranchThatItWentInto(t *testing.T) {
	base := entry(t, "shared/db", gen1, 1, "a")
	dir, s := operators(t, base, putting(entry(t, "shared/db", gen1, 1, "a", "b")), putting(entry(t, "shared/db", gen1, 1, "a", "c")))
	git(t, dir, "pull", "-q", "--no-rebase", "--no-edit")
	changes, err := s.Log(t.Context(), base.ID)
	if err != nil || len(changes) < 3 {
		t.Fatalf("got %+v, %v", changes, err)
	}
	var added []string
	for _, c := range changes {
		added = append(added, c.OwnersAdded...)
	}
	for _, host := range []string{"a", "b", "c"} {
		if !contains(added, host) {
			t.Errorf("nobody added %s: %+v", host, changes)
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func TestWhatBecameOfSecretsSinceARevision(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	put(t, s, entry(t, "shared/db", gen1, 1, "a", "b"))
	put(t, s, entry(t, "host/a/own", gen1, 1, "a"))
	put(t, s, entry(t, "shared/same", gen1, 1, "a"))
	put(t, s, entry(t, "shared/broken", gen1, 1, "a"))
	commit(t, dir, "one")
	git(t, dir, "tag", "v1")
	put(t, s, entry(t, "shared/db", gen2, 2, "a"))
	commit(t, dir, "two")
	put(t, s, entry(t, "shared/new", gen1, 1, "a"))
	if err := s.Remove(t.Context(), id(t, "host/a/own")); err != nil {
		t.Fatal(err)
	}
	conflict("meta.json")(t, filepath.Join(dir, s.Path(id(t, "shared/broken"))))
	changes, err := s.Diff(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	want := []state.Change{
		{ID: id(t, "host/a/own"), OldGen: gen1, Removed: true, OwnersRemoved: []string{"a"}},
		{ID: id(t, "shared/broken"), OldGen: gen1},
		{ID: id(t, "shared/db"), OldGen: gen1, Gen: gen2, OwnersRemoved: []string{"b"}},
		{ID: id(t, "shared/new"), Gen: gen1, OwnersAdded: []string{"a"}},
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Error(diff)
	}
	if changes, err := s.Diff(t.Context(), "HEAD"); err != nil || len(changes) != 3 {
		t.Errorf("got %+v, %v", changes, err)
	}
}

func TestWhatIsNoRevisionIsRefused(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	put(t, s, entry(t, "shared/db", gen1, 1, "a"))
	commit(t, dir, "one")
	mark := filepath.Join(dir, "made-by-an-option")
	for _, rev := range []string{"", "nothing", "--output=" + mark, "-h", "HEAD\nHEAD", "HEAD:flake.nix", "a\x00b"} {
		if changes, err := s.Diff(t.Context(), rev); err == nil {
			t.Errorf("%q: %+v", rev, changes)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a revision was taken for an option")
	}
}
