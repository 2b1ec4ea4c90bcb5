package trust

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	keyA     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA4gQmyoSJrbI9x5uh+kYzEfYQaHZmRX12fHQhQm0v5B"
	keyB     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwHq4hJ0gJ8b8JHj6J3gq2j6kzVw7r1p0mYwQmE9d9T"
	keyOther = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 5, time.UTC)

func open(t *testing.T, dir, fleet string) *Store {
	t.Helper()
	s, err := Open(dir, fleet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fingerprint(t *testing.T, key string) string {
	t.Helper()
	f, err := Fingerprint(key)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func acceptedKeys(t *testing.T, s *Store, host string) string {
	t.Helper()
	list, err := s.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, a := range list {
		keys = append(keys, a.Key+" "+string(a.How))
	}
	return strings.Join(keys, ", ")
}

func TestAcceptancesAreKeptByFleetHostAndKey(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "git+file:///home/x/infra#default")
	if err := s.Accept("web", keyA+" a comment", Confirmed, now); err != nil {
		t.Fatal(err)
	}
	want := []Acceptance{{
		At: now.Truncate(time.Second), Fingerprint: fingerprint(t, keyA), Fleet: "git+file:///home/x/infra#default", Format: 1, Host: "web", How: Confirmed, Key: keyA,
	}}
	got, err := open(t, dir, "git+file:///home/x/infra#default").Host("web")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	info, err := os.Stat(s.Path("web"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if folder, err := os.Stat(filepath.Dir(s.Path("web"))); err != nil || folder.Mode().Perm() != 0o700 {
		t.Errorf("folder's mode %v, %v", folder.Mode(), err)
	}
	if got := acceptedKeys(t, open(t, dir, "git+file:///home/x/infra#staging"), "web"); got != "" {
		t.Errorf("another fleet has %q", got)
	}
	if got := acceptedKeys(t, s, "db"); got != "" {
		t.Errorf("another host has %q", got)
	}
	if all, err := s.All(); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	if err := errors.Join(s.Forget("web"), s.Forget("web")); err != nil || acceptedKeys(t, s, "web") != "" {
		t.Error("it was not forgotten", err)
	}
}

func TestAReplacedKeyAndItsCompanionsAreForgotten(t *testing.T) {
	s := open(t, t.TempDir(), "f")
	for _, step := range []struct {
		key  string
		how  How
		want string
	}{
		{keyA, KnownHost, keyA + " known_hosts"},
		{keyA, Confirmed, keyA + " confirmed"},
		{keyA, KnownHost, keyA + " confirmed"},
		{keyOther, Confirmed, keyA + " confirmed, " + keyOther + " confirmed"},
		{keyB, Confirmed, keyB + " confirmed"},
	} {
		if err := s.Accept("web", step.key, step.how, now); err != nil {
			t.Fatal(err)
		}
		if got := acceptedKeys(t, s, "web"); got != step.want {
			t.Errorf("after %s: %q, want %q", step.key[:16], got, step.want)
		}
	}
}

func TestAFileThatProvesNothingIsNeverNothingAccepted(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"others can write it": func(path string) error { return os.Chmod(path, 0o622) },
		"it is cut":           func(path string) error { return os.Truncate(path, 40) },
		"it is empty":         func(path string) error { return os.Truncate(path, 0) },
		"it is a folder":      func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"it is huge":          func(path string) error { return os.Truncate(path, maxFile+1) },
		"it is of another host": func(path string) error {
			return os.Rename(filepath.Join(filepath.Dir(path), "db.json"), path)
		},
		"the fingerprint is of another key": func(path string) error { return replace(path, "/1", "/2", "SHA256:", "SHA256:x") },
		"it is of the future":               func(path string) error { return replace(path, `"format": 1`, `"format": 2`) },
		"it has a field more":               func(path string) error { return replace(path, `"how"`, `"extra": 1, "how"`) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), "f")
			if err := errors.Join(s.Accept("web", keyA, Confirmed, now), s.Accept("db", keyB, Confirmed, now)); err != nil {
				t.Fatal(err)
			}
			if err := spoil(s.Path("web")); err != nil {
				t.Fatal(err)
			}
			p := &Policy{Store: s, KnownHosts: all{}, Now: time.Now}
			var broken *FileError
			if err := p.Judge(t.Context(), Candidate{Host: "web", Key: keyB}); !errors.As(err, &broken) || broken.Hint() == "" {
				t.Errorf("got %v", err)
			}
			if err := s.Accept("web", keyB, Confirmed, now); err == nil {
				t.Error("it was overwritten")
			}
		})
	}
}

func replace(path string, oldnew ...string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.NewReplacer(oldnew...).Replace(string(data))), 0o600)
}

// all is a known_hosts that has every key of every host.
type all struct{}

func (all) Vouches(context.Context, string, string) (bool, error) { return true, nil }

func TestWhoVouchesForAKey(t *testing.T) {
	yes := func(context.Context, Question) (bool, error) { return true, nil }
	no := func(context.Context, Question) (bool, error) { return false, nil }
	for name, test := range map[string]struct {
		before    func(*Store) error
		known     KnownHosts
		confirm   func(context.Context, Question) (bool, error)
		candidate Candidate
		// want is what is accepted afterwards; empty means that the key is refused.
		want     string
		declined bool
		mentions string
	}{
		"nobody":                      {candidate: Candidate{Key: keyA}, mentions: "nobody on this machine has accepted it"},
		"known_hosts":                 {known: all{}, candidate: Candidate{Key: keyA}, want: keyA + " known_hosts"},
		"a person":                    {confirm: yes, candidate: Candidate{Key: keyA}, want: keyA + " confirmed"},
		"a person who says no":        {confirm: no, candidate: Candidate{Key: keyA}, declined: true, mentions: "declined"},
		"known_hosts, of another key": {known: all{}, before: accept("web", keyB), candidate: Candidate{Key: keyA}, mentions: "it has changed (it was SHA256:"},
		"known_hosts, where the state has copies for another key": {
			known: all{}, candidate: Candidate{Key: keyA, Former: []string{"SHA256:old"}}, mentions: "it has changed (it was SHA256:old)",
		},
		"known_hosts, of another host's key": {known: all{}, before: accept("db", keyA), candidate: Candidate{Key: keyA}, mentions: "it was accepted as the key of db"},
		"a person, of a changed key":         {confirm: yes, before: accept("web", keyB), candidate: Candidate{Key: keyA}, want: keyA + " confirmed"},
		"what was accepted before":           {before: accept("web", keyA), candidate: Candidate{Key: keyA + " comment", Former: []string{"SHA256:old"}}, want: keyA + " confirmed"},
		"no key at all":                      {confirm: yes, candidate: Candidate{Key: "nonsense"}, mentions: "no key found"},
		"a host that is none":                {confirm: yes, candidate: Candidate{Host: "../x", Key: keyA}, mentions: "no valid name|may have letters"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), "f")
			if test.before != nil {
				if err := test.before(s); err != nil {
					t.Fatal(err)
				}
			}
			c := test.candidate
			if c.Host == "" {
				c.Host = "web"
			}
			p := &Policy{Store: s, KnownHosts: test.known, Confirm: test.confirm, Now: func() time.Time { return now }}
			checked := p.Check(t.Context(), c)
			err := p.Judge(t.Context(), c)
			if test.want != "" {
				if got := acceptedKeys(t, s, c.Host); err != nil || got != test.want {
					t.Errorf("accepted %q, %v", got, err)
				}
				if err := p.Check(t.Context(), c); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				return
			}
			var refused *UnacceptedError
			if err == nil || checked == nil || !mentions(err, test.mentions) {
				t.Errorf("got %v and %v", err, checked)
			}
			if errors.As(err, &refused) && (refused.Declined != test.declined || !errors.Is(err, ErrUnaccepted) || !strings.Contains(refused.Hint(), "fleet secrets host-key accept web "+fingerprint(t, keyA))) {
				t.Errorf("got %+v, hint %q", refused, refused.Hint())
			}
		})
	}
}

func mentions(err error, texts string) bool {
	for text := range strings.SplitSeq(texts, "|") {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func accept(host, key string) func(*Store) error {
	return func(s *Store) error { return s.Accept(host, key, Confirmed, now) }
}

func TestCheckingRemembersNothing(t *testing.T) {
	s := open(t, t.TempDir(), "f")
	p := &Policy{Store: s, KnownHosts: all{}, Now: time.Now}
	if err := p.Check(t.Context(), Candidate{Host: "web", Key: keyA}); err != nil {
		t.Error(err)
	}
	if got := acceptedKeys(t, s, "web"); got != "" {
		t.Errorf("remembered %q", got)
	}
}

func TestHostsThatShareAKeyAreFound(t *testing.T) {
	got := Shared(map[string][]string{
		"a": {keyA, keyOther}, "b": {keyA + " comment"}, "c": {keyB}, "d": {"nonsense"}, "e": {keyOther, keyOther}, "f": nil,
	})
	want := map[string][]string{"a": {"b", "e"}, "b": {"a"}, "e": {"a"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
