package install

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPhasesHaveTheirOwnFoldersAndTouchNothingOfEachOther(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	user, main := b.secret("hash", "$y$"), b.secret("db", "hunter2")
	user.NeededForUsers, user.Owner, user.Mode = true, "not-made-yet", "0400"
	user.Credentials, main.Credentials = map[string]string{"hash": "secret"}, map[string]string{"db": "secret"}
	b.m.Secrets = []Secret{user, main}
	b.m.Templates = []Template{
		{Name: "early", Owner: "not-made-yet", Mode: "0400", NeededForUsers: true, Content: Placeholder(user.ID, "secret"), Path: "/early"},
		{Name: "late", Mode: "0400", Content: Placeholder(user.ID, "secret") + Placeholder(main.ID, "secret"), Path: "/late"},
	}
	opt := b.options()
	opt.Phase, opt.Accounts = PhaseUsers, b.path("nothing-yet")
	report, err := Install(t.Context(), b.m, opt)
	if err != nil || len(report.Failed) > 0 || report.Total != 2 {
		t.Fatal(report, err)
	}
	b.want(map[string]string{
		"run/secrets-for-users/hash/secret": "$y$ 0:0 0400", "run/secrets/db/secret": "", "links/early": "$y$ 0:0 0400", "links/late": "", "run/credstore/hash": "$y$ 0:0 0400", "run/credstore/db": "",
	})
	users := b.snapshot("run/secrets-for-users.d")
	b.good()
	b.want(map[string]string{
		"run/secrets/db/secret": "hunter2 990:96 0440", "run/secrets/hash/secret": "", "links/late": "$y$hunter2 0:0 0400", "run/secrets-rendered/late": "$y$hunter2 0:0 0400",
		"run/credstore/hash": "$y$ 0:0 0400", "run/credstore/db": "hunter2 990:96 0440", "links/early": "$y$ 0:0 0400",
	})
	if diff := cmp.Diff(users, b.snapshot("run/secrets-for-users.d")); diff != "" {
		t.Error(diff)
	}
	if _, err := Install(t.Context(), b.m, Options{Root: b.path("run"), Phase: "late"}); err == nil {
		t.Error("an unknown phase")
	}
}

func TestNothingIsMadeForAHostWithoutSecrets(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.must(os.Mkdir(b.path("run/secrets"), 0o700)) // of another tool
	b.good()
	if _, err := os.Lstat(b.path("run/secrets.d")); err == nil {
		t.Error("a folder for nothing")
	}
}

func TestTheFolderOfAnotherToolIsMovedAside(t *testing.T) {
	requireRoot(t)
	for name, folder := range map[string]string{"a folder": "run/secrets", "left by an installer that was killed": "run/.secrets.new"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.m.Secrets = []Secret{b.secret("db", "hunter2")}
			b.must(os.MkdirAll(b.path("run/secrets.before-fleet/older"), 0o755))
			b.must(os.MkdirAll(b.path(folder), 0o755))
			b.write(folder+"/theirs", "old")
			b.good()
			b.want(map[string]string{"run/secrets/db/secret": "hunter2 990:96 0440"})
			if found, err := filepath.Glob(b.path("run/secrets.before-fleet*/theirs")); err != nil || len(found) != 1 {
				t.Error(found, err)
			}
			if !slices.ContainsFunc(b.log, func(line string) bool { return strings.Contains(line, "of another tool") }) {
				t.Error(b.log)
			}
		})
	}
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	b.must(os.MkdirAll(b.path("run/secrets.d/7/x"), 0o755)) // sops-nix has the same folder, and a link with an absolute target
	b.must(os.Symlink(b.path("run/secrets.d/7"), b.path("run/secrets")))
	b.good()
	if target, err := os.Readlink(b.path("run/secrets")); err != nil || target != "secrets.d/8" {
		t.Error(target, err)
	}
}

func TestFoldersThatAreLinksLeadNowhere(t *testing.T) {
	requireRoot(t)
	for _, name := range []string{"run/secrets.d", "run/credstore"} {
		for kind, target := range map[string]func(b *bench) string{"absolute": func(b *bench) string { return b.path("links") }, "relative": func(*bench) string { return "../links" }} {
			b := newBench(t)
			s := b.secret("db", "hunter2")
			s.Credentials = map[string]string{"db": "secret"}
			b.m.Secrets = []Secret{s}
			b.must(os.Symlink(target(b), b.path(name)))
			report, err := Install(t.Context(), b.m, b.options())
			if err == nil && len(report.Failed) == 0 {
				t.Errorf("%s: a link to %s was followed", name, kind)
			}
			if left, err := os.ReadDir(b.path("links")); err != nil || len(left) > 0 {
				t.Errorf("%s, %s: something was written outside: %v %v", name, kind, left, err)
			}
		}
	}
}

func TestASecondInstallerWaits(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "hunter2")}
	first := make(chan struct{})
	release := make(chan struct{})
	done := make(chan error, 1)
	opt := b.options()
	opt.observe = func(step string) {
		if step == "decrypted" {
			close(first)
			<-release
		}
	}
	go func() {
		_, err := Install(t.Context(), b.m, opt)
		done <- err
	}()
	<-first
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Install(ctx, b.m, b.options()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another installer") {
		t.Error(err)
	}
	close(release)
	b.must(<-done)
	b.good()
}

func TestACancelledInstallerHasChangedNothing(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	b.m.Secrets = []Secret{b.secret("db", "one")}
	b.good()
	before := b.snapshot(".")
	b.m.Secrets = []Secret{b.secret("db", "two")}
	ctx, cancel := context.WithCancel(t.Context())
	opt := b.options()
	opt.observe = func(string) { cancel() }
	if _, err := Install(ctx, b.m, opt); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
		t.Error(diff)
	}
}

func TestThePreflightChangesNothingAndFindsAllThatWouldFail(t *testing.T) {
	b := newBench(t)
	good, bad := b.secret("good", "x"), b.secret("bad", "x")
	good.Owner = "made-by-the-switch"
	bad.NeededForUsers = true
	bad.Parts["secret"] = Part{Encrypted: true, Commit: good.Parts["secret"].Commit, Armor: bad.Parts["secret"].Armor}
	b.m.Secrets = []Secret{good, bad}
	b.m.Templates = []Template{
		{Name: "fine", Owner: "made-by-the-switch", Mode: "0440", Content: Placeholder(good.ID, "secret")},
		{Name: "needs-bad", Mode: "0440", Content: Placeholder(bad.ID, "secret")},
		{Name: "unknown", Mode: "0440", Content: Placeholder(good.ID, "public")},
	}
	before := b.snapshot(".")
	report, err := Check(t.Context(), b.m, b.options())
	b.must(err)
	var got []string
	for _, f := range report.Failed {
		got = append(got, f.What())
	}
	if diff := cmp.Diff([]string{"host/web/bad", "template needs-bad", "template unknown"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
		t.Error(diff)
	}
	b.must(os.Remove(b.key))
	if report, err = Check(t.Context(), b.m, b.options()); err != nil || len(report.Failed) != 5 || report.Total != 5 {
		t.Error(report, err)
	}
	b.m.Host = "../x"
	if _, err := Check(t.Context(), b.m, b.options()); err == nil {
		t.Error("a manifest that is none")
	}
}
