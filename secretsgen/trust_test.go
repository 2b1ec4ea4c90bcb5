package secretsgen_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/trust"
)

// redirected is a fleet in which a merge request has passed off another machine as b: its key is pinned, and b's address is that machine's where address is
// true. The machine is one that the operator's known_hosts knows.
func redirected(t *testing.T, address bool) *rig {
	r := newRig(t, "a", "b")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.declare(own("b", "y"), spec(), only)
	r.declare(shared("ran"), spec(owners("a"), on("b")), only)
	r.synced()
	r.reinstall("b")
	if address {
		r.plan.Hosts["b"] = plan.Host{System: "x86_64-linux", Deploy: plan.Deploy{Address: "evil.example.org"}}
	}
	r.trust.KnownHosts = knownHosts{"b " + r.pins["b"][0]: true}
	r.calls = map[string]int{}
	r.open()
	return r
}

type knownHosts map[string]bool

func (k knownHosts) Vouches(_ context.Context, host, key string) (bool, error) {
	return k[host+" "+key], nil
}

func TestAMergeRequestDoesNotRedirectSecrets(t *testing.T) {
	for name, address := range map[string]bool{"the pinned key alone": false, "the pinned key with the address": true} {
		t.Run(name, func(t *testing.T) {
			r := redirected(t, address)
			// All that could make the engine encrypt to the other machine, run a generator on it, or believe it.
			r.declare(shared("new"), spec(owners("b")), only)
			r.declare(own("b", "z"), spec(), only)
			r.declare(shared("ran"), spec(owners("a"), on("b"), data(`"other"`)), only)
			r.declare(shared("x"), spec(owners("a", "b"), data(`"other"`)), only)
			before := r.snapshot()
			report := r.sync()
			for _, id := range []secret.ID{shared("x"), shared("new"), own("b", "y"), own("b", "z"), shared("ran")} {
				got := outcome(t, report, id)
				said := got.NeedsHuman + got.Error
				if got.Done || !strings.Contains(said, "it has changed") || !strings.Contains(got.Hint, "fleet secrets host-key accept b SHA256:") {
					t.Errorf("got %s", show(got))
				}
			}
			if diff := cmp.Diff(before, r.snapshot()); diff != "" {
				t.Errorf("the state changed: %s", diff)
			}
			if r.calls["run b"]+r.calls["rewrap b"]+r.calls["open b"] != 0 {
				t.Errorf("the other machine was asked: %v", r.calls)
			}
			if _, err := r.engine.Set(t.Context(), shared("x"), map[string]secret.Plain{"secret": secret.NewPlain([]byte("typed"))}); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, r.snapshot()); diff != "" {
				t.Errorf("set changed the state: %s", diff)
			}
			if _, err := r.engine.Rekey(t.Context(), secretsgen.Selection{}); err != nil || cmp.Diff(before, r.snapshot()) != "" {
				t.Error("rekey changed the state")
			}
			r.synchronizedOnceAccepted()
		})
	}
}

// synchronizedOnceAccepted is what happens when the change was honest, and a person has compared the fingerprint.
func (r *rig) synchronizedOnceAccepted() {
	r.t.Helper()
	r.accept("b")
	r.open()
	r.synced()
	if r.read(shared("x"), "b") != r.read(shared("x"), "a") {
		r.t.Error("b cannot read what it owns")
	}
}

func TestAKeyThatWasAcceptedOnceIsNotAcceptedForEver(t *testing.T) {
	r := newRig(t, "a", "b")
	old := r.pins["b"][0]
	r.reinstall("b")
	r.accept("b")
	r.pins["b"] = []string{old}
	r.declare(own("b", "x"), spec(), only)
	if got := outcome(t, r.sync(), own("b", "x")); got.Done || got.NeedsHuman == "" {
		t.Errorf("encrypted to a key that was replaced: %s", show(got))
	}
}

func TestKnownHostsIntroduceAHost(t *testing.T) {
	r := newRig(t, "a")
	r.addHost("b")
	r.declare(own("b", "x"), spec(), only)
	if got := outcome(t, r.sync(), own("b", "x")); got.Done || !strings.Contains(got.NeedsHuman, "nobody on this machine has accepted it") {
		t.Errorf("got %s", show(got))
	}
	r.trust.KnownHosts = knownHosts{"b " + r.pins["b"][0]: true}
	if !outcome(t, r.sync(), own("b", "x")).Done {
		t.Error("known_hosts was not believed")
	}
	r.trust.KnownHosts = nil
	r.declare(own("b", "y"), spec(), only)
	if !outcome(t, r.sync(), own("b", "y")).Done {
		t.Error("it was not remembered")
	}
}

func TestKnownHostsDoNotMakeUpForAChangedKeyOnAFreshMachine(t *testing.T) {
	r := redirected(t, true)
	store, err := trust.Open(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	r.trust.Store = store
	r.accept("a")
	before := r.snapshot()
	report := r.sync()
	if got := outcome(t, report, shared("x")); got.Done || !strings.Contains(got.NeedsHuman, "it has changed") || cmp.Diff(before, r.snapshot()) != "" {
		t.Errorf("got %s", show(got))
	}
}

func TestAPersonConfirmsAFingerprintOnce(t *testing.T) {
	r := newRig(t, "a")
	r.addHost("b")
	asked := []trust.Question{}
	answer := false
	r.trust.Confirm = func(_ context.Context, q trust.Question) (bool, error) {
		asked = append(asked, q)
		return answer, nil
	}
	for i := range 5 {
		r.declare(shared(fmt.Sprint("x", i)), spec(owners("a", "b")), only)
	}
	if report := r.sync(); len(asked) != 1 || len(report.Changed()) != 0 || asked[0].Host != "b" || asked[0].Address != "b.example.org" || !strings.HasPrefix(asked[0].Fingerprint, "SHA256:") {
		t.Errorf("asked %+v, %s", asked, show(report))
	}
	answer = true
	r.open()
	r.synced()
	r.open()
	r.declare(own("b", "y"), spec(), only)
	r.synced()
	if len(asked) != 2 {
		t.Errorf("asked %d times", len(asked))
	}
}

func TestHostsWithOneKeyGetNoSecrets(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.hosts["b"].key, r.hosts["b"].identities, r.pins["b"] = r.hosts["a"].key, r.hosts["a"].identities, r.pins["a"]
	r.accept("b")
	for _, name := range []string{"a", "b", "c"} {
		r.declare(own(name, "x"), spec(), only)
	}
	report := r.sync()
	for _, name := range []string{"a", "b"} {
		if got := outcome(t, report, own(name, "x")); got.Done || !strings.Contains(got.NeedsHuman, "has the same one") || got.Hint == "" {
			t.Errorf("got %s", show(got))
		}
	}
	if !outcome(t, report, own("c", "x")).Done || len(report.Hosts) != 2 || report.Hosts[0].Kind != secretsgen.KindSharedKey {
		t.Errorf("got %s", show(report))
	}
}

func TestTheHandshakeHasToMatchToo(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.synced()
	r.declare(shared("x"), spec(owners("a", "b", "c")), only)
	evil, _ := newKey(t)
	r.hosts["a"].shows = evil
	if got := outcome(t, r.synced(), shared("x")); got.Via != "b" || r.calls["rewrap a"] != 0 {
		t.Errorf("got %s, calls %v", show(got), r.calls)
	}
	keys, err := r.engine.ScanHostKeys(t.Context(), []string{"a", "b", "c"})
	if err != nil || keys[0].Matches || keys[0].PresentedKey != evil || keys[0].Problem == "" || !strings.Contains(keys[0].Hint, "host-key accept a "+keys[0].Presented) {
		t.Errorf("got %s, %v", show(keys), err)
	}
	if !keys[1].Matches || !keys[1].Accepted || keys[1].Problem != "" {
		t.Errorf("got %s", show(keys[1]))
	}
}

func TestAKeyThatNothingCanBeEncryptedToIsSaid(t *testing.T) {
	r := newRig(t, "a")
	r.pins["a"] = []string{"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="}
	r.declare(own("a", "x"), spec(), only)
	report := r.sync()
	if len(report.Hosts) != 1 || report.Hosts[0].Kind != secretsgen.KindKeyType || report.Hosts[0].Hint == "" || !report.Incomplete() {
		t.Errorf("got %s", show(report))
	}
}
