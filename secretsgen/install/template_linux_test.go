package install

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
)

func TestPlaceholdersAreTheOnesThatNixWrites(t *testing.T) {
	// builtins.substring 0 32 (builtins.hashString "sha256" "host/web/db/secret")
	if got, want := Placeholder(secret.ID{Scope: secret.OfHost("web"), Name: "db"}, "secret"), "<FLEET-SECRET:75cf69b5d0b44482c45b8e2b764edda1>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTemplatesAreRendered(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	db, api := b.secret("db", "hunter2"), b.secret("api", "")
	tricky := b.secret("tricky", Placeholder(db.ID, "secret"))
	b.public(&db, "public", secret.EncodingText, "pub\n", "pub\n")
	b.m.Secrets = []Secret{db, api, tricky}
	ph := Placeholder
	for name, test := range map[string]struct{ content, want, fails string }{
		"none":        {"plain <text> & <FLEET>\n", "plain <text> & <FLEET>\n", ""},
		"empty":       {"", "", ""},
		"several":     {"a=" + ph(db.ID, "secret") + "\nb=" + ph(db.ID, "public") + "c=" + ph(api.ID, "secret") + ";", "a=hunter2\nb=pub\nc=;", ""},
		"twice":       {ph(db.ID, "secret") + ph(db.ID, "secret"), "hunter2hunter2", ""},
		"only":        {ph(db.ID, "secret"), "hunter2", ""},
		"not again":   {ph(tricky.ID, "secret"), ph(db.ID, "secret"), ""},
		"unknown":     {ph(db.ID, "other"), "", "does not have"},
		"cut":         {ph(db.ID, "secret")[:30], "", "does not end"},
		"other bytes": {"<FLEET-SECRET:" + strings.Repeat("x", 32) + ">", "", "does not have"},
		"too short":   {"<FLEET-SECRET:>", "", "does not end"},
	} {
		b.m.Templates = []Template{{Name: "t", Owner: "git", Group: "keys", Mode: "0640", Content: test.content}, {Name: "other", Mode: "0400", Content: "x"}}
		failed := b.install()
		want := test.want + " 990:96 0640"
		if test.fails != "" {
			want = ""
			if len(failed) != 1 || failed[0].Template != "t" || !strings.Contains(failed[0].Reason, test.fails) {
				t.Errorf("%s: %+v", name, failed)
			}
		} else if len(failed) > 0 {
			t.Errorf("%s: %+v", name, failed)
		}
		for _, file := range []string{"run/secrets/.rendered/t", "run/secrets-rendered/t"} {
			b.want(map[string]string{file: want, "run/secrets-rendered/other": "x 0:0 0400"})
		}
	}
	b.m.Templates = nil
	b.good()
	if _, err := os.Lstat(b.path("run/secrets-rendered")); err == nil {
		t.Error("there is a link without templates")
	}
}

func TestATemplateChangesWithTheValuesThatItShows(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "one")}
	b.m.Templates = []Template{{Name: "app", Mode: "0440", Content: "x=" + Placeholder(b.m.Secrets[0].ID, "secret")}}
	b.good()
	b.m.Secrets[0] = b.secret("db", "two")
	b.good()
	b.want(map[string]string{"run/secrets-rendered/app": "x=two 0:0 0440"})
	if diff := cmp.Diff("changed template app", b.log[len(b.log)-1]); diff != "" {
		t.Error(b.log)
	}
}

func TestNoRecordTellsAValue(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	b.m.Templates = []Template{{Name: "app", Mode: "0440", Content: "x=" + Placeholder(b.m.Secrets[0].ID, "secret")}}
	b.good()
	got := b.describe("run/secrets/" + recordFile)
	if strings.Contains(got, "hunter2") || !strings.HasSuffix(got, " 0:0 0400") || strings.Contains(strings.Join(b.log, ""), "hunter2") {
		t.Error(got, b.log)
	}
}

func TestTemplatesAreLinkedAtTheirPath(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Templates = []Template{{Name: "a", Mode: "0444", Content: "a", Path: "/var/lib/app/conf"}, {Name: "b", Mode: "0444", Content: "b", Path: "/b"}}
	b.good()
	b.want(map[string]string{"links/var/lib/app/conf": "a 0:0 0444", "links/b": "b 0:0 0444"})
	if target, err := os.Readlink(b.path("links/b")); err != nil || target != b.path("run/secrets-rendered/b") {
		t.Error(target, err)
	}
	// Moved, exchanged, removed.
	b.m.Templates[0].Path, b.m.Templates[1].Path = "/b", ""
	b.good()
	b.want(map[string]string{"links/var/lib/app/conf": "", "links/b": "a 0:0 0444"})
	b.m.Templates = nil
	b.good()
	if _, err := os.Lstat(b.path("links/b")); err == nil {
		t.Error("the link of a template that is gone is still there")
	}
}

func TestWhatIsNotOursAtAPathStays(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.write("links/file", "theirs")
	b.must(os.Mkdir(b.path("links/folder"), 0o755))
	b.must(os.Symlink("/etc/static/x", b.path("links/link")))
	b.must(os.Mkdir(b.path("outside"), 0o755))
	b.must(os.Symlink(b.path("outside"), b.path("links/absolute")))
	b.must(os.Symlink("../outside", b.path("links/up")))
	b.must(os.Symlink("folder", b.path("links/inside")))
	before := b.snapshot("links")
	for path, want := range map[string]string{
		"/file": "something else", "/folder": "something else", "/link": "a link to", "/file/x": "no folder", "/absolute/x": "no folder", "/up/x": "no folder", "/inside/x": "no folder",
		"/" + strings.Repeat("d/", 65) + "x": "deep",
	} {
		b.m.Templates = []Template{{Name: "t", Mode: "0444", Content: "t", Path: path}, {Name: "ok", Mode: "0444", Content: "ok"}}
		failed := b.install()
		if len(failed) != 1 || failed[0].Template != "t" || !strings.Contains(failed[0].Reason, want) {
			t.Errorf("%s: %+v", path, failed)
		}
		b.want(map[string]string{"run/secrets-rendered/t": "t 0:0 0444", "run/secrets-rendered/ok": "ok 0:0 0444"})
	}
	if diff := cmp.Diff(before, b.snapshot("links")); diff != "" {
		t.Error(diff)
	}
	// What somebody put in the place of our link is not removed with the template.
	b.m.Templates = []Template{{Name: "t", Mode: "0444", Content: "t", Path: "/mine"}}
	b.good()
	b.must(os.Remove(b.path("links/mine")))
	b.write("links/mine", "theirs by now")
	b.m.Templates = nil
	b.good()
	b.want(map[string]string{"links/mine": "theirs by now 0:0 0644"})
}

func TestCredentialsAreLinkedAndRemoved(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.secret("db", "hunter2")
	s.Credentials = map[string]string{"db-password": "secret", "other": "secret"}
	b.m.Secrets = []Secret{s}
	b.must(os.Mkdir(b.path("run/credstore"), 0o700))
	b.write("run/credstore/theirs", "x")
	b.must(os.Symlink("/etc/x", b.path("run/credstore/their-link")))
	b.good()
	b.want(map[string]string{"run/credstore/db-password": "hunter2 990:96 0440", "run/credstore/other": "hunter2 990:96 0440"})
	if target, err := os.Readlink(b.path("run/credstore/db-password")); err != nil || target != "../secrets/db/secret" {
		t.Error(target, err)
	}
	b.m.Secrets[0].Credentials = map[string]string{"db-password": "secret", "theirs": "secret", "their-link": "secret"}
	failed := b.install()
	if len(failed) != 2 || failed[0].ID != s.ID || !strings.Contains(failed[0].Reason+failed[1].Reason, "credstore/theirs") {
		t.Errorf("%+v", failed)
	}
	b.want(map[string]string{"run/credstore/db-password": "hunter2 990:96 0440", "run/credstore/other": "", "run/credstore/theirs": "x 0:0 0644"})
	b.m.Secrets[0] = b.secret("mail", "m")
	b.m.Secrets[0].Credentials = map[string]string{"db-password": "secret"}
	b.good()
	b.want(map[string]string{"run/credstore/db-password": "m 990:96 0440"})
	b.m.Secrets = nil
	b.good()
	if left, err := os.ReadDir(b.path("run/credstore")); err != nil || len(left) != 2 {
		t.Error(left, err)
	}
}

func FuzzSplitTemplate(f *testing.F) {
	f.Add("a " + Placeholder(secret.ID{Scope: secret.Shared, Name: "x"}, "secret") + " b")
	f.Add("<FLEET-SECRET:>")
	f.Fuzz(func(t *testing.T, content string) {
		texts, hashes, err := splitTemplate(content)
		if err != nil {
			return
		}
		if len(texts) != len(hashes)+1 {
			t.Fatalf("%d texts, %d placeholders", len(texts), len(hashes))
		}
		again := texts[0]
		for i, hash := range hashes {
			again += placeholderBegin + hash + placeholderEnd + texts[i+1]
		}
		if again != content {
			t.Errorf("%q became %q", content, again)
		}
	})
}
