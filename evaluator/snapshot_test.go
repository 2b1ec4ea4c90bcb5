package evaluator_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/evaluator"
	"fleet/evaluator/plan"
)

func TestFindFlake(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(filepath.Join(deep, "flake.nix"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = evaluator.FindFlake(deep)
	var none *evaluator.NoFlakeError
	if !errors.As(err, &none) || !strings.Contains(hint(err), "--flake") {
		t.Errorf("outside of a flake: got %v, hint %q", err, hint(err))
	}
	writeFile(t, filepath.Join(dir, "a", "flake.nix"), "{}")
	got, err := evaluator.FindFlake(deep)
	if err != nil || got != filepath.Join(dir, "a") {
		t.Errorf("got %q, %v; a folder named flake.nix is no flake", got, err)
	}
}

func TestSnapshotOfCleanTreeIsItsRevision(t *testing.T) {
	dir := copyFlake(t)
	commit(t, dir)
	n, _ := newNix(t, dir, nil)
	s, _ := open(t, n)
	rev := git(t, dir, "rev-parse", "HEAD")
	if !strings.HasPrefix(s.Ref, "git+file://") || !strings.Contains(s.Ref, "rev="+rev) {
		t.Errorf("got %q, want revision %s", s.Ref, rev)
	}
	if !strings.Contains(s.Source, rev[:8]) {
		t.Errorf("source %q does not name the revision", s.Source)
	}
}

func TestSnapshotStaysWhatItWas(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"no repository": func(*testing.T, string) {},
		"clean tree":    commit,
		"changed tree": func(t *testing.T, dir string) {
			commit(t, dir)
			writeFile(t, filepath.Join(dir, "text"), "dirty000")
		},
		"in a folder of a repository": func(t *testing.T, dir string) {
			commit(t, filepath.Dir(dir))
		},
		"in a folder of a changed repository": func(t *testing.T, dir string) {
			requireNix218(t)
			commit(t, filepath.Dir(dir))
			writeFile(t, filepath.Join(dir, "text"), "dirty000")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copyFlake(t)
			prepare(t, dir)
			n, _ := newNix(t, dir, nil)
			s, p := open(t, n)
			before, err := records(t.Context(), t, n, s, p, "web-1")
			if err != nil || before["web-1"].Err != nil {
				t.Fatal(err, before["web-1"].Err)
			}
			writeFile(t, filepath.Join(dir, "text"), "another!")
			after, err := records(t.Context(), t, n, s, p, "web-1")
			if err != nil || after["web-1"].Err != nil {
				t.Fatal(err, after["web-1"].Err)
			}
			if before["web-1"].Record.System.OutPath != after["web-1"].Record.System.OutPath {
				t.Errorf("the snapshot changed with the tree")
			}
			if name == "in a folder of a repository" {
				git(t, dir, "commit", "-q", "-a", "-m", "change")
			}
			second, p := open(t, n)
			changed, err := records(t.Context(), t, n, second, p, "web-1")
			if err != nil || changed["web-1"].Err != nil {
				t.Fatal(err, changed["web-1"].Err)
			}
			if before["web-1"].Record.System.OutPath == changed["web-1"].Record.System.OutPath {
				t.Errorf("a second snapshot does not see the change")
			}
		})
	}
}

// requireNix218 ends a test of what older versions of nix cannot do; TestSnapshotWarns has what they do in its place.
func requireNix218(t *testing.T) {
	t.Helper()
	if olderThan218(t) {
		t.Skip("nix before 2.18 has no path references with a folder")
	}
}

func olderThan218(t *testing.T) bool {
	t.Helper()
	out, err := nixCommand("eval", "--raw", "--expr", `if builtins.compareVersions builtins.nixVersion "2.18" < 0 then "old" else "new"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out) == "old"
}

func TestSnapshotWarnsWhereItCannotHold(t *testing.T) {
	dir := copyFlake(t)
	commit(t, filepath.Dir(dir))
	writeFile(t, filepath.Join(dir, "text"), "dirty000")
	n, events := newNix(t, dir, nil)
	open(t, n)
	if got := events.find(has(plan.EventWarning, "", "do not edit it")); got != olderThan218(t) {
		t.Errorf("warned: %v", got)
	}
}

func TestSnapshotNamesUntrackedFiles(t *testing.T) {
	dir := copyFlake(t)
	commit(t, dir)
	writeFile(t, filepath.Join(dir, "text"), "dirty000")
	writeFile(t, filepath.Join(dir, "new.nix"), "{}")
	writeFile(t, filepath.Join(dir, "notes.txt"), "")
	n, events := newNix(t, dir, nil)
	open(t, n)
	if !events.find(has(plan.EventWarning, "", "new.nix")) || events.find(has(plan.EventWarning, "", "notes.txt")) {
		t.Errorf("got %v", events.events)
	}
}

func TestSnapshotHoldsTheFlakeAgainstTheProgram(t *testing.T) {
	dir := copyFlake(t)
	commit(t, dir)
	other := "/nix/store/00000000000000000000000000000000-source"
	n, _ := newNix(t, dir, func(o *evaluator.NixOptions) { o.AppSource = other })
	_, err := n.Snapshot(t.Context())
	var wrong *evaluator.OtherFlakeError
	if !errors.As(err, &wrong) || !strings.Contains(hint(err), "--flake") {
		t.Errorf("got %v, hint %q", err, hint(err))
	}
	n, _ = newNix(t, dir, func(o *evaluator.NixOptions) { o.AppSource, o.Flake = other, dir })
	if _, err := n.Snapshot(t.Context()); err != nil {
		t.Errorf("with --flake: %v", err)
	}
	n, _ = newNix(t, dir, func(o *evaluator.NixOptions) { o.AppSource = sourceOf(t, dir) })
	if _, err := n.Snapshot(t.Context()); err != nil {
		t.Errorf("with its own flake: %v", err)
	}
}

// sourceOf asks nix for the store path of a flake's source.
func sourceOf(t *testing.T, dir string) string {
	t.Helper()
	out, err := nixCommand("eval", "--raw", "--impure", "--expr", "(builtins.getFlake "+`"git+file://`+dir+`"`+").outPath").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestSnapshotRefuses(t *testing.T) {
	requireNix(t)
	n, _ := newNix(t, t.TempDir(), nil)
	if _, err := n.Snapshot(t.Context()); hint(err) == "" {
		t.Errorf("outside of a flake: %v", err)
	}
	n, _ = newNix(t, t.TempDir(), func(o *evaluator.NixOptions) { o.Flake = "/nowhere" })
	if _, err := n.Snapshot(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere") || hint(err) == "" {
		t.Errorf("a flake that does not exist: %v", err)
	}
	dir := t.TempDir()
	n, _ = newNix(t, filepath.Dir(dir), func(o *evaluator.NixOptions) { o.Flake = "./" + filepath.Base(dir) })
	if _, err := n.Snapshot(t.Context()); !errors.As(err, new(*evaluator.NoFlakeError)) {
		t.Errorf("a folder without a flake: %v", err)
	}
	n, _ = newNix(t, t.TempDir(), func(o *evaluator.NixOptions) { o.Flake = ".#staging" })
	if _, err := n.Snapshot(t.Context()); err == nil || hint(err) != "the fleet is named apart: --flake . --fleet staging" {
		t.Errorf("a reference with a fragment: %v", err)
	}
}
