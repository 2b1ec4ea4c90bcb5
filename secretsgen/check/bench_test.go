package check_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"fleet/secretsgen/check"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// large is a fleet of 1,000 secrets with 10 owners each, so 10,000 sealed files.
func large(t testing.TB) *fleet {
	t.Helper()
	var hosts []string
	for i := range 10 {
		hosts = append(hosts, fmt.Sprintf("host-%d", i))
	}
	f := newFleet(t, hosts...)
	for i := range 1000 {
		name := fmt.Sprintf("secret-%d", i)
		s := spec(hosts...)
		f.plan.SharedSecrets[name] = s
		e := f.value(secret.ID{Scope: secret.Shared, Name: name}, s, "a line\n", hosts...)
		f.writeAll(e)
	}
	return f
}

// writeAll writes a secret without making it durable.
func (f *fleet) writeAll(e *state.Entry) {
	f.t.Helper()
	folder := "secrets/" + e.ID.String() + "/"
	meta, err := e.Meta.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(folder+"meta.json", string(meta))
	f.write(folder+"public/public", string(e.Public["public"]))
	for host, o := range e.Owners {
		f.owner(e.ID.String(), host, o)
	}
}

// The check of 10,000 sealed files is to take less than 2 s.
func BenchmarkCheckOf10000SealedFiles(b *testing.B) {
	f := large(b)
	for b.Loop() {
		start := time.Now()
		in := check.Input{Plan: f.plan, Tree: f.load(), Pins: f.pins, Files: os.DirFS(f.folder()), Now: f.now}
		if got := check.Run(in); len(got) > 0 {
			b.Fatal(got)
		}
		if took := time.Since(start); took > 2*time.Second {
			b.Errorf("took %v, more than 2 s", took)
		}
	}
}

// To load and decide about 1,000 secrets with 10 owners each is to take less than 2 s.
func BenchmarkLoadAndDecide1000Secrets(b *testing.B) {
	f := large(b)
	hosts := map[string]decide.Host{}
	for host, o := range f.load().Secrets[secret.ID{Scope: secret.Shared, Name: "secret-1"}].Owners {
		hosts[host] = decide.Host{Key: o.Key}
	}
	for b.Loop() {
		tree := f.load()
		for id, e := range tree.Secrets {
			s := f.plan.SharedSecrets[id.Name]
			if d := decide.Decide(decide.Input{ID: id, Spec: &s, Owners: s.Owners, Entry: e, Hosts: hosts, Now: time.Now()}); d.Changes() || d.NeedsHuman != "" {
				b.Fatalf("%+v", d)
			}
		}
	}
}
