package secretsgen_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
