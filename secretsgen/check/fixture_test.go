package check_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
	"fleet/evaluator/plan"
	"fleet/secretsgen/check"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// fleet is a made-up fleet with real keys and real sealed files.
type fleet struct {
	t     testing.TB
	store *state.Store
	plan  *plan.Plan
	pins  map[string][]string
	now   time.Time
}

func newFleet(t testing.TB, hosts ...string) *fleet {
	t.Helper()
	store, err := state.Open(t.TempDir(), "default", run.RunnerFunc(func(context.Context, run.Cmd) error {
		return &run.ExitError{Code: 128, StderrTail: "fatal: not a git repository"}
	}))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, store: store, pins: map[string][]string{}, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	f.plan = &plan.Plan{FormatVersion: plan.FormatVersion, Fleet: "default", Hosts: map[string]plan.Host{}, SharedSecrets: map[string]plan.Secret{}, Records: map[string]plan.Record{}}
	for _, host := range hosts {
		f.plan.Hosts[host] = plan.Host{System: "x86_64-linux"}
		f.plan.Records[host] = plan.Record{Specs: &plan.Specs{Secrets: map[string]plan.Secret{}}}
		f.pins[host] = []string{newKey(t)}
	}
	return f
}

func newKey(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// spec is a declared secret with a generator.
func spec(owners ...string) plan.Secret {
	return plan.Secret{
		Owners: owners, OnGeneratorChange: "notice", OnDependencyChange: "regenerate",
		Parts:     map[string]plan.SecretPart{"secret": {Encrypted: true}, "public": {Type: plan.TypeText}},
		Generator: &plan.Generator{Kind: "script", Sandbox: "strict", Data: json.RawMessage(`{"size":32}`)},
	}
}

// declare declares a secret and makes its value.
func (f *fleet) declare(name string, s plan.Secret, public string) *state.Entry {
	f.t.Helper()
	id, err := secret.ParseID(name)
	if err != nil {
		f.t.Fatal(err)
	}
	owners := s.Owners
	if host, ok := id.Scope.Host(); ok {
		s.Owners = []string{}
		owners = []string{host}
		f.plan.Records[host].Specs.Secrets[id.Name] = s
	} else {
		f.plan.SharedSecrets[id.Name] = s
	}
	e := f.value(id, s, public, owners...)
	f.put(e)
	return e
}

// value makes a value, sealed for its owners.
func (f *fleet) value(id secret.ID, s plan.Secret, public string, owners ...string) *state.Entry {
	f.t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	e := &state.Entry{ID: id, Owners: map[string]secret.Owner{}, Public: map[string][]byte{"public": []byte(public)}}
	c := seal.Context{Fleet: "default", ID: id, Part: "secret", Gen: gen, Seq: 1}
	inPublic := c
	inPublic.Part = "public"
	plain, salt := secret.NewPlain([]byte("hunter2")), make([]byte, seal.SaltSize)
	e.Meta = secret.Meta{
		CreatedAt: f.now, Format: secret.Format, Gen: gen, Seq: 1, Origin: secret.Generated, GenerationData: s.Generator.Data, Deps: map[string]secret.Gen{},
		Parts: map[string]secret.MetaPart{
			"secret": {Encrypted: true, Commit: seal.Commit(c, salt, plain)},
			"public": {Encoding: state.EncodingOf([]byte(public)), Commit: seal.Commit(inPublic, nil, secret.NewPlain([]byte(public)))},
		},
	}
	for _, dep := range s.Generator.Dependencies {
		depID, err := secret.ParseID(dep)
		if err != nil {
			f.t.Fatal(err)
		}
		e.Meta.Deps[dep] = f.load().Secrets[depID].Meta.Gen
	}
	for _, host := range owners {
		e.Owners[host] = f.sealed(c, salt, plain, gen, f.pins[host][0])
	}
	return e
}

func (f *fleet) sealed(c seal.Context, salt []byte, plain secret.Plain, gen secret.Gen, key string) secret.Owner {
	f.t.Helper()
	to, err := seal.ParseRecipient(key)
	if err != nil {
		f.t.Fatal(err)
	}
	part, err := seal.Seal(c, salt, plain, to)
	if err != nil {
		f.t.Fatal(err)
	}
	return secret.Owner{Format: secret.Format, Gen: gen, Key: to.Fingerprint, Parts: map[string]secret.SealedPart{"secret": part}}
}

func (f *fleet) put(e *state.Entry) {
	f.t.Helper()
	if err := f.store.Put(f.t.Context(), e); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) load() *state.Tree {
	f.t.Helper()
	tree, err := state.LoadFolder(f.folder(), "default")
	if err != nil {
		f.t.Fatal(err)
	}
	return tree
}

func (f *fleet) folder() string { return filepath.Join(f.store.Dir(), "fleet-state/default") }

// owner writes an owner's file as it is, whatever it says.
func (f *fleet) owner(id, host string, o secret.Owner) {
	f.t.Helper()
	data, err := o.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("secrets/"+id+"/owners/"+host+".json", string(data))
}

func (f *fleet) write(name, content string) {
	f.t.Helper()
	file := filepath.Join(f.folder(), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.folder(), name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) check() []check.Finding {
	f.t.Helper()
	return check.Run(check.Input{Plan: f.plan, Tree: f.load(), Pins: f.pins, Files: os.DirFS(f.folder()), Now: f.now})
}

// certificate makes one in PEM that ends at a time.
func certificate(t testing.TB, end time.Time) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func wireGuardKey() string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))) + "\n"
}
