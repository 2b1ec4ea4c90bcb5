package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

func TestWhatIsWrittenIsReadBackAndKnownToGit(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	shared := entry(t, "shared/ca.pem", gen1, 3, "a", "b")
	shared.Meta.ExpiresAt, shared.Meta.Deps, shared.Meta.Seed = &at, map[string]secret.Gen{"host/a/db": gen2}, "seed"
	shared.Revoked = []secret.Revoked{{At: at, Format: secret.Format, Gen: gen1, Owner: "c"}}
	own := entry(t, "host/a/db", gen2, 1, "a")
	put(t, s, shared)
	put(t, s, own)
	want := &state.Tree{Secrets: map[secret.ID]*state.Entry{shared.ID: shared, own.ID: own}}
	if diff := cmp.Diff(want, load(t, s)); diff != "" {
		t.Error(diff)
	}
	const folder = "fleet-state/default/"
	files := strings.Join([]string{
		folder + "format",
		folder + "secrets/host/a/db/meta.json", folder + "secrets/host/a/db/owners/a.json", folder + "secrets/host/a/db/public/public",
		folder + "secrets/shared/ca.pem/meta.json", folder + "secrets/shared/ca.pem/owners/a.json", folder + "secrets/shared/ca.pem/owners/b.json",
		folder + "secrets/shared/ca.pem/public/public", folder + "secrets/shared/ca.pem/revoked/" + string(gen1) + "-c.json",
	}, "\n")
	if diff := cmp.Diff(files+"\n", git(t, dir, "ls-files")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(files, strings.Join(s.Written(), "\n")); diff != "" {
		t.Error(diff)
	}
	ref, ok := load(t, s).Secrets[shared.ID].Ref("default", "b", "secret")
	if !ok || ref.Armor != shared.Owners["b"].Parts["secret"].Armor || ref.Seq != 3 || ref.Gen != gen1 || ref.Commit != shared.Meta.Parts["secret"].Commit {
		t.Errorf("got %+v, %v", ref, ok)
	}
	if _, ok := shared.Ref("default", "c", "secret"); ok {
		t.Error("c is no owner")
	}
}

func TestWhatIsTheSameIsNotTouched(t *testing.T) {
	dir := repository(t)
	s := open(t, dir)
	e := entry(t, "shared/db", gen1, 1, "a", "b")
	put(t, s, e)
	before := snapshot(t, dir)
	again := open(t, dir)
	put(t, again, e)
	e.Meta.GenerationData = []byte("{\n\t\"size\": 32}") // the same data, written in another way
	put(t, again, e)
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Error(diff)
	}
	if len(again.Written()) > 0 {
		t.Errorf("written: %q", again.Written())
	}
	e.Owners["c"] = owner("c", gen1)
	put(t, again, e)
	for name, content := range snapshot(t, filepath.Join(dir, "fleet-state")) {
		if was, ok := before[filepath.Join("fleet-state", name)]; ok && was != content {
			t.Errorf("%s was touched for another owner", name)
		}
	}
	if diff := cmp.Diff([]string{"fleet-state/default/secrets/shared/db/owners/c.json"}, again.Written()); diff != "" {
		t.Error(diff)
	}
}

func TestPublicPartsAreKeptAsNixAndGitLeaveThem(t *testing.T) {
	for name, c := range map[string]struct{ value, encoding string }{
		"text":     {"ssh-ed25519 AAAA\n", secret.EncodingText},
		"umlauts":  {"schön", secret.EncodingText},
		"nothing":  {"", secret.EncodingText},
		"binary":   {strings.Repeat("\x00\xff", 100), secret.EncodingBase64},
		"not utf8": {"\xff\xfe", secret.EncodingBase64},
		"cr":       {"a\r\nb", secret.EncodingBase64},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			e := entry(t, "shared/db", gen1, 1, "a")
			if got := state.EncodingOf([]byte(c.value)); got != c.encoding {
				t.Fatalf("encoding %q", got)
			}
			e.Public["public"] = []byte(c.value)
			commit := seal.Commit(seal.Context{Fleet: "default", ID: e.ID, Part: "public", Gen: gen1, Seq: 1}, nil, secret.NewPlain([]byte(c.value)))
			e.Meta.Parts["public"] = secret.MetaPart{Encoding: c.encoding, Commit: commit}
			put(t, s, e)
			got := load(t, s).Secrets[e.ID]
			if got.Err != nil || string(got.Public["public"]) != c.value {
				t.Errorf("got %q, %v", got.Public["public"], got.Err)
			}
			data, err := os.ReadFile(filepath.Join(s.Dir(), s.Path(e.ID), "public/public"))
			if err != nil || strings.ContainsAny(string(data), "\x00\r") {
				t.Errorf("in the file: %q, %v", data, err)
			}
		})
	}
}

func TestEntriesThatAreNotWholeAreNotWritten(t *testing.T) {
	for name, breakIt := range map[string]func(e *state.Entry){
		"mixed generations":        func(e *state.Entry) { e.Owners["b"] = owner("b", gen2) },
		"an owner without a part":  func(e *state.Entry) { e.Owners["b"] = secret.Owner{Format: 1, Gen: gen1, Key: e.Owners["a"].Key} },
		"another public value":     func(e *state.Entry) { e.Public["public"] = []byte("other") },
		"no public value":          func(e *state.Entry) { delete(e.Public, "public") },
		"a public part too much":   func(e *state.Entry) { e.Public["more"] = []byte("other") },
		"a wrong checksum":         func(e *state.Entry) { e.Owners["a"].Parts["secret"] = secret.SealedPart{Armor: "x", SHA256: "y"} },
		"no owners":                func(e *state.Entry) { e.Owners = nil },
		"no generation":            func(e *state.Entry) { e.Meta.Gen = "" },
		"no sequence number":       func(e *state.Entry) { e.Meta.Seq = 0 },
		"data that is no JSON":     func(e *state.Entry) { e.Meta.GenerationData = []byte("{") },
		"an owner's name":          func(e *state.Entry) { e.Owners["../../x"] = owner("b", gen1) },
		"a part's name":            func(e *state.Entry) { e.Public["../x"] = []byte("x") },
		"a reserved part":          func(e *state.Entry) { e.Public["expires_at"] = []byte("x") },
		"a former owner's name":    func(e *state.Entry) { e.Revoked = []secret.Revoked{{Format: 1, Gen: gen1, Owner: "../../x"}} },
		"an owner of another host": func(e *state.Entry) { e.ID = secret.ID{Scope: secret.OfHost("b"), Name: "db"} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			e := entry(t, "shared/db", gen1, 1, "a")
			breakIt(e)
			var failed *state.WriteError
			if err := s.Put(t.Context(), e); !errors.As(err, &failed) {
				t.Errorf("got %v", err)
			}
			if files := snapshot(t, dir); len(files) > 0 {
				t.Errorf("written: %v", files)
			}
		})
	}
}

func TestNamesThatAreNoneAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/abs", ".hidden", "-rf", "a b", "a\nb", "ä", "a\x00", strings.Repeat("x", 129)} {
		for _, id := range []secret.ID{{Scope: secret.Shared, Name: name}, {Scope: secret.OfHost(name), Name: "db"}, {Scope: secret.Scope(name), Name: "db"}} {
			e := entry(t, "shared/db", gen1, 1, "a")
			e.ID = id
			if err := s.Put(t.Context(), e); err == nil {
				t.Errorf("%q was written", id)
			}
			if err := s.Remove(t.Context(), id); err == nil {
				t.Errorf("%q was removed", id)
			}
			if _, err := s.Log(t.Context(), id); err == nil {
				t.Errorf("%q has a history", id)
			}
			if err := s.Resolve(t.Context(), id, state.Ours); err == nil {
				t.Errorf("%q was resolved", id)
			}
		}
		if _, err := state.Open(dir, name, run.RunnerFunc(run.Run)); err == nil {
			t.Errorf("fleet %q was taken", name)
		}
	}
	if files := snapshot(t, dir); len(files) > 0 {
		t.Errorf("written: %v", files)
	}
}

func TestNoStateIsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	if tree := load(t, open(t, dir)); len(tree.Secrets) > 0 {
		t.Errorf("got %v", tree)
	}
	tree, err := state.LoadFolder(filepath.Join(dir, "nowhere"), "default")
	if err != nil || len(tree.Secrets) > 0 {
		t.Errorf("got %v, %v", tree, err)
	}
	if err := open(t, dir).Remove(t.Context(), id(t, "shared/db")); err != nil {
		t.Error(err)
	}
}

func TestAFolderIsReadWithoutItsWorkTree(t *testing.T) {
	s := open(t, t.TempDir())
	e := entry(t, "shared/db", gen1, 1, "a")
	put(t, s, e)
	elsewhere := filepath.Join(t.TempDir(), "state")
	if err := os.Rename(filepath.Join(s.Dir(), "fleet-state/default"), elsewhere); err != nil {
		t.Fatal(err)
	}
	tree, err := state.LoadFolder(elsewhere, "default")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, tree.Secrets[e.ID]); diff != "" {
		t.Error(diff)
	}
}

func TestANewerFormatIsCalledNewer(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, entry(t, "shared/db", gen1, 1, "a"))
	write(t, filepath.Join(s.Dir(), "fleet-state/default/format"), "2\n")
	var format *state.FormatError
	if _, err := s.Load(); !errors.As(err, &format) || !strings.Contains(err.Error(), `format "2"`) {
		t.Errorf("got %v", err)
	}
	if err := s.Put(t.Context(), entry(t, "shared/db", gen2, 2, "a")); !errors.As(err, &format) {
		t.Errorf("got %v", err)
	}
}

func TestABrokenSecretIsNamedAndTakesNoOtherAlong(t *testing.T) {
	const meta, ownerA, public = "meta.json", "owners/a.json", "public/public"
	for name, c := range map[string]struct {
		breakIt func(t *testing.T, folder string)
		path    string
		owner   string
		text    string
		hint    string
	}{
		"no meta.json":     {remove(meta), meta, "", "it is missing", "git checkout HEAD -- fleet-state/default/secrets/shared/bad,"},
		"truncated meta":   {truncate(meta), meta, "", "unexpected EOF", "fleet secrets regenerate shared/bad"},
		"truncated copy":   {truncate(ownerA), ownerA, "a", "unexpected EOF", "git checkout HEAD"},
		"flipped bit":      {flip(ownerA), ownerA, "a", "checksum", "git checkout HEAD"},
		"conflict in meta": {conflict(meta), meta, "", "conflict markers", "fleet secrets resolve --ours shared/bad"},
		"conflict in copy": {conflict(ownerA), ownerA, "a", "conflict markers", "fleet secrets resolve --ours shared/bad"},
		"conflict in public": {conflict(public), public, "", "conflict markers",
			"fleet secrets resolve --ours shared/bad"},
		"edited public":      {replace(public, "other\n"), public, "", "not the value that meta.json commits to", "git checkout HEAD"},
		"no public":          {remove(public), public, "", "it is missing", "git checkout HEAD"},
		"a large public":     {replace(public, strings.Repeat("x", 1<<20)), public, "", "1048576 bytes", "git checkout HEAD"},
		"a huge meta":        {replace(meta, strings.Repeat(" ", 2<<20)), meta, "", "more than 1048576 bytes", "git checkout HEAD"},
		"plaintext":          {replace(ownerA, "hunter2\n"), ownerA, "a", "invalid character", "git checkout HEAD"},
		"an unknown file":    {replace("owners/a.txt", "x"), "owners/a.txt", "", "does not belong here", "remove it"},
		"an unknown folder":  {replace("more/x", "x"), "more", "", "does not belong here", "remove it"},
		"a link as meta":     {link(meta), meta, "", "it is no file", "git checkout HEAD"},
		"a link as copy":     {link(ownerA), ownerA, "a", "it is no file", "git checkout HEAD"},
		"a link as folder":   {link("owners"), "owners", "", "does not belong here", "remove it"},
		"a folder as copy":   {replace("owners/b.json/x", "x"), "owners/b.json", "b", "it is no file", "git checkout HEAD"},
		"a pipe as copy":     {pipe(ownerA), ownerA, "a", "it is no file", "git checkout HEAD"},
		"a link as secret":   {linkSecret, "", "", "it is no folder", "git checkout HEAD"},
		"a file as secret":   {fileSecret, "", "", "it is no folder", "git checkout HEAD"},
		"a renamed note":     {replace("revoked/x-y.json", `{"at":"2027-01-02T03:04:05Z","format":1,"gen":"`+string(gen1)+`","owner":"c"}`), "revoked/x-y.json", "", "its name", "git checkout HEAD"},
		"a newer format":     {replace(meta, `{"format":2}`), meta, "", "newer than format 1", "git checkout HEAD"},
		"an unknown field":   {replace(ownerA, `{"format":1,"more":1}`), ownerA, "a", "unknown field", "git checkout HEAD"},
		"another generation": {otherGen, "", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			good := entry(t, "shared/good", gen2, 1, "a")
			put(t, s, good)
			put(t, s, entry(t, "shared/bad", gen1, 1, "a"))
			bad := id(t, "shared/bad")
			c.breakIt(t, filepath.Join(s.Dir(), s.Path(bad)))
			tree := load(t, s)
			if diff := cmp.Diff(good, tree.Secrets[good.ID]); diff != "" {
				t.Error(diff)
			}
			e := tree.Secrets[bad]
			if e == nil {
				t.Fatal("it was taken for a secret that is not there")
			}
			if c.text == "" { // for decisions and checks to see
				if e.Err != nil {
					t.Error(e.Err)
				}
				return
			}
			var broken *state.BrokenError
			if !errors.As(e.Err, &broken) || len(e.Faults()) == 0 {
				t.Fatalf("got %v", e.Err)
			}
			path := filepath.Join(s.Path(bad), c.path)
			if broken.Path != path || broken.Owner != c.owner || !strings.Contains(broken.Error(), c.text) || !strings.Contains(broken.Hint(), c.hint) {
				t.Errorf("got %+v\n%v\n%s", broken, broken, broken.Hint())
			}
			put(t, s, entry(t, "shared/bad", gen3, 2, "a"))
			if e := load(t, s).Secrets[bad]; e.Err != nil || e.Meta.Gen != gen3 {
				t.Errorf("after a new value: %+v", e)
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, folder string) {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(name string) func(*testing.T, string) {
	return edit(name, func(data []byte) []byte { return data[:len(data)/2] })
}

func flip(name string) func(*testing.T, string) {
	return edit(name, func(data []byte) []byte {
		data[strings.Index(string(data), "ENCRYPTED")] ^= 1
		return data
	})
}

func conflict(name string) func(*testing.T, string) {
	return edit(name, func(data []byte) []byte {
		return []byte("<<<<<<< HEAD\n" + string(data) + "=======\n" + string(data) + ">>>>>>> theirs\n")
	})
}

func replace(name, content string) func(*testing.T, string) {
	return func(t *testing.T, folder string) { write(t, filepath.Join(folder, name), content) }
}

func edit(name string, change func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, folder string) {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, name), string(change(data)))
	}
}

// link puts in the place of a file or folder a link to a copy of it outside of the work tree.
func link(name string) func(*testing.T, string) {
	return func(t *testing.T, folder string) {
		outside := filepath.Join(t.TempDir(), "outside")
		if err := errors.Join(os.Rename(filepath.Join(folder, name), outside), os.Symlink(outside, filepath.Join(folder, name))); err != nil {
			t.Fatal(err)
		}
	}
}

func linkSecret(t *testing.T, folder string) { link(".")(t, folder+"/") }

func fileSecret(t *testing.T, folder string) {
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	write(t, folder, "x")
}

func pipe(name string) func(*testing.T, string) {
	return func(t *testing.T, folder string) {
		if err := errors.Join(os.Remove(filepath.Join(folder, name)), syscall.Mkfifo(filepath.Join(folder, name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func otherGen(t *testing.T, folder string) {
	data, err := owner("a", gen3).Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "owners/a.json"), string(data))
}
