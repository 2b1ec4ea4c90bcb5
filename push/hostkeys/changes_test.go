package hostkeys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAReplacedKeyIsRetiredAndTrustedNoMore(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	s := open(t, dir)
	first, second := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 2, 12, 0, 0, 7, time.UTC)
	for _, key := range []string{keyA, keyOtherType} {
		if err := s.Record(t.Context(), "web-1", key, KnownHosts, first); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Replace(t.Context(), "web-1", keyB+" a comment", Accepted, second); err != nil {
		t.Fatal(err)
	}
	all, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := Fingerprint(keyA)
	b, _ := Fingerprint(keyB)
	other, _ := Fingerprint(keyOtherType)
	want := map[string]HostPins{"web-1": {
		Pins: []Pin{
			{Key: keyOtherType, Fingerprint: other, AddedAt: first, Verified: KnownHosts},
			{Key: keyB, Fingerprint: b, AddedAt: second.Truncate(time.Second), Verified: Accepted},
		},
		Retired: []RetiredPin{{Key: keyA, Fingerprint: a, AddedAt: first, RetiredAt: second.Truncate(time.Second), Verified: KnownHosts}},
	}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	if keys, err := s.Keys(); err != nil || cmp.Diff(map[string][]string{"web-1": {keyOtherType, keyB}}, keys) != "" {
		t.Errorf("got %v, %v", keys, err)
	}
}

func TestReplacingAKeyByItselfChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Record(t.Context(), "a", keyA, KnownHosts, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(s.dir, s.Path("a")))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context(), "a", keyA, Accepted, time.Now()); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(s.dir, s.Path("a")))
	if err != nil || string(after) != string(before) {
		t.Errorf("got %s, %v", after, err)
	}
}

func TestAKeyThatAnotherHostHasIsRefused(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Record(t.Context(), "a", keyA, Accepted, time.Now()); err != nil {
		t.Fatal(err)
	}
	err := s.Replace(t.Context(), "b", keyA+" copy", Accepted, time.Now())
	var shared *SharedKeyError
	if !errors.As(err, &shared) || shared.Host != "b" || shared.Other != "a" || shared.Hint() == "" {
		t.Errorf("got %v", err)
	}
	if all, err := s.All(); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestRetiredKeysThatAreNotUnderstoodAreNotLost(t *testing.T) {
	s := open(t, t.TempDir())
	path := filepath.Join(s.dir, s.Path("a"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	fingerprint, _ := Fingerprint(keyA)
	content := `{"recipients":[{"addedAt":"2026-11-01T12:00:00Z","fp":"` + fingerprint + `","key":"` + keyA + `","verified":"accepted"}],"retired":[{"of":"the future"}]}`
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	var broken *FileError
	if err := s.Replace(t.Context(), "a", keyB, Accepted, time.Now()); !errors.As(err, &broken) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != content {
		t.Errorf("got %s, %v", data, err)
	}
	// Who only reads the pins is not held up.
	if keys, err := s.Keys(); err != nil || len(keys["a"]) != 1 {
		t.Errorf("got %v, %v", keys, err)
	}
}
