package secretsgen_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

func TestAMissingSecretIsGeneratedForAllOwnersThatHaveAKey(t *testing.T) {
	r := newRig(t, "a", "b")
	r.addHost("new")
	r.pins["new"] = nil
	r.declare(shared("x"), spec(owners("a", "b", "new")), only)
	r.declare(own("new", "y"), spec(), only)
	report := r.sync()
	if got := outcome(t, report, shared("x")); !got.Done || got.Action != secretsgen.ActionGenerate || !slices.Equal(got.Pending, []string{"new"}) || r.ownersOf(shared("x")) != "a b" {
		t.Errorf("got %s", show(got))
	}
	if got := outcome(t, report, own("new", "y")); got.Done || !slices.Equal(got.Pending, []string{"new"}) || r.has(own("new", "y")) {
		t.Errorf("got %s", show(got))
	}
	if report.Incomplete() || len(report.Hosts) != 1 || report.Hosts[0].Kind != secretsgen.KindKeyless {
		t.Errorf("a host without a key holds up others: %s", show(report.Hosts))
	}
	key, identities := newKey(t)
	r.hosts["new"].key, r.hosts["new"].identities = key, identities
	r.pins["new"] = []string{key}
	r.accept("new")
	r.synced()
	if r.read(shared("x"), "new") != r.read(shared("x"), "a") || r.ownersOf(own("new", "y")) != "new" {
		t.Error("the host did not get its secrets once it had a key")
	}
}

func TestDependentsFollowTheirDependency(t *testing.T) {
	r := newRig(t, "a", "b")
	leaf := `encrypt < $FLEET_DEPS/ca/secret > $out/secret`
	r.declare(shared("ca"), spec(owners("a")), only)
	r.declare(shared("leaf"), spec(owners("a", "b"), from("ca", "shared/ca")), leaf)
	r.declare(shared("twig"), spec(owners("b"), from("ca", "shared/leaf")), leaf)
	r.declare(shared("kept"), spec(owners("b"), from("ca", "shared/leaf"), func(s *plan.Secret) { s.OnDependencyChange = "keep" }), leaf)
	r.synced()
	gens := func() map[string]secret.Gen {
		all := map[string]secret.Gen{}
		for _, name := range []string{"ca", "leaf", "twig", "kept"} {
			all[name] = r.entry(shared(name)).Meta.Gen
		}
		return all
	}
	before := gens()
	r.declare(shared("ca"), spec(owners("a"), data(`"other"`)), only)
	status, err := r.engine.Status(t.Context(), secretsgen.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]secretsgen.Action{}
	for _, one := range status.Secrets {
		said[one.ID.Name] = one.Action
	}
	if diff := cmp.Diff(map[string]secretsgen.Action{"ca": "regenerate", "leaf": "regenerate", "twig": "regenerate", "kept": "none"}, said); diff != "" {
		t.Error(diff)
	}
	r.synced()
	after := gens()
	maps.DeleteFunc(after, func(name string, gen secret.Gen) bool { return before[name] != gen })
	if diff := cmp.Diff(map[string]secret.Gen{"kept": before["kept"]}, after); diff != "" {
		t.Error(diff)
	}
	if r.read(shared("ca"), "a") != r.read(shared("twig"), "b") {
		t.Error("the last one was not made from the new values")
	}
	if got := r.entry(shared("leaf")).Meta.Deps; got["shared/ca"] != r.entry(shared("ca")).Meta.Gen {
		t.Errorf("recorded: %v", got)
	}
}

func TestRegenerateTakesDependentsAlongAndEvaluatesNoOtherHost(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("ca"), spec(owners("a")), only)
	r.declare(own("a", "leaf"), spec(from("ca", "shared/ca")), `encrypt < $FLEET_DEPS/ca/secret > $out/secret`)
	r.declare(own("c", "other"), spec(), only)
	r.synced()
	gen := r.entry(own("a", "leaf")).Meta.Gen
	other := r.entry(own("c", "other")).Meta.Gen
	r.evaluated = nil
	r.declare(own("a", "expired"), spec(), only)
	report, err := r.engine.Regenerate(t.Context(), []secret.ID{shared("ca")})
	if err != nil || report.Incomplete() {
		t.Fatal(show(report), err)
	}
	if r.entry(own("a", "leaf")).Meta.Gen == gen || r.entry(own("c", "other")).Meta.Gen != other || r.has(own("a", "expired")) {
		t.Errorf("got %s", show(report))
	}
	if diff := cmp.Diff([][]string{{"a"}}, r.evaluated); diff != "" {
		t.Error(diff)
	}
}

func TestRotateReplacesAllThatAHostCouldRead(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(shared("now"), spec(owners("a", "b")), only)
	r.declare(shared("once"), spec(owners("a", "b")), only)
	r.declare(shared("never"), spec(owners("a")), only)
	r.declare(shared("signed"), spec(owners("a"), on("b")), only)
	r.declare(own("a", "made"), spec(from("x", "shared/now"), func(s *plan.Secret) { s.OnDependencyChange = "keep" }), only)
	r.declare(shared("given"), spec(owners("a", "b"), manual), "")
	if _, err := r.engine.Set(t.Context(), shared("given"), map[string]secret.Plain{"secret": secret.NewPlain([]byte("v"))}); err != nil {
		t.Fatal(err)
	}
	r.synced()
	r.declare(shared("once"), spec(owners("a")), only)
	r.synced()
	gens := map[string]secret.Gen{}
	made := r.entry(own("a", "made")).Meta.Gen
	for _, name := range []string{"now", "once", "never", "given", "signed"} {
		gens[name] = r.entry(shared(name)).Meta.Gen
	}
	report, err := r.engine.Rotate(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"now": true, "once": true, "never": false, "given": false, "signed": true} {
		if got := r.entry(shared(name)).Meta.Gen != gens[name]; got != want {
			t.Errorf("%s: new value is %t", name, got)
		}
	}
	if r.entry(own("a", "made")).Meta.Gen == made {
		t.Error("what was made from a value that b reads was kept")
	}
	if outcome(t, report, shared("given")).NeedsHuman == "" || !report.Incomplete() {
		t.Error("a value that a person gave was forgotten")
	}
	if ids, err := r.engine.ReadableBy(t.Context(), "b"); err != nil || fmt.Sprint(ids) != "[host/a/made shared/given shared/now shared/signed]" {
		t.Errorf("readable afterwards: %v, %v", ids, err)
	}
}

// TestRotateKnowsWhereValuesWereMade: a generator that has moved to another host has left its values behind.
func TestRotateKnowsWhereValuesWereMade(t *testing.T) {
	r := newRig(t, "a", "hsm", "old")
	r.declare(shared("signed"), spec(owners("a"), on("old")), only)
	r.declare(shared("here"), spec(owners("a")), only)
	r.synced()
	r.declare(shared("signed"), spec(owners("a"), on("hsm")), only)
	r.open()
	before := r.snapshot()
	r.synced()
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error("where it runs is no reason for a new value: ", diff)
	}
	if ids, err := r.engine.ReadableBy(t.Context(), "old"); err != nil || fmt.Sprint(ids) != "[shared/signed]" {
		t.Errorf("got %v, %v", ids, err)
	}
	if _, err := r.engine.Rotate(t.Context(), "old"); err != nil || r.entry(shared("signed")).Meta.MadeOn != "hsm" {
		t.Errorf("made on %q, %v", r.entry(shared("signed")).Meta.MadeOn, err)
	}
	if ids, err := r.engine.ReadableBy(t.Context(), "old"); err != nil || len(ids) > 0 {
		t.Errorf("afterwards %v, %v", ids, err)
	}
}

func TestSelectionsLeaveOthersAlone(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	for _, name := range []string{"a", "b", "c"} {
		r.declare(own(name, "x"), spec(), only)
	}
	r.declare(shared("ab"), spec(owners("a", "b")), only)
	r.declare(shared("dep"), spec(owners("c")), only)
	r.declare(shared("user"), spec(owners("c"), from("d", "shared/dep")), `encrypt < $FLEET_DEPS/d/secret > $out/secret`)
	r.declare(shared("other"), spec(owners("c")), only)
	report, err := r.engine.Sync(t.Context(), secretsgen.Selection{Hosts: []string{"b"}})
	if err != nil || fmt.Sprint(report.Changed()) != "[host/b/x shared/ab]" {
		t.Errorf("got %s, %v", show(report), err)
	}
	if diff := cmp.Diff([][]string{{"b"}}, r.evaluated); diff != "" {
		t.Error(diff)
	}
	report, err = r.engine.Sync(t.Context(), secretsgen.Selection{Secrets: []secret.ID{shared("user")}})
	if err != nil || fmt.Sprint(report.Changed()) != "[shared/dep shared/user]" {
		t.Errorf("what it is made from is made too: %s, %v", show(report), err)
	}
	if _, err := r.engine.Sync(t.Context(), secretsgen.Selection{Secrets: []secret.ID{own("z", "other")}}); err == nil || !strings.Contains(hint(err), "shared/other") {
		t.Errorf("got %v, %s", err, hint(err))
	}
}

func hint(err error) string {
	if hinted, ok := err.(interface{ Hint() string }); ok {
		return hinted.Hint()
	}
	return ""
}

func TestAHostThatDoesNotEvaluateTakesNobodyAlongAndLosesNothing(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(own("a", "x"), spec(), only)
	r.declare(own("b", "x"), spec(), only)
	r.synced()
	r.broken["a"] = fmt.Errorf("undefined variable 'foo'")
	r.declare(own("b", "y"), spec(), only)
	report := r.sync()
	if !r.has(own("a", "x")) || !r.has(own("b", "y")) || !report.Incomplete() || len(report.Hosts) != 1 || report.Hosts[0].Kind != secretsgen.KindSpecs {
		t.Errorf("got %s", show(report))
	}
	if ids, problems, err := r.engine.Undeclared(t.Context(), secretsgen.Selection{}); err != nil || len(ids) != 0 || len(problems) != 1 {
		t.Errorf("undeclared: %v, %v, %v", ids, problems, err)
	}
	if report, err := r.engine.Prune(t.Context(), []secret.ID{own("a", "x")}); err != nil || outcome(t, report, own("a", "x")).Error == "" || !r.has(own("a", "x")) {
		t.Errorf("pruned what may be declared: %v", err)
	}
}

func TestPruneRemovesOnlyWhatNothingDeclares(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(own("a", "old"), spec(), only)
	r.declare(own("a", "kept"), spec(), only)
	r.declare(own("b", "gone"), spec(), only)
	r.synced()
	delete(r.specs["a"].Secrets, "old")
	delete(r.plan.Hosts, "b")
	ids, _, err := r.engine.Undeclared(t.Context(), secretsgen.Selection{})
	if err != nil || fmt.Sprint(ids) != "[host/a/old host/b/gone]" {
		t.Fatalf("undeclared: %v, %v", ids, err)
	}
	report, err := r.engine.Prune(t.Context(), append(ids, own("a", "kept")))
	if err != nil || fmt.Sprint(report.Changed()) != "[host/a/old host/b/gone]" || outcome(t, report, own("a", "kept")).Error == "" {
		t.Errorf("got %s, %v", show(report), err)
	}
	if r.has(own("a", "old")) || r.has(own("b", "gone")) || !r.has(own("a", "kept")) {
		t.Error("the wrong ones are gone")
	}
}

func TestExpiryIsJudgedWithTheClock(t *testing.T) {
	r := newRig(t, "a")
	r.declare(own("a", "x"), spec(), `echo v | encrypt > $out/secret; echo 2026-12-01T00:00:00Z > $out/expires_at`)
	r.synced()
	if at := r.entry(own("a", "x")).Meta.ExpiresAt; at == nil || !at.Equal(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)) {
		t.Fatalf("expires at %v", at)
	}
	r.now = time.Date(2026, 12, 1, 0, 0, 1, 0, time.UTC)
	status, err := r.engine.Status(t.Context(), secretsgen.Selection{})
	if err != nil || status.Secrets[0].Action != secretsgen.ActionRegenerate || status.Clean() {
		t.Errorf("got %s, %v", show(status), err)
	}
	// A generator that goes on making what has expired would make it at every sync.
	if got := outcome(t, r.sync(), own("a", "x")); got.Done || !strings.Contains(got.Error, "expired") {
		t.Errorf("got %s", show(got))
	}
}
