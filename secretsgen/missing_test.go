package secretsgen_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

func TestADeploymentMakesOnlyWhatIsMissing(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("ab"), spec(owners("a", "b")), only)
	r.declare(shared("renewed"), spec(owners("a", "b")), only)
	r.declare(shared("strict"), spec(owners("b")), only)
	r.declare(own("a", "expired"), spec(), `echo v | encrypt > $out/secret; echo 2026-12-01T00:00:00Z > $out/expires_at`)
	r.synced()
	r.now = r.now.AddDate(1, 0, 0)
	r.declare(shared("ab"), spec(owners("a", "b", "c")), only)
	r.declare(shared("renewed"), spec(owners("a", "b"), data(`1`)), only)
	r.declare(shared("strict"), spec(owners("a", "b"), func(s *plan.Secret) { s.RegenerateOnOwnerAdded = true }), only)
	r.declare(shared("dep"), spec(owners("c")), only)
	r.declare(own("a", "new"), spec(from("d", "shared/dep")), `encrypt < $FLEET_DEPS/d/secret > $out/secret`)
	r.declare(own("c", "other"), spec(), only)
	r.declare(shared("bc"), spec(owners("b", "c")), only)
	strict := r.entry(shared("strict")).Meta.Gen
	r.evaluated = nil
	report, err := r.engine.EnsureMissing(t.Context(), []string{"a"}, map[string]plan.Specs{"a": r.specs["a"]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []secret.ID{own("a", "new"), shared("dep")}; !slices.Equal(report.Changed(), want) {
		t.Errorf("made %v", report.Changed())
	}
	if got := outcome(t, report, shared("strict")); got.NeedsHuman == "" || !strings.Contains(got.NeedsHuman, "fleet secrets sync shared/strict") || r.entry(shared("strict")).Meta.Gen != strict {
		t.Errorf("got %s", show(got))
	}
	if len(r.evaluated) != 0 {
		t.Errorf("evaluated %v", r.evaluated)
	}
	report, err = r.engine.EnsureMissing(t.Context(), []string{"c"}, map[string]plan.Specs{"c": r.specs["c"]}, nil)
	if err != nil || report.Incomplete() {
		t.Fatal(show(report), err)
	}
	if want := []secret.ID{own("c", "other"), shared("ab"), shared("bc")}; !slices.Equal(report.Changed(), want) {
		t.Errorf("made %v", report.Changed())
	}
	before := r.snapshot()
	r.open()
	report, err = r.engine.EnsureMissing(t.Context(), []string{"c"}, map[string]plan.Specs{"c": r.specs["c"]}, nil)
	if diff := cmp.Diff(before, r.snapshot()); err != nil || diff != "" || len(report.Changed())+len(report.Written) != 0 || report.Incomplete() {
		t.Errorf("again: %s\n%s, %v", diff, show(report), err)
	}
}

func TestAPublicPartOfOnePeerIsMadeForAllPeers(t *testing.T) {
	r := newRig(t, "a", "b", "c", "d")
	for _, name := range []string{"a", "b", "c"} {
		r.declare(own(name, "wireguard"), spec(withPublic), both)
		r.declare(own(name, "other"), spec(), only)
	}
	report, err := r.engine.EnsureMissing(t.Context(), []string{"d"}, map[string]plan.Specs{"d": r.specs["d"]}, []secret.ID{own("b", "wireguard")})
	if want := []secret.ID{own("a", "wireguard"), own("b", "wireguard"), own("c", "wireguard")}; err != nil || !slices.Equal(report.Changed(), want) {
		t.Errorf("made %v, %v", report.Changed(), err)
	}
	r.declare(shared("ca"), spec(owners("a"), withPublic), both)
	report, err = r.engine.EnsureMissing(t.Context(), []string{"d"}, map[string]plan.Specs{"d": r.specs["d"]}, []secret.ID{shared("ca")})
	if want := []secret.ID{shared("ca")}; err != nil || !slices.Equal(report.Changed(), want) {
		t.Errorf("made %v, %v", report.Changed(), err)
	}
}

// TestACircleOverTwoHostsIsNamed: Nix looks at one host at a time, and cannot see it.
func TestACircleOverTwoHostsIsNamed(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(own("a", "x"), spec(from("d", "host/b/y")), only)
	r.declare(own("b", "y"), spec(from("d", "host/a/x")), only)
	r.declare(own("a", "z"), spec(from("d", "host/b/y")), only)
	r.declare(own("b", "fine"), spec(), only)
	status, err := r.engine.Status(t.Context(), secretsgen.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	report := r.sync()
	for id, want := range map[secret.ID]string{
		own("a", "x"): "it is made from itself: host/a/x → host/b/y → host/a/x",
		own("b", "y"): "it is made from itself: host/b/y → host/a/x → host/b/y",
		own("a", "z"): "it is made from host/b/y, which is made from itself: host/b/y → host/a/x → host/b/y",
	} {
		got := outcome(t, report, id)
		if got.Done || got.NeedsHuman != want || got.Hint == "" {
			t.Errorf("sync: %s", show(got))
		}
		for _, one := range status.Secrets {
			if one.ID == id && (one.NeedsHuman != want || one.Hint == "" || one.Action != secretsgen.ActionNone) {
				t.Errorf("status: %s", show(one))
			}
		}
	}
	if !outcome(t, report, own("b", "fine")).Done {
		t.Error("the circle took another one along")
	}
}
