package hostkeys

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
)

type processes struct{}

func (processes) Run(ctx context.Context, cmd run.Cmd) error { return run.Run(ctx, cmd) }

const (
	// The public half of a key that was made for this test alone, and its fingerprint as ssh-keygen -l prints it.
	keyA         = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA4gQmyoSJrbI9x5uh+kYzEfYQaHZmRX12fHQhQm0v5B"
	keyB         = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwHq4hJ0gJ8b8JHj6J3gq2j6kzVw7r1p0mYwQmE9d9T"
	keyOtherType = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY="
)

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: append([]string{"git", "-C", dir}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, "default", processes{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestARecordedKeyIsReadBackAndKnownToGit(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	s := open(t, dir)
	now := time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC)
	if err := s.Record(t.Context(), "web-1", keyA+" a comment", Accepted, now); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), "web-1", keyOtherType, KnownHosts, now); err != nil {
		t.Fatal(err)
	}
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"web-1": {keyA, keyOtherType}}, keys); diff != "" {
		t.Error(diff)
	}
	if files := git(t, dir, "ls-files"); files != "fleet-state/default/hosts/web-1.json\n" {
		t.Errorf("git knows %q", files)
	}
	data, err := os.ReadFile(filepath.Join(dir, s.Path("web-1")))
	if err != nil {
		t.Fatal(err)
	}
	fingerprint, _ := Fingerprint(keyA)
	want := `{
  "recipients": [
    {
      "addedAt": "2026-11-01T12:00:00Z",
      "fp": "` + fingerprint + `",
      "key": "` + keyA + `",
      "verified": "accepted"
    },`
	if !strings.HasPrefix(string(data), want) {
		t.Errorf("got\n%s", data)
	}
}

func TestTheSameKeyAgainChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 2 {
		if err := s.Record(t.Context(), "a", keyA, Accepted, time.Unix(int64(i)*100, 0)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(s.dir, s.Path("a")))
	if err != nil || strings.Count(string(data), "addedAt") != 1 || !strings.Contains(string(data), "1970-01-01T00:00:00Z") {
		t.Errorf("got %s, %v", data, err)
	}
}

func TestAnotherKeyOfTheSameTypeIsRefused(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Record(t.Context(), "a", keyA, Accepted, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), "a", keyB, Accepted, time.Now()); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v", err)
	}
}

func TestWithoutGitAPinIsWrittenAllTheSame(t *testing.T) {
	s, err := Open(t.TempDir(), "default", noGit{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Record(t.Context(), "a", keyA, Accepted, time.Now())
	var untracked *UntrackedError
	if !errors.As(err, &untracked) {
		t.Fatalf("got %v", err)
	}
	if keys, err := s.Keys(); err != nil || len(keys["a"]) != 1 {
		t.Errorf("got %v, %v", keys, err)
	}
}

type noGit struct{}

func (noGit) Run(context.Context, run.Cmd) error { return errors.New("there is no git") }

func TestBadFilesAreNamed(t *testing.T) {
	for name, content := range map[string]string{
		"unknown field":         `{"recipients":[],"more":1}`,
		"two values":            `{"recipients":[]}{}`,
		"a wrong fingerprint":   `{"recipients":[{"addedAt":"2026-11-01T12:00:00Z","fp":"SHA256:x","key":"` + keyA + `","verified":"accepted"}]}`,
		"a key without its key": `{"recipients":[{"addedAt":"2026-11-01T12:00:00Z","fp":"SHA256:x","key":"ssh-ed25519","verified":"accepted"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			path := filepath.Join(s.dir, s.Path("web-1"))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Keys(); err == nil || !strings.Contains(err.Error(), "web-1.json") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNamesThatLeaveTheFolderAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", "..", "../x", "a/b", ".hidden", "-rf", "a b", strings.Repeat("x", 201)} {
		if err := s.Record(t.Context(), name, keyA, Accepted, time.Now()); err == nil {
			t.Errorf("%q was taken", name)
		}
		if _, err := Open(s.dir, name, processes{}); err == nil {
			t.Errorf("fleet %q was taken", name)
		}
	}
}

func TestALinkDoesNotLeadOutOfTheWorkTree(t *testing.T) {
	outside, s := t.TempDir(), open(t, t.TempDir())
	if err := os.Symlink(outside, filepath.Join(s.dir, "fleet-state")); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), "a", keyA, Accepted, time.Now()); err == nil {
		t.Error("written through the link")
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("outside there is %v", entries)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"recipients":[{"addedAt":"2026-11-01T12:00:00Z","fp":"SHA256:x","key":"` + keyA + `","verified":"accepted"}],"retired":[1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if parsed, err := parse(data); err == nil && parsed == nil {
			t.Error("neither a file nor an error")
		}
	})
}

func TestWhatHasToBeCommittedIsNamedUntilItIs(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "infra", "my flake")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	record := func(s *Store, host string) {
		t.Helper()
		if err := s.Record(t.Context(), host, keyA, KnownHosts, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(s *Store, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.Uncommitted(t.Context())); diff != "" {
			t.Error(diff)
		}
	}
	plain := open(t, dir)
	expect(plain)
	record(plain, "web-1")
	expect(plain, "fleet-state/default/hosts/web-1.json")
	expect(open(t, dir)) // nobody remembers without git

	git(t, top, "init", "-q")
	s := open(t, dir)
	expect(s, "fleet-state/default/hosts/web-1.json")
	record(s, "web-1") // it is pinned already
	record(s, "db")
	expect(s, "fleet-state/default/hosts/db.json", "fleet-state/default/hosts/web-1.json")
	git(t, top, "add", "--all")
	expect(s, "fleet-state/default/hosts/db.json", "fleet-state/default/hosts/web-1.json")
	git(t, top, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "pins")
	expect(s)
	if err := s.Record(t.Context(), "db", keyOtherType, Accepted, time.Now()); err != nil {
		t.Fatal(err)
	}
	expect(open(t, dir), "fleet-state/default/hosts/db.json")
}

func TestADamagedFileIsNamedWithItsRemedy(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "blank": "\n", "conflict": "<<<<<<< HEAD\n{}\n", "two values": "{}{}", "other fields": `{"keys":[]}`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			path := filepath.Join(dir, s.Path("web-1"))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := s.Keys()
			var damaged *FileError
			if !errors.As(err, &damaged) || damaged.Path != s.Path("web-1") || !strings.Contains(damaged.Hint(), "git") || strings.Contains(err.Error(), "EOF") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAPinThatCannotBeWrittenIsNamedWithAnotherPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Remove(dir); err != nil { // in a folder that is gone, not even root can write
		t.Fatal(err)
	}
	err = open(t, dir).write(root, "web-1", &file{Recipients: []Pin{{Key: keyA}}})
	var failed *WriteError
	if !errors.As(err, &failed) || !strings.Contains(failed.Hint(), `hosts.web-1.deploy.hostKeys = [ "`+keyA+`" ]`) {
		t.Errorf("got %v", err)
	}
}
