package secretsgen_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen"
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

func TestTwoOperatorsInOneWorkTree(t *testing.T) {
	r := newRig(t, "a")
	r.declare(own("a", "x"), spec(), only)
	unlock, err := r.store.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.open()
	if _, err := r.engine.Sync(t.Context(), secretsgen.Selection{}); err == nil || !strings.Contains(err.Error(), "process") {
		t.Errorf("got %v", err)
	}
	if _, err := r.engine.Status(t.Context(), secretsgen.Selection{}); err != nil {
		t.Errorf("status waits for the lock: %v", err)
	}
	unlock()
	r.synced()
}

func TestVerifyAsksEveryOwner(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.declare(shared("y"), spec(owners("b", "c"), withPublic), both)
	r.synced()
	before := r.snapshot()
	v, err := r.engine.Verify(t.Context(), secretsgen.Selection{})
	if err != nil || v.Verified != 4 || len(v.Wrong)+len(v.Unreachable) != 0 {
		t.Fatalf("got %s, %v", show(v), err)
	}
	_, r.hosts["b"].identities = newKey(t)
	r.hosts["c"].down = true
	v, err = r.engine.Verify(t.Context(), secretsgen.Selection{})
	if err != nil || v.Verified != 1 || len(v.Wrong) != 2 || len(v.Unreachable) != 1 || v.Wrong[0].Host != "b" || v.Wrong[0].Hint == "" {
		t.Errorf("got %s, %v", show(v), err)
	}
	v, err = r.engine.Verify(t.Context(), secretsgen.Selection{Hosts: []string{"a"}})
	if err != nil || v.Verified != 1 || len(v.Wrong)+len(v.Unreachable) != 0 {
		t.Errorf("got %s, %v", show(v), err)
	}
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatCannotBeWrittenTakesNobodyAlong(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(own("a", "x"), spec(), only)
	r.declare(own("b", "x"), spec(), only)
	folder := filepath.Join(r.dir, "fleet-state", "default", "secrets", "host")
	if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "a"), []byte("in the way"), 0o644)); err != nil {
		t.Fatal(err)
	}
	report := r.sync()
	if got := outcome(t, report, own("a", "x")); got.Done || got.Error == "" || !report.Incomplete() {
		t.Errorf("got %s", show(got))
	}
	if !outcome(t, report, own("b", "x")).Done || r.read(own("b", "x"), "b") == "" {
		t.Error("others did not go on")
	}
}
