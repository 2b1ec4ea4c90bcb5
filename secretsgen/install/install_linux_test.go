package install

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

func TestSecretsAreWhereAndWhoseTheyShouldBe(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.secret("db", "hunter2")
	b.public(&s, "public", secret.EncodingText, "pub\n", "pub\n")
	b.public(&s, "der", secret.EncodingBase64, "AP8K\n", "\x00\xff\n")
	numeric := b.secret("numeric", "n")
	numeric.Owner, numeric.Group, numeric.Mode = "1234", "5678", "600"
	own := b.secret("own", "o")
	own.Group = ""
	root := b.secret("root", "")
	root.Owner, root.Group, root.Mode = "", "", "0400"
	b.m.Secrets = []Secret{s, numeric, own, root}
	b.good()
	commit := func(s Secret, part string) string {
		return "run/secrets/" + s.ID.Name + "/" + s.Parts[part].Commit + "-" + part
	}
	b.want(map[string]string{
		"run/secrets/db/secret": "hunter2 990:96 0440", commit(s, "secret"): "hunter2 990:96 0440",
		"run/secrets/db/public": "pub\n 0:0 0444", commit(s, "public"): "pub\n 0:0 0444",
		"run/secrets/db/der": "\x00\xff\n 0:0 0444", commit(numeric, "secret"): "n 1234:5678 0600",
		"run/secrets/own/secret": "o 990:980 0440", "run/secrets/root/secret": " 0:0 0400",
	})
	for _, dir := range []string{"run/secrets.d", "run/secrets.d/1", "run/secrets.d/1/db"} {
		info, err := os.Lstat(b.path(dir))
		b.must(err)
		if own := ownershipOf(info); own != (ownership{Mode: 0o751}) {
			t.Errorf("%s: %+v", dir, own)
		}
	}
	if target, err := os.Readlink(b.path("run/secrets")); err != nil || target != "secrets.d/1" {
		t.Error(target, err)
	}
	if diff := cmp.Diff([]string{
		"added host/web/db, generation 00000000000000000000000000000001", "added host/web/numeric, generation 00000000000000000000000000000002",
		"added host/web/own, generation 00000000000000000000000000000003", "added host/web/root, generation 00000000000000000000000000000004",
	}, b.log); diff != "" {
		t.Error(diff)
	}
}

func TestWhatASystemWithoutSecretsLeavesIsCleared(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.secret("db", "hunter2")
	s.Credentials = map[string]string{"db": "secret"}
	b.m.Secrets = []Secret{s}
	b.good()
	b.must(Clear(t.Context(), b.options()))
	for _, gone := range []string{"run/secrets/db", "run/secrets.d/1", "run/credstore/db"} {
		if _, err := os.Lstat(b.path(gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	again := newBench(t)
	again.must(Clear(t.Context(), again.options()))
	if _, err := os.Lstat(again.path("run/secrets.d")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("clearing nothing has made a folder: %v", err)
	}
}

func TestARerunChangesNothing(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.secret("db", "hunter2")
	s.Credentials = map[string]string{"db-password": "secret"}
	b.m.Secrets = []Secret{s, b.secret("api", "key")}
	b.m.Templates = []Template{{Name: "app", Mode: "0440", Content: "x=" + Placeholder(s.ID, "secret"), Path: "/etc/app.conf"}}
	b.good()
	before := b.snapshot(".")
	for range 3 {
		b.good()
		if diff := cmp.Diff(before, b.snapshot(".")); diff != "" || len(b.log) > 0 {
			t.Errorf("%s %q", diff, b.log)
		}
	}
	// Sealing again gives another file of the same value.
	b.encryptAgain(0, "hunter2")
	b.good()
	if diff := cmp.Diff(before, b.snapshot(".")); diff == "" || len(b.log) != 2 {
		t.Errorf("another salt is another value: %q", b.log)
	}
}

// encryptAgain seals a value of a secret with another salt, so that its commitment is another.
func (b *bench) encryptAgain(i int, value string) { b.encrypted(&b.m.Secrets[i], "secret", value) }

func TestRewrappingIsNoChange(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	b.good()
	before := b.snapshot(".")
	s := &b.m.Secrets[0]
	ids, err := seal.LoadIdentities(b.key)
	b.must(err)
	part := s.Parts["secret"]
	result, err := seal.RewrapAll(seal.RewrapRequest{
		Parts: []seal.Ref{{Fleet: "default", ID: s.ID, Part: "secret", Gen: s.Gen, Seq: s.Seq, Armor: part.Armor, Commit: part.Commit}},
		To:    map[string]string{"web": b.to.Key},
	}, ids...)
	b.must(err)
	armor := result.Parts[0].Sealed["web"].Armor
	if armor == part.Armor {
		t.Fatal("it is the same file")
	}
	part.Armor = armor
	s.Parts["secret"] = part
	b.good()
	if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
		t.Error(diff)
	}
}

// TestChangesAreSwappedInAndNothingOldIsLeft: a former owner of a file, and one whose secret is gone, must not find it in an older generation.
func TestChangesAreSwappedInAndNothingOldIsLeft(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "one"), b.secret("gone", "x"), b.secret("owner", "y")}
	b.good()
	old := b.m.Secrets[0].Parts["secret"].Commit
	b.m.Secrets = []Secret{b.secret("db", "two"), b.m.Secrets[2], b.secret("new", "z")}
	b.m.Secrets[1].Mode = "0400"
	b.good()
	b.want(map[string]string{
		"run/secrets/db/secret": "two 990:96 0440", "run/secrets/gone/secret": "", "run/secrets/db/" + old + "-secret": "", "run/secrets/new/secret": "z 990:96 0440",
		"run/secrets/owner/secret": "y 990:96 0400",
	})
	for _, old := range []string{`"one"`, `"x"`} {
		if strings.Contains(b.snapshot("run"), old) {
			t.Errorf("the old value %s is still there", old)
		}
	}
	if diff := cmp.Diff([]string{
		"changed host/web/db, generation 00000000000000000000000000000001 to 00000000000000000000000000000004", "added host/web/new, generation 00000000000000000000000000000005",
		"changed owner, group or mode of host/web/owner, generation 00000000000000000000000000000003", "removed host/web/gone, generation 00000000000000000000000000000002",
	}, b.log); diff != "" {
		t.Error(diff)
	}
	for i := range 5 {
		b.m.Secrets[0] = b.secret("db", strings.Repeat("v", i))
		b.good()
	}
	if diff := cmp.Diff([]string{"7"}, b.generations("secrets")); diff != "" {
		t.Error(diff)
	}
	b.m.Secrets = nil
	b.good()
	if left, err := os.ReadDir(b.path("run/secrets")); err != nil || len(left) != 1 || left[0].Name() != recordFile {
		t.Error("undeclared secrets are still there", left, err)
	}
}

func TestOneBadSecretTakesNoOtherAlong(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	other := newBench(t)
	ok := b.secret("ok", "fine")
	foreign := other.secret("foreign", "x")
	foreign.Gen = b.nextGen()
	damaged := b.secret("damaged", "x")
	damaged.Parts["secret"] = Part{Encrypted: true, Commit: damaged.Parts["secret"].Commit, Armor: "hunter2"}
	swapped, replayed, commit, nobody, badText, oddEncoding, badPublic := b.secret("swapped", "x"), b.secret("replayed", "x"), b.secret("commit", "x"), b.secret("nobody", "x"), b.secret("text", "x"), b.secret("encoding", "x"), b.secret("public", "x")
	swapped.Parts["secret"] = Part{Encrypted: true, Commit: swapped.Parts["secret"].Commit, Armor: ok.Parts["secret"].Armor}
	replayed.Gen, replayed.Seq = b.nextGen(), 2
	commit.Parts["secret"] = Part{Encrypted: true, Commit: ok.Parts["secret"].Commit, Armor: commit.Parts["secret"].Armor}
	nobody.Owner = "nobody-here"
	b.public(&badText, "public", secret.EncodingBase64, "no base64!", "x")
	b.public(&oddEncoding, "public", "hex", "00", "x")
	b.public(&badPublic, "public", secret.EncodingText, "evil", "good")
	nogroup := b.secret("nogroup", "x")
	nogroup.Group = "no-group-here"
	b.m.Secrets = []Secret{foreign, damaged, swapped, replayed, commit, nobody, nogroup, badText, oddEncoding, badPublic, ok}
	failed := b.install()
	b.want(map[string]string{"run/secrets/ok/secret": "fine 990:96 0440"})
	want := map[string]string{
		"foreign": "encrypted to another key", "damaged": "no armored age file", "swapped": "something else", "replayed": "something else", "commit": "commits to",
		"nobody": `no user "nobody-here"`, "nogroup": `no group "no-group-here"`, "text": "base64", "encoding": "encoding", "public": "commits to",
	}
	for _, f := range failed {
		if !strings.Contains(f.Reason, want[f.ID.Name]) || want[f.ID.Name] == "" || f.Kept {
			t.Errorf("%+v", f)
		}
		if strings.Contains(f.Reason, "hunter2") || f.Hint == "" && f.ID.Name != "encoding" {
			t.Errorf("%+v", f)
		}
		delete(want, f.ID.Name)
		if _, err := os.Lstat(b.path("run/secrets/" + f.ID.Name)); err == nil {
			t.Errorf("%s is there", f.ID.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("these did not fail: %v", want)
	}
	if !slices.IsSortedFunc(failed, func(a, c Failure) int { return strings.Compare(a.What(), c.What()) }) {
		t.Error("failures are not sorted")
	}
}

func TestASecretThatCannotBeReadKeepsItsCopyOfTheSameValue(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	same, changed, owner := b.secret("same", "kept"), b.secret("changed", "old"), b.secret("owner", "kept too")
	b.public(&same, "public", secret.EncodingText, "pub", "pub")
	same.Credentials = map[string]string{"cred": "secret"}
	b.m.Secrets = []Secret{same, changed, owner}
	b.m.Templates = []Template{{Name: "app", Mode: "0440", Content: "x=" + Placeholder(same.ID, "secret")}, {Name: "mine", Owner: "git", Mode: "0440", Content: Placeholder(owner.ID, "secret")}}
	b.good()
	b.m.Secrets[1] = b.secret("changed", "new")
	b.m.Secrets = append(b.m.Secrets, b.secret("new", "readable"))
	b.m.Secrets[2].Owner = "left"
	b.m.Templates[1].Owner = "left"
	for i := range b.m.Secrets[:2] {
		part := b.m.Secrets[i].Parts["secret"]
		part.Armor = strings.Replace(part.Armor, "A", "B", 1)
		b.m.Secrets[i].Parts["secret"] = part
	}
	check := func() {
		t.Helper()
		kept := map[string]bool{}
		for _, f := range b.install() {
			kept[f.What()] = f.Kept
		}
		if diff := cmp.Diff(map[string]bool{"host/web/same": true, "host/web/changed": false, "host/web/owner": true, "template mine": true}, kept); diff != "" {
			t.Error(diff)
		}
		b.want(map[string]string{
			"run/secrets/same/secret": "kept 990:96 0440", "run/secrets/same/public": "pub 0:0 0444", "run/secrets/changed/secret": "", "run/secrets/new/secret": "readable 990:96 0440",
			"run/secrets/owner/secret": "kept too 990:96 0440", "run/secrets-rendered/app": "x=kept 0:0 0440", "run/secrets-rendered/mine": "kept too 990:980 0440", "run/credstore/cred": "kept 990:96 0440",
		})
	}
	check()
	before := b.snapshot(".")
	check()
	if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
		t.Error("a rerun with failures changed something", diff)
	}
}

func TestAHostThatLostItsKeyKeepsWhatItHasAndSaysWhatToDo(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "one")}
	b.good()
	b.m.Secrets = append(b.m.Secrets, b.secret("new", "two"))
	pub := Secret{ID: secret.ID{Scope: secret.Shared, Name: "pub"}, Gen: b.nextGen(), Seq: 1, Mode: "0440", Parts: map[string]Part{}}
	b.public(&pub, "public", secret.EncodingText, "p", "p")
	b.m.Secrets = append(b.m.Secrets, pub)
	b.must(os.Remove(b.key))
	for _, test := range []struct {
		what string
		want []string
	}{{"no key", []string{b.key + `" is not there`, b.path("absent")}}, {"another key", []string{"encrypted to another key than this host's, SHA256:", b.key}}} {
		what := test.what
		if what == "another key" {
			b.newKey()
		}
		report, err := Install(t.Context(), b.m, b.options())
		b.must(err)
		b.want(map[string]string{"run/secrets/db/secret": "one 990:96 0440", "run/secrets/new/secret": "", "run/secrets/pub/public": "p 0:0 0444"})
		var hint interface{ Hint() string }
		err = report.Err()
		if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "fleet secrets host-key") || !strings.Contains(hint.Hint(), "fleet secrets status") {
			t.Errorf("%s: %v", what, err)
		}
		for _, text := range append(test.want, "2 of 3", "host/web/db", "host/web/new", "still in place") {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v does not say %q", what, err, text)
			}
		}
	}
}

func TestWhatWasTamperedWithIsRepaired(t *testing.T) {
	requireRoot(t)
	for name, tamper := range map[string]func(b *bench, dir string) error{
		"content":      func(b *bench, dir string) error { return os.WriteFile(dir+"/db/secret", []byte("HUNTER2"), 0o440) },
		"mode":         func(b *bench, dir string) error { return os.Chmod(dir+"/db/secret", 0o666) },
		"setuid":       func(b *bench, dir string) error { return os.Chmod(dir+"/db/secret", 0o440|os.ModeSetuid) },
		"owner":        func(b *bench, dir string) error { return os.Chown(dir+"/db/secret", 1, 2) },
		"gone":         func(b *bench, dir string) error { return os.Remove(dir + "/db/secret") },
		"more":         func(b *bench, dir string) error { return os.WriteFile(dir+"/db/more", nil, 0o600) },
		"more folders": func(b *bench, dir string) error { return os.Mkdir(dir+"/other", 0o751) },
		"folder mode":  func(b *bench, dir string) error { return os.Chmod(dir+"/db", 0o777) },
		"link": func(b *bench, dir string) error {
			return errors.Join(os.Remove(dir+"/db/secret"), os.Symlink("/etc/passwd", dir+"/db/secret"))
		},
		"two files": func(b *bench, dir string) error {
			return errors.Join(os.Remove(dir+"/db/secret"), os.WriteFile(dir+"/db/secret", []byte("hunter2"), 0o440), os.Chmod(dir+"/db/secret", 0o440), os.Chown(dir+"/db/secret", 990, 96))
		},
		"no record": func(b *bench, dir string) error { return os.Remove(dir + "/" + recordFile) },
		"bad record": func(b *bench, dir string) error {
			return os.WriteFile(dir+"/"+recordFile, []byte("{"), 0o400)
		},
		"no folder": func(b *bench, dir string) error { return os.RemoveAll(dir) },
		"no link":   func(b *bench, dir string) error { return os.Remove(b.path("run/secrets")) },
		"odd link": func(b *bench, dir string) error {
			return errors.Join(os.Remove(b.path("run/secrets")), os.Symlink("../etc", b.path("run/secrets")))
		},
		"link to out": func(b *bench, dir string) error {
			return errors.Join(os.Remove(b.path("run/secrets")), os.Symlink("secrets.d/../../etc", b.path("run/secrets")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.m.Secrets = []Secret{b.secret("db", "hunter2")}
			b.good()
			b.must(tamper(b, b.path("run/secrets.d/1")))
			etc := b.snapshot("etc")
			b.good()
			b.want(map[string]string{"run/secrets/db/secret": "hunter2 990:96 0440"})
			before := b.snapshot("run")
			b.good()
			if diff := cmp.Diff(before, b.snapshot("run")); diff != "" {
				t.Error("a rerun changed something", diff)
			}
			if diff := cmp.Diff(etc, b.snapshot("etc")); diff != "" {
				t.Error("something outside was changed", diff)
			}
		})
	}
}
