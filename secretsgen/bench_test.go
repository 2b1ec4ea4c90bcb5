package secretsgen_test

import (
	"fmt"
	"testing"
	"time"

	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/trust"
)

// fill puts a value of every shared secret into the state, without a generator.
func (r *rig) fill(count int) {
	r.t.Helper()
	to := map[string]seal.Recipient{}
	var names []string
	for name := range r.plan.Hosts {
		names = append(names, name)
		to[name], _ = seal.ParseRecipient(r.pins[name][0])
	}
	for i := range count {
		id := shared(fmt.Sprintf("x%04d", i))
		r.declare(id, spec(owners(names...)), only)
		c := seal.Context{Fleet: "default", ID: id, Part: "secret", Gen: secret.Gen(fmt.Sprintf("%032x", i)), Seq: 1}
		salt, value := make([]byte, seal.SaltSize), plain("v")
		entry := &state.Entry{ID: id, Owners: map[string]secret.Owner{}, Meta: secret.Meta{
			CreatedAt: r.now, Format: 1, Gen: c.Gen, Seq: 1, Origin: secret.Generated,
			Parts: map[string]secret.MetaPart{"secret": {Commit: seal.Commit(c, salt, value), Encrypted: true}},
		}}
		for name, recipient := range to {
			sealed, err := seal.Seal(c, salt, value, recipient)
			if err != nil {
				r.t.Fatal(err)
			}
			entry.Owners[name] = secret.Owner{Format: 1, Gen: c.Gen, Key: recipient.Fingerprint, Parts: map[string]secret.SealedPart{"secret": sealed}}
		}
		if err := r.store.Put(r.t.Context(), entry); err != nil {
			r.t.Fatal(err)
		}
	}
}

// BenchmarkStatus1000 is the status of 1,000 secrets with 10 owners each; the goal is 2 s.
func BenchmarkStatus1000(b *testing.B) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint("h", i))
	}
	r := newRig(b, names...)
	r.fill(1000)
	for b.Loop() {
		start := time.Now()
		status, err := r.engine.Status(b.Context(), secretsgen.Selection{})
		if err != nil || len(status.Secrets) != 1000 || !status.Clean() {
			b.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			b.Errorf("took %v, more than 2 s", took)
		}
	}
}

// BenchmarkSync200 generates 200 missing secrets for 3 hosts on this machine, each in a sandbox; the goal is 60 s.
func BenchmarkSync200(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, "a", "b", "c")
		for i := range 100 {
			r.declare(shared(fmt.Sprint("x", i)), spec(owners("a", "b", "c")), only)
		}
		for i := range 100 {
			r.declare(own([]string{"a", "b", "c"}[i%3], fmt.Sprint("y", i)), spec(withPublic), both)
		}
		b.StartTimer()
		start := time.Now()
		if report := r.synced(); len(report.Changed()) != 200 {
			b.Fatal(show(report))
		}
		if took := time.Since(start); took > time.Minute {
			b.Errorf("took %v, more than 60 s", took)
		}
	}
}

// BenchmarkRewrap200 gives 200 secrets another owner: one request to one host.
func BenchmarkRewrap200(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, "a", "b")
		r.fill(200)
		r.addHost("c")
		if err := r.trust.Store.Accept("c", r.pins["c"][0], trust.Confirmed, r.now); err != nil {
			b.Fatal(err)
		}
		for i := range 200 {
			r.declare(shared(fmt.Sprintf("x%04d", i)), spec(owners("a", "b", "c")), only)
		}
		b.StartTimer()
		if report := r.synced(); len(report.Changed()) != 200 {
			b.Fatal(show(report))
		}
	}
}
