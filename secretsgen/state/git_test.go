package state_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

func commit(t testing.TB, dir, message string) {
	t.Helper()
	git(t, dir, "add", "--all")
	git(t, dir, "commit", "-q", "-m", message)
}

func TestFilesThatGitWasOnlyToldOfAreForgottenWhenTheyGo(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	put(t, s, entry(t, "shared/db", gen1, 1, "a", "b"))
	put(t, s, entry(t, "shared/db", gen2, 2, "a")) // before there is any commit
	if files := git(t, dir, "ls-files", "--deleted"); files != "" {
		t.Errorf("git misses %q", files)
	}
	commit(t, dir, "one")
	put(t, s, entry(t, "shared/db", gen3, 3, "a", "c"))
	put(t, s, entry(t, "shared/new", gen3, 1, "a"))
	if err := errors.Join(s.Remove(t.Context(), id(t, "shared/db")), s.Remove(t.Context(), id(t, "shared/new"))); err != nil {
		t.Fatal(err)
	}
	want := " D fleet-state/default/secrets/shared/db/meta.json\n D fleet-state/default/secrets/shared/db/owners/a.json\n D fleet-state/default/secrets/shared/db/public/public\n"
	if diff := cmp.Diff(want, git(t, dir, "status", "--short")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"fleet-state/default/format"}, s.Written()[:1]); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAPersonStagedStaysStaged(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	put(t, s, entry(t, "shared/db", gen1, 1, "a"))
	git(t, dir, "add", "--all")
	put(t, s, entry(t, "shared/db", gen2, 2, "a", "b"))
	const folder = "fleet-state/default/"
	want := "A  " + folder + "format\nAM " + folder + "secrets/shared/db/meta.json\nAM " + folder + "secrets/shared/db/owners/a.json\n A " +
		folder + "secrets/shared/db/owners/b.json\nAM " + folder + "secrets/shared/db/public/public\n"
	if diff := cmp.Diff(want, git(t, dir, "status", "--short")); diff != "" {
		t.Error(diff)
	}
}

func TestAFlakeBelowTheTopOfItsWorkTree(t *testing.T) {
	top := repository(t)
	dir := filepath.Join(top, "infra", "my flake")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	e := entry(t, "shared/db", gen1, 1, "a")
	put(t, s, e)
	if files := git(t, top, "ls-files"); !strings.Contains(files, "infra/my flake/fleet-state/default/secrets/shared/db/meta.json\n") {
		t.Errorf("git knows %q", files)
	}
	commit(t, top, "one")
	put(t, s, entry(t, "shared/db", gen2, 2, "a"))
	commit(t, top, "two")
	changes, err := s.Log(t.Context(), e.ID)
	if err != nil || len(changes) != 2 || changes[0].OldGen != gen1 || changes[0].Gen != gen2 {
		t.Errorf("got %+v, %v", changes, err)
	}
}

func TestWithoutAWorkTreeOfGitAllIsWrittenAllTheSame(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, entry(t, "shared/db", gen1, 1, "a"))
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if conflicts, err := s.Conflicts(t.Context()); err != nil || len(conflicts) > 0 {
		t.Errorf("got %v, %v", conflicts, err)
	}
	var none *state.NoConflictError
	if err := s.Resolve(t.Context(), id(t, "shared/db"), state.Ours); !errors.As(err, &none) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Log(t.Context(), id(t, "shared/db")); err == nil {
		t.Error("it has a history")
	}
	for name := range snapshot(t, s.Dir()) {
		if strings.Contains(name, "/.") {
			t.Errorf("left: %s", name)
		}
	}
}

func TestWithoutGitTheSecretIsWrittenAndTheErrorSaysWhatGitMisses(t *testing.T) {
	noGit := run.RunnerFunc(func(context.Context, run.Cmd) error { return &run.NotFoundError{Program: "git"} })
	s, err := state.Open(t.TempDir(), "default", noGit)
	if err != nil {
		t.Fatal(err)
	}
	e := entry(t, "shared/db", gen1, 1, "a")
	var untracked *state.UntrackedError
	if err := s.Put(t.Context(), e); !errors.As(err, &untracked) || !strings.Contains(untracked.Hint(), "git add --intent-to-add fleet-state/default/secrets/shared/db") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(e, load(t, s).Secrets[e.ID]); diff != "" {
		t.Error(diff)
	}
}

func TestAnotherGitThatHoldsTheIndexIsWaitedFor(t *testing.T) {
	dir := repository(t)
	lock := filepath.Join(dir, ".git/index.lock")
	write(t, lock, "")
	go func() {
		time.Sleep(300 * time.Millisecond)
		_ = os.Remove(lock)
	}()
	put(t, open(t, dir), entry(t, "shared/db", gen1, 1, "a"))
}

func TestManyWritersOfOneStoreAtOnce(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := s.Put(t.Context(), entry(t, "shared/db-"+strconv.Itoa(i%10), gen1, 1, "a")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if files := strings.Count(git(t, dir, "ls-files"), "meta.json\n"); files != 10 || len(load(t, s).Secrets) != 10 {
		t.Errorf("git knows %d secrets", files)
	}
}

func TestOneWriterAWorkTree(t *testing.T) {
	for name, dir := range map[string]string{"git": repository(t), "no git": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			s, other := open(t, dir), open(t, dir)
			unlock, err := s.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var locked *state.LockedError
			if _, err := other.Lock(t.Context()); !errors.As(err, &locked) || !strings.Contains(locked.Holder, "process "+strconv.Itoa(os.Getpid())) || locked.Hint() == "" {
				t.Errorf("got %v", err)
			}
			unlock()
			unlock, err = other.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			unlock()
		})
	}
}

func TestTheLockCleansUpAfterAWriterThatWasKilled(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	e := entry(t, "shared/db", gen1, 1, "a")
	put(t, s, e)
	git(t, dir, "rm", "-r", "-q", "--cached", s.Path(e.ID)) // killed before git was told
	scope := filepath.Join(dir, "fleet-state/default/secrets/shared")
	for _, name := range []string{".new-db-0123456789abcdef", ".gone-x-0123456789abcdef", ".old-db-fedcba9876543210"} {
		write(t, filepath.Join(scope, name, "owners/a.json"), "x")
	}
	write(t, filepath.Join(scope, ".keep"), "")
	if tree := load(t, s); len(tree.Secrets) != 1 || len(tree.Strays) != 0 {
		t.Errorf("got %v", tree)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if diff := cmp.Diff(map[secret.ID]*state.Entry{e.ID: e}, load(t, s).Secrets); diff != "" {
		t.Error(diff)
	}
	entries, err := os.ReadDir(scope)
	if err != nil || len(entries) != 2 {
		t.Errorf("there is %v, %v", entries, err)
	}
	if files := git(t, dir, "ls-files"); !strings.Contains(files, "shared/db/meta.json") {
		t.Errorf("git knows %q", files)
	}
}

func TestALinkDoesNotLeadOutOfTheWorkTree(t *testing.T) {
	for _, at := range []string{"fleet-state", "fleet-state/default", "fleet-state/default/secrets", "fleet-state/default/secrets/shared"} {
		t.Run(at, func(t *testing.T) {
			outside, dir := t.TempDir(), t.TempDir()
			put(t, open(t, outside), entry(t, "shared/db", gen1, 1, "a"))
			before := snapshot(t, outside)
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(at)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(outside, at), filepath.Join(dir, at)); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			if err := s.Put(t.Context(), entry(t, "shared/db", gen2, 1, "a")); err == nil {
				t.Error("written through the link")
			}
			if tree, err := s.Load(); err == nil && len(tree.Secrets) > 0 {
				t.Error("read through the link")
			}
			if err := s.Remove(t.Context(), id(t, "shared/db")); err == nil {
				t.Error("removed through the link")
			}
			if _, err := s.Lock(t.Context()); err == nil {
				t.Error("cleaned up through the link")
			}
			if diff := cmp.Diff(before, snapshot(t, outside)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
