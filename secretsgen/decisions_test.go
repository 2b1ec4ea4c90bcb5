package secretsgen_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// did is what sync did to one secret, for tables.
type did struct {
	Action                    secretsgen.Action
	Done                      bool
	Owners, Wrapped, Removed  string
	NewValue, Needs, Failed   bool
	Pending                   string
	Rules                     []int
	RevokedLeft               string
	StatusAction              secretsgen.Action
	StatusNeeds, StatusBroken bool
}

func redeclare(r *rig, change ...func(*plan.Secret)) {
	r.declare(shared("x"), spec(change...), only)
}

func (r *rig) corrupt(path string, change func(string) string) {
	r.t.Helper()
	file := filepath.Join(r.dir, "fleet-state", "default", "secrets", path)
	old, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(change(string(old))), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func remove(r *rig, path string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.dir, "fleet-state", "default", "secrets", path)); err != nil {
		r.t.Fatal(err)
	}
}

func TestSyncDoesWhatIsDecided(t *testing.T) {
	x := shared("x")
	expiring := `head -c 16 /dev/urandom | od -An -tx1 | encrypt > $out/secret; echo 2026-12-01T00:00:00.123456789Z > $out/expires_at`
	for name, test := range map[string]struct {
		// before is the declaration of the first sync; its owners are a and b where it is nil.
		before func(*plan.Secret)
		script string
		then   func(*rig)
		want   did
	}{
		"unchanged": {then: func(*rig) {}, want: did{Owners: "a b"}},
		"an owner is added": {
			then: func(r *rig) { redeclare(r, owners("a", "b", "c")) },
			want: did{Action: "wrap", Done: true, Owners: "a b c", Wrapped: "c", Rules: []int{7}, StatusAction: "wrap"},
		},
		"an owner is removed": {
			then: func(r *rig) { redeclare(r, owners("a")) },
			want: did{Action: "remove", Done: true, Owners: "a", Removed: "b", Rules: []int{8}, StatusAction: "remove", RevokedLeft: "b"},
		},
		"one is added and one removed": {
			then: func(r *rig) { redeclare(r, owners("a", "c")) },
			want: did{Action: "wrap", Done: true, Owners: "a c", Wrapped: "c", Removed: "b", Rules: []int{7, 8}, StatusAction: "wrap", RevokedLeft: "b"},
		},
		"all are replaced": {
			then: func(r *rig) { redeclare(r, owners("c", "d")) },
			want: did{Action: "wrap", Done: true, Owners: "c d", Wrapped: "c d", Removed: "a b", Rules: []int{7, 8}, StatusAction: "wrap", RevokedLeft: "a b"},
		},
		"added and removed, with a new value for the added": {
			then: func(r *rig) {
				redeclare(r, owners("a", "c"), func(s *plan.Secret) { s.RegenerateOnOwnerAdded = true })
			},
			want: did{Action: "regenerate", Done: true, Owners: "a c", Wrapped: "a c", Removed: "b", NewValue: true, Rules: []int{6}, StatusAction: "regenerate"},
		},
		"added and removed, with a new value for the removed": {
			then: func(r *rig) {
				redeclare(r, owners("a", "c"), func(s *plan.Secret) { s.RegenerateOnOwnerRemoved = true })
			},
			want: did{Action: "regenerate", Done: true, Owners: "a c", Wrapped: "a c", Removed: "b", NewValue: true, Rules: []int{6}, StatusAction: "regenerate"},
		},
		"other arguments": {
			then: func(r *rig) { redeclare(r, owners("a", "b"), data(`{"size": 3}`)) },
			want: did{Action: "regenerate", Done: true, Owners: "a b", Wrapped: "a b", NewValue: true, Rules: []int{4}, StatusAction: "regenerate"},
		},
		"the same arguments in another order": {
			before: data(`{"a": 1, "b": 2}`),
			then:   func(r *rig) { redeclare(r, owners("a", "b"), data(`{ "b": 2, "a": 1 }`)) },
			want:   did{Owners: "a b"},
		},
		"another script that is to regenerate": {
			then: func(r *rig) {
				redeclare(r, owners("a", "b"), func(s *plan.Secret) { seed := "new"; s.Generator.Seed = &seed })
			},
			want: did{Action: "regenerate", Done: true, Owners: "a b", Wrapped: "a b", NewValue: true, Rules: []int{10}, StatusAction: "regenerate"},
		},
		"another script that is to be noticed": {
			then: func(r *rig) {
				redeclare(r, owners("a", "b"), func(s *plan.Secret) { seed := "new"; s.Generator.Seed = &seed; s.OnGeneratorChange = "notice" })
			},
			want: did{Owners: "a b", Rules: []int{10}, Action: "none", StatusAction: "none"},
		},
		"expired": {
			script: expiring,
			then:   func(r *rig) { r.now = r.now.AddDate(0, 1, 0); r.scripts[x] = only },
			want:   did{Action: "regenerate", Done: true, Owners: "a b", Wrapped: "a b", NewValue: true, Rules: []int{2}, StatusAction: "regenerate"},
		},
		"not yet expired": {script: expiring, then: func(*rig) {}, want: did{Owners: "a b"}},
		"expired and with other owners": {
			script: expiring,
			then:   func(r *rig) { r.now = r.now.AddDate(0, 1, 0); redeclare(r, owners("a", "c")) },
			want:   did{Action: "regenerate", Done: true, Owners: "a c", Wrapped: "a c", Removed: "b", NewValue: true, Rules: []int{2}, StatusAction: "regenerate"},
		},
		"a part more": {
			then: func(r *rig) { r.declare(x, spec(owners("a", "b"), withPublic), both) },
			want: did{Action: "regenerate", Done: true, Owners: "a b", Wrapped: "a b", NewValue: true, Rules: []int{1}, StatusAction: "regenerate"},
		},
		"a key that was accepted": {
			then: func(r *rig) { r.reinstall("b"); r.accept("b") },
			want: did{Action: "wrap", Done: true, Owners: "a b", Wrapped: "b", Rules: []int{9}, StatusAction: "wrap"},
		},
		"a key that nobody has accepted": {
			then: func(r *rig) { r.reinstall("b") },
			want: did{Action: "wrap", Owners: "a b", Needs: true, Rules: []int{9}, StatusAction: "wrap", StatusNeeds: true},
		},
		"the keys of all owners, accepted": {
			then: func(r *rig) {
				for _, name := range []string{"a", "b"} {
					r.reinstall(name)
					r.accept(name)
				}
			},
			want: did{Action: "regenerate", Done: true, Owners: "a b", Wrapped: "a b", NewValue: true, Rules: []int{9}, StatusAction: "regenerate"},
		},
		"an owner's file is gone": {
			then: func(r *rig) { remove(r, "shared/x/owners/b.json") },
			want: did{Action: "wrap", Done: true, Owners: "a b", Wrapped: "b", Rules: []int{7}, StatusAction: "wrap"},
		},
		"an owner's file is damaged": {
			then: func(r *rig) {
				r.corrupt("shared/x/owners/b.json", func(s string) string { return strings.Replace(s, "BEGIN AGE", "BEGIN age", 1) })
			},
			want: did{Action: "wrap", Done: true, Owners: "a b", Wrapped: "b", Rules: []int{9}, StatusAction: "wrap", StatusBroken: true},
		},
		"an owner's file has a conflict": {
			then: func(r *rig) {
				r.corrupt("shared/x/owners/b.json", func(s string) string { return "<<<<<<< ours\n" + s + "=======\n>>>>>>> theirs\n" })
			},
			want: did{Action: "none", Owners: "a", Needs: true, Rules: []int{1}, StatusAction: "none", StatusNeeds: true, StatusBroken: true},
		},
		"an owner has no key yet": {
			then: func(r *rig) { r.pins["d"] = nil; redeclare(r, owners("a", "b", "d")) },
			want: did{Action: "none", Owners: "a b", Pending: "d", Rules: []int{12}, StatusAction: "none"},
		},
		"an owner without a key beside a new one": {
			then: func(r *rig) { r.pins["d"] = nil; redeclare(r, owners("a", "b", "c", "d")) },
			want: did{Action: "wrap", Done: true, Owners: "a b c", Wrapped: "c", Pending: "d", Rules: []int{7}, StatusAction: "wrap"},
		},
		"nothing declares it": {
			then: func(r *rig) { delete(r.plan.SharedSecrets, "x") },
			want: did{Action: "none", Owners: "a b", Rules: []int{11}, StatusAction: "none"},
		},
		"the generator is gone": {
			then: func(r *rig) { redeclare(r, owners("a", "b"), manual) },
			want: did{Owners: "a b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "a", "b", "c", "d")
			before := []func(*plan.Secret){owners("a", "b")}
			if test.before != nil {
				before = append(before, test.before)
			}
			script := only
			if test.script != "" {
				script = test.script
			}
			r.declare(x, spec(before...), script)
			r.synced()
			old := r.entry(x)
			test.then(r)
			r.open()
			status, err := r.engine.Status(t.Context(), secretsgen.Selection{})
			if err != nil {
				t.Fatal(err)
			}
			report := r.sync()
			if diff := cmp.Diff(test.want, r.did(x, old.Meta.Gen, report, status)); diff != "" {
				t.Errorf("%s\n%s\n%s", diff, show(report), show(status))
			}
			entry := r.entry(x)
			if entry.Meta.Gen != old.Meta.Gen && entry.Meta.Seq != old.Meta.Seq+1 {
				t.Errorf("seq is %d after %d", entry.Meta.Seq, old.Meta.Seq)
			}
			if !test.want.Needs && test.want.Owners != "" && report.Incomplete() {
				t.Error("it is said to be incomplete")
			}
			r.settled(test.want, report)
		})
	}
}

// settled checks that owners read one value, and that another sync finds nothing to do.
func (r *rig) settled(want did, _ *secretsgen.Report) {
	r.t.Helper()
	if want.Needs {
		return
	}
	values := map[string]bool{}
	for name := range r.entry(shared("x")).Owners {
		values[r.read(shared("x"), name)] = true
	}
	if len(values) != 1 {
		r.t.Errorf("owners read %d values", len(values))
	}
	before := r.snapshot()
	r.open()
	r.sync()
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		r.t.Error(diff)
	}
}

func (r *rig) did(id secret.ID, old secret.Gen, report *secretsgen.Report, status *secretsgen.Status) did {
	r.t.Helper()
	entry := r.entry(id)
	got := did{Owners: r.ownersOf(id), NewValue: entry.Meta.Gen != old}
	for _, one := range report.Secrets {
		got.Action, got.Done, got.Rules, got.Needs, got.Failed = one.Action, one.Done, one.Rules, one.NeedsHuman != "", one.Error != ""
		got.Wrapped, got.Removed, got.Pending = strings.Join(one.Wrapped, " "), strings.Join(one.Removed, " "), strings.Join(one.Pending, " ")
	}
	var revoked []string
	for _, note := range entry.Revoked {
		revoked = append(revoked, note.Owner)
	}
	got.RevokedLeft = strings.Join(revoked, " ")
	if len(report.Secrets) > 0 {
		got.StatusAction, got.StatusNeeds, got.StatusBroken = status.Secrets[0].Action, status.Secrets[0].NeedsHuman != "", status.Secrets[0].Broken != ""
		if !slices.Equal(status.Secrets[0].Rules, got.Rules) {
			r.t.Errorf("status says rules %v, sync %v", status.Secrets[0].Rules, got.Rules)
		}
	}
	return got
}

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
