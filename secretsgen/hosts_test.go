package secretsgen_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

func TestAnUnreachableOwnerIsPassedOver(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.synced()
	r.declare(shared("x"), spec(owners("a", "b", "c")), only)
	r.hosts["a"].down = true
	report := r.synced()
	if got := outcome(t, report, shared("x")); got.Via != "b" || r.read(shared("x"), "c") != r.read(shared("x"), "b") {
		t.Errorf("got %s", show(got))
	}
}

func TestWithoutAReachableOwnerTheStateStaysAsItWas(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.declare(shared("y"), spec(owners("a")), only)
	r.synced()
	r.hosts["a"].down, r.hosts["b"].down = true, true
	r.declare(shared("x"), spec(owners("a", "c")), only)
	r.declare(own("c", "z"), spec(), only)
	before := r.snapshot()
	report := r.sync()
	got := outcome(t, report, shared("x"))
	if got.Done || !strings.Contains(got.NeedsHuman, "a: ") || !strings.Contains(got.NeedsHuman, "b: ") || !strings.Contains(got.Hint, "fleet secrets regenerate shared/x") {
		t.Errorf("got %s", show(got))
	}
	if !outcome(t, report, own("c", "z")).Done || !report.Incomplete() {
		t.Error("others did not go on")
	}
	after := r.snapshot()
	for file, was := range before {
		if strings.Contains(file, "shared/x") && after[file] != was {
			t.Errorf("%s changed", file)
		}
	}
}

func TestOneRequestAHostWrapsAllThatGoesToTheSameOwners(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	for i := range 20 {
		r.declare(shared(fmt.Sprint("x", i)), spec(owners("a", "b")), only)
	}
	r.synced()
	for i := range 20 {
		r.declare(shared(fmt.Sprint("x", i)), spec(owners("a", "b", "c")), only)
	}
	r.synced()
	if r.calls["rewrap a"] != 1 || r.calls["rewrap b"] != 0 || r.calls["key a"] != 1 {
		t.Errorf("calls: %v", r.calls)
	}
	for i := range 20 {
		if id := shared(fmt.Sprint("x", i)); r.read(id, "c") != r.read(id, "a") {
			t.Errorf("%s differs", id)
		}
	}
}

func TestAnOwnerThatLostItsKeyIsPassedOver(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.synced()
	// It answers with the pinned key, and cannot open what it owns.
	_, r.hosts["a"].identities = newKey(t)
	r.declare(shared("x"), spec(owners("a", "b", "c")), only)
	if got := outcome(t, r.synced(), shared("x")); got.Via != "b" {
		t.Errorf("got %s", show(got))
	}
}

func TestAHostThatLiesChangesNothing(t *testing.T) {
	foreign, _ := newKey(t)
	stranger, err := seal.ParseRecipient(foreign)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		lie  func(r *rig, result *step.Result)
		want string
	}{
		"sealed to a stranger": {func(r *rig, result *step.Result) {
			c := seal.Context{Fleet: "default", ID: shared("x"), Part: "secret"}
			salt, _ := seal.NewSalt()
			result.Sealed["b"]["secret"], _ = seal.Seal(c, salt, secret.NewPlain([]byte("v")), stranger)
		}, "not encrypted to the key"},
		"sealed to another owner":   {func(_ *rig, result *step.Result) { result.Sealed["b"] = result.Sealed["a"] }, "not encrypted to the key"},
		"an owner more":             {func(_ *rig, result *step.Result) { result.Sealed["evil"] = result.Sealed["a"] }, "no owner"},
		"an owner less":             {func(_ *rig, result *step.Result) { delete(result.Sealed, "b") }, "is missing"},
		"a part less":               {func(_ *rig, result *step.Result) { delete(result.Sealed["b"], "secret") }, "is missing"},
		"a sealed part more":        {func(_ *rig, result *step.Result) { result.Sealed["b"]["other"] = result.Sealed["b"]["secret"] }, "not one that is encrypted"},
		"a public part that is big": {func(_ *rig, result *step.Result) { setPublic(result, strings.Repeat("x", 1<<20)) }, "at most"},
		"a public part of lines":    {func(_ *rig, result *step.Result) { setPublic(result, "a\nb\n") }, "lines"},
		"a private key in public":   {func(_ *rig, result *step.Result) { setPublic(result, "-----BEGIN PRIVATE KEY-----") }, "private key"},
		"another public value":      {func(_ *rig, result *step.Result) { setPublic(result, "forged") }, "commitment is not that of its value"},
		"a commitment in capitals": {func(_ *rig, result *step.Result) {
			p := result.Parts["secret"]
			p.Commit = strings.ToUpper(strings.Repeat("ab", 32))
			result.Parts["secret"] = p
		}, "lower-case"},
		"a secret as a public part": {func(_ *rig, result *step.Result) {
			p := result.Parts["secret"]
			p.Encrypted = false
			result.Parts["secret"] = p
		}, "declared"},
		"an undeclared part":   {func(_ *rig, result *step.Result) { result.Parts["x"] = result.Parts["public"] }, "not declared"},
		"a declared part less": {func(_ *rig, result *step.Result) { delete(result.Parts, "public") }, "declared and missing"},
		"a bad name":           {func(_ *rig, result *step.Result) { result.Parts["../x"] = result.Parts["public"] }, "no valid name|may have letters"},
		"no parts":             {func(_ *rig, result *step.Result) { result.Parts = nil }, "no parts"},
		"expired already":      {func(r *rig, result *step.Result) { at := r.now.Add(-time.Second); result.ExpiresAt = &at }, "expired"},
		"never expires": {func(_ *rig, result *step.Result) {
			at := time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
			result.ExpiresAt = &at
		}, "year 20000"},
		"a damaged file": {func(_ *rig, result *step.Result) {
			armor := result.Sealed["a"]["secret"].Armor
			armor = armor[:len(armor)/2] + armor[len(armor)-40:]
			result.Sealed["a"]["secret"] = secret.SealedPart{Armor: armor, SHA256: secret.Checksum(armor)}
		}, "damaged"},
		"a wrong checksum": {func(_ *rig, result *step.Result) {
			p := result.Sealed["a"]["secret"]
			p.SHA256 = strings.Repeat("0", 64)
			result.Sealed["a"]["secret"] = p
		}, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "a", "b", "hsm")
			r.declare(shared("x"), spec(owners("a", "b"), on("hsm"), withPublic), both)
			r.hosts["hsm"].lie = func(answer any) { test.lie(r, answer.(*step.Result)) }
			report := r.sync()
			got := outcome(t, report, shared("x"))
			found := false
			for want := range strings.SplitSeq(test.want, "|") {
				found = found || strings.Contains(got.Error, want)
			}
			if got.Done || !found || got.Hint == "" || r.has(shared("x")) || !strings.Contains(got.Error, "hsm") {
				t.Errorf("got %s", show(got))
			}
			r.hosts["hsm"].lie = nil
			if got := outcome(t, r.synced(), shared("x")); got.Via != "hsm" {
				t.Errorf("got %s", show(got))
			}
		})
	}
}

func setPublic(result *step.Result, value string) {
	result.Parts["public"] = step.ResultPart{Commit: result.Parts["public"].Commit, Public: []byte(value)}
}

func TestALyingOwnerIsNamedAndTheNextOneAsked(t *testing.T) {
	for name, lie := range map[string]func(*seal.RewrapResult){
		"another key":    func(result *seal.RewrapResult) { result.Parts[0].Sealed["c"] = result.Parts[1].Sealed["d"] },
		"an owner less":  func(result *seal.RewrapResult) { delete(result.Parts[0].Sealed, "c") },
		"an owner more":  func(result *seal.RewrapResult) { result.Parts[0].Sealed["evil"] = result.Parts[0].Sealed["c"] },
		"too few parts":  func(result *seal.RewrapResult) { result.Parts = result.Parts[:1] },
		"too many parts": func(result *seal.RewrapResult) { result.Parts = append(result.Parts, result.Parts[0]) },
		"no armor": func(result *seal.RewrapResult) {
			result.Parts[0].Sealed["c"] = secret.SealedPart{Armor: "x", SHA256: secret.Checksum("x")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "a", "b", "c", "d")
			for _, id := range []string{"x", "y"} {
				r.declare(shared(id), spec(owners("a", "b")), only)
			}
			r.synced()
			for _, id := range []string{"x", "y"} {
				r.declare(shared(id), spec(owners("a", "b", "c", "d")), only)
			}
			r.hosts["a"].lie = func(answer any) { lie(answer.(*seal.RewrapResult)) }
			report := r.sync()
			if got := outcome(t, report, shared("x")); !got.Done || got.Via != "b" || r.read(shared("x"), "c") != r.read(shared("x"), "b") {
				t.Errorf("got %s", show(got))
			}
			if len(report.Hosts) != 1 || report.Hosts[0].Host != "a" || report.Hosts[0].Kind != secretsgen.KindLie || !report.Incomplete() {
				t.Errorf("the liar was not named: %s", show(report.Hosts))
			}
		})
	}
}

func TestAHostsWordsAreCleaned(t *testing.T) {
	r := newRig(t, "a", "c")
	r.declare(shared("x"), spec(owners("a")), only)
	r.synced()
	r.declare(shared("x"), spec(owners("a", "c")), only)
	r.hosts["a"].lie = func(answer any) {
		answer.(*seal.RewrapResult).Parts[0] = seal.RewrappedPart{Error: "\x1b[31mred\x1b[0m\nfake line\r" + strings.Repeat("x", 10000)}
	}
	got := outcome(t, r.sync(), shared("x"))
	if strings.ContainsAny(got.NeedsHuman, "\x1b\n\r") || len(got.NeedsHuman) > 1500 || !strings.Contains(got.NeedsHuman, "red fake line") {
		t.Errorf("got %q", got.NeedsHuman)
	}
}

func TestAGeneratorRunsOnAHostThatOwnsAllThatItReads(t *testing.T) {
	r := newRig(t, "a", "b", "c", "d")
	r.declare(shared("ca"), spec(owners("a", "b", "c")), only)
	r.declare(shared("salt"), spec(owners("b", "c", "d")), only)
	r.declare(shared("note"), spec(owners("d"), func(s *plan.Secret) {
		s.Parts = map[string]plan.SecretPart{"public": {Type: "text"}}
	}), `echo hello > $out/public`)
	r.declare(shared("leaf"), spec(owners("d"), from("ca", "shared/ca"), from("salt", "shared/salt"), from("note", "shared/note")),
		`cat $FLEET_DEPS/ca/secret $FLEET_DEPS/salt/secret $FLEET_DEPS/note/public | encrypt > $out/secret`)
	r.hosts["b"].down = true
	report := r.synced()
	if got := outcome(t, report, shared("leaf")); got.Via != "c" {
		t.Errorf("got %s", show(got))
	}
	if want := r.read(shared("ca"), "a") + r.read(shared("salt"), "d") + "hello\n"; r.read(shared("leaf"), "d") != want {
		t.Errorf("got %q, want %q", r.read(shared("leaf"), "d"), want)
	}
	r.declare(shared("salt"), spec(owners("d")), only)
	r.declare(shared("none"), spec(owners("d"), from("ca", "shared/ca"), from("salt", "shared/salt")), only)
	if got := outcome(t, r.sync(), shared("none")); got.Done || !strings.Contains(got.NeedsHuman, "no host can read all") {
		t.Errorf("got %s", show(got))
	}
}

func TestAPublicDependencyNeedsNoHost(t *testing.T) {
	r := newRig(t, "a")
	r.engine.Hosts = nil
	r.declare(shared("note"), spec(owners("a"), func(s *plan.Secret) {
		s.Parts = map[string]plan.SecretPart{"public": {Type: "text"}}
	}), `echo hello > $out/public`)
	r.declare(shared("x"), spec(owners("a"), from("n", "shared/note")), `encrypt < $FLEET_DEPS/n/public > $out/secret`)
	r.synced()
	if r.read(shared("x"), "a") != "hello\n" {
		t.Errorf("got %q", r.read(shared("x"), "a"))
	}
}

func TestAGeneratorOfAHostRunsThereAndNowhereElse(t *testing.T) {
	r := newRig(t, "a", "b")
	r.plan.Hosts["b"] = plan.Host{System: "aarch64-linux"}
	r.declare(shared("x"), spec(owners("a"), on("b")), only)
	r.declare(own("a", "y"), spec(), only)
	r.hosts["b"].down = true
	got := outcome(t, r.sync(), shared("x"))
	if got.Done || !strings.Contains(got.Error, "b") || r.calls["run a"] != 0 || !r.has(own("a", "y")) {
		t.Errorf("got %s", show(got))
	}
	r.hosts["b"].down = false
	r.built = nil
	if got := outcome(t, r.synced(), shared("x")); got.Via != "b" || !slices.Equal(r.built, []string{"aarch64-linux 1"}) {
		t.Errorf("built %v, got %s", r.built, show(got))
	}
}

func TestAKilledGeneratorOfAHostLeavesNothing(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(shared("x"), spec(owners("a"), on("b")), `sleep 60`)
	r.declare(shared("user"), spec(owners("a"), on("b"), from("x", "shared/x")), only)
	r.hosts["b"].killed = func() {}
	report := r.sync()
	if got := outcome(t, report, shared("x")); got.Done || got.Error == "" || r.has(shared("x")) {
		t.Errorf("got %s", show(got))
	}
	if got := outcome(t, report, shared("user")); got.Done || !strings.Contains(got.Error, "shared/x, which failed") {
		t.Errorf("got %s", show(got))
	}
}

func TestAFailedGeneratorLeavesOthersDone(t *testing.T) {
	r := newRig(t, "a")
	r.declare(own("a", "bad"), spec(), `echo "cannot reach the CA" >&2; exit 3`)
	r.declare(own("a", "unbuilt"), spec(), "")
	r.declare(own("a", "good"), spec(), only)
	r.declare(own("a", "user"), spec(func(s *plan.Secret) { s.Generator.Dependencies["b"] = "host/a/bad" }), only)
	report := r.sync()
	if got := outcome(t, report, own("a", "bad")); !strings.Contains(got.Error, "cannot reach the CA") || got.Done {
		t.Errorf("got %s", show(got))
	}
	if got := outcome(t, report, own("a", "unbuilt")); got.Error != `build the generator of "host/a/unbuilt": it does not build` {
		t.Errorf("got %s", show(got))
	}
	if !outcome(t, report, own("a", "good")).Done || !report.Incomplete() {
		t.Error("others did not go on")
	}
	r.scripts[own("a", "bad")], r.scripts[own("a", "unbuilt")] = only, only
	r.open()
	if report := r.synced(); fmt.Sprint(report.Changed()) != "[host/a/bad host/a/unbuilt host/a/user]" {
		t.Errorf("got %s", show(report))
	}
}

func TestACancelledSyncKeepsWhatIsFinished(t *testing.T) {
	r := newRig(t, "a")
	r.declare(own("a", "fast"), spec(), only)
	r.declare(own("a", "slow"), spec(), `sleep 60`)
	r.declare(own("a", "user"), spec(from("s", "host/a/slow")), only)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	go func() {
		for !r.mustHave(own("a", "fast")) {
			time.Sleep(10 * time.Millisecond)
		}
		cancel(stop)
	}()
	report, err := r.engine.Sync(ctx, secretsgen.Selection{})
	if !errors.Is(err, stop) || report == nil || !outcome(t, report, own("a", "fast")).Done || outcome(t, report, own("a", "slow")).Done {
		t.Fatalf("got %s, %v", show(report), err)
	}
	r.scripts[own("a", "slow")] = only
	r.open()
	if report := r.synced(); slices.Contains(report.Changed(), own("a", "fast")) {
		t.Errorf("made again: %s", show(report))
	}
}

func (r *rig) mustHave(id secret.ID) bool {
	tree, err := r.store.Load()
	return err == nil && tree.Secrets[id] != nil
}

func TestASlowHostHoldsUpNobodyElse(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a")), only)
	r.declare(shared("y"), spec(owners("b")), only)
	r.synced()
	r.declare(shared("x"), spec(owners("a", "c")), only)
	r.declare(shared("y"), spec(owners("b", "c")), only)
	r.hosts["a"].slow = 700 * time.Millisecond
	start := time.Now()
	done := make(chan time.Duration)
	go func() {
		for r.ownersNow(shared("y")) < 2 && time.Since(start) < time.Minute {
			time.Sleep(5 * time.Millisecond)
		}
		done <- time.Since(start)
	}()
	r.synced()
	if whole, y := time.Since(start), <-done; y > whole/2 {
		t.Errorf("y after %v of %v", y, whole)
	}
}

// ownersNow counts the owners in the state; 0 where there is no value yet.
func (r *rig) ownersNow(id secret.ID) int {
	tree, err := r.store.Load()
	if err != nil || tree.Secrets[id] == nil {
		return 0
	}
	return len(tree.Secrets[id].Owners)
}
