package secretsgen_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheSecondSyncChangesNotOneByte(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(own("a", "db"), spec(withPublic), both)
	r.declare(shared("ca"), spec(owners("a", "b")), only)
	r.declare(shared("leaf"), spec(owners("b", "c"), from("ca", "shared/ca")), `encrypt < $FLEET_DEPS/ca/secret > $out/secret`)
	first := r.synced()
	if len(first.Changed()) != 3 || len(first.Written) == 0 {
		t.Errorf("got %s", show(first))
	}
	if r.read(shared("ca"), "a") != r.read(shared("leaf"), "c") {
		t.Error("the leaf was not made from the CA")
	}
	r.nowhere(r.read(shared("ca"), "a"), first)
	if r.calls["run b"] != 0 && r.calls["run a"] != 0 || r.calls["local"] != 2 {
		t.Errorf("calls: %v", r.calls)
	}
	before := r.snapshot()
	r.open()
	second := r.synced()
	if diff := cmp.Diff(before, r.snapshot()); diff != "" || len(second.Changed()) != 0 || second.Unchanged != 3 || len(second.Written) != 0 {
		t.Errorf("%s\n%s", diff, show(second))
	}
}
