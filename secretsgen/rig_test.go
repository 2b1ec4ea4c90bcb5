package secretsgen_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/step"
	"fleet/secretsgen/trust"
)

// TestMain makes the test binary what fleet-helper is to a generator: the child, and what marks its output.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "encrypt":
		os.Exit(mark(step.Encrypted))
	case filepath.Base(os.Args[0]) == "gh":
		os.Exit(mark(step.Public))
	case len(os.Args) == 2 && os.Args[1] == step.ChildCommand:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := step.Child(ctx, os.Stdin, os.Stdout)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func mark(kind step.Kind) int {
	value, err := io.ReadAll(os.Stdin)
	if err == nil {
		_, err = os.Stdout.Write(step.Mark(kind, secret.NewPlain(value)).Bytes())
	}
	if err != nil {
		return 1
	}
	return 0
}

// host is a machine with a real host key. It does for real what a host does, in this process, but for what is wrong with it.
type host struct {
	key        string
	identities []age.Identity
	// down does not answer; shows is the key of its handshake where that is not its own.
	down  bool
	shows string
	// slow is how long it takes to answer.
	slow time.Duration
	// lie changes what it says.
	lie func(any)
	// killed is called when a generator is to run, and ends it.
	killed func()
}

// rig is a fleet, its flake's folder with a state in git, and its hosts.
type rig struct {
	t     testing.TB
	dir   string
	trust *trust.Policy
	plan  *plan.Plan
	specs map[string]plan.Specs
	// broken are hosts whose declarations do not evaluate.
	broken  map[string]error
	hosts   map[string]*host
	pins    map[string][]string
	scripts map[secret.ID]string
	now     time.Time
	events  []plan.Event
	engine  *secretsgen.Engine
	store   *state.Store

	mu sync.Mutex
	// calls counts requests, by what and host; evaluated the hosts of each evaluation; built the programs.
	calls     map[string]int
	evaluated [][]string
	built     []string
	ran       []string
	programs  map[string]string
}

func newKey(t testing.TB) (string, []age.Identity) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	identities, err := seal.LoadIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), identities
}

// newRig makes a fleet of these hosts, whose keys are pinned and accepted.
func newRig(t testing.TB, hosts ...string) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC),
		plan:  &plan.Plan{FormatVersion: 1, Fleet: "default", Hosts: map[string]plan.Host{}, SharedSecrets: map[string]plan.Secret{}},
		specs: map[string]plan.Specs{}, broken: map[string]error{}, hosts: map[string]*host{}, pins: map[string][]string{},
		scripts: map[secret.ID]string{}, calls: map[string]int{}, programs: map[string]string{},
	}
	r.git("init", "-q")
	store, err := trust.Open(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	r.trust = &trust.Policy{Store: store, Now: func() time.Time { return r.now }}
	for _, name := range hosts {
		r.addHost(name)
		r.accept(name)
	}
	r.open()
	return r
}

// open makes an engine, as a new process would.
func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.store, err = state.Open(r.dir, r.plan.Fleet, run.RunnerFunc(run.Run)); err != nil {
		r.t.Fatal(err)
	}
	r.engine = &secretsgen.Engine{
		State: r.store, Plan: r.plan, Specs: r.evaluate, Pins: func(host string) []string { return r.pins[host] },
		Trust: r.trust, Hosts: r, Programs: r, Reporter: r, Now: func() time.Time { return r.now },
		Local: func(ctx context.Context, request step.Request) (step.Result, error) {
			r.count("local")
			r.mu.Lock()
			r.ran = append(r.ran, request.ID.String())
			r.mu.Unlock()
			return step.Run(ctx, request, step.Options{Helper: os.Args[0]})
		},
	}
}

func (r *rig) git(args ...string) string {
	r.t.Helper()
	out, err := run.Output(r.t.Context(), run.Cmd{Argv: append([]string{"git", "-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)})
	if err != nil {
		r.t.Fatal(err)
	}
	return string(out)
}

// tryGit is [rig.git] that may fail.
func (r *rig) tryGit(args ...string) {
	_ = run.Run(r.t.Context(), run.Cmd{Argv: append([]string{"git", "-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)})
}

func (r *rig) addHost(name string) {
	key, identities := newKey(r.t)
	r.hosts[name] = &host{key: key, identities: identities}
	r.plan.Hosts[name] = plan.Host{System: "x86_64-linux", Deploy: plan.Deploy{Address: name + ".example.org"}}
	r.pins[name] = []string{key}
	r.specs[name] = plan.Specs{Secrets: map[string]plan.Secret{}}
}

func (r *rig) accept(name string) {
	r.t.Helper()
	if err := r.trust.Store.Accept(name, r.pins[name][0], trust.Confirmed, r.now); err != nil {
		r.t.Fatal(err)
	}
}

// reinstall gives a host another key, in the pins too, and accepted by nobody.
func (r *rig) reinstall(name string) {
	h := r.hosts[name]
	h.key, h.identities = newKey(r.t)
	r.pins[name] = []string{h.key}
}

// spec is a generated secret with one encrypted part "secret", which change alters.
func spec(change ...func(*plan.Secret)) plan.Secret {
	s := plan.Secret{
		Owners: []string{}, OnGeneratorChange: "regenerate", OnDependencyChange: "regenerate",
		Generator: &plan.Generator{Kind: "script", Sandbox: "strict", Dependencies: map[string]string{}},
		Parts:     map[string]plan.SecretPart{"secret": {Encrypted: true}},
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func owners(hosts ...string) func(*plan.Secret) {
	return func(s *plan.Secret) { s.Owners = hosts }
}

func data(json string) func(*plan.Secret) {
	return func(s *plan.Secret) { s.Generator.Data = []byte(json) }
}

func on(host string) func(*plan.Secret) {
	return func(s *plan.Secret) { s.Generator.On = &host }
}

func from(alias, id string) func(*plan.Secret) {
	return func(s *plan.Secret) { s.Generator.Dependencies[alias] = id }
}

func withPublic(s *plan.Secret) { s.Parts["public"] = plan.SecretPart{Type: "text"} }

func manual(s *plan.Secret) { s.Generator = nil }

// both is a script that makes a secret and its public part, another one at every run.
const both = `head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > v; encrypt < v > $out/secret; sha256sum < v | cut -d' ' -f1 | gh > $out/public`

// only is a script that makes a secret alone.
const only = `head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' | encrypt > $out/secret`

func shared(name string) secret.ID    { return secret.ID{Scope: secret.Shared, Name: name} }
func own(host, name string) secret.ID { return secret.ID{Scope: secret.OfHost(host), Name: name} }

// declare declares a secret, whose generator is script.
func (r *rig) declare(id secret.ID, s plan.Secret, script string) {
	r.scripts[id] = script
	if host, ok := id.Scope.Host(); ok {
		r.specs[host].Secrets[id.Name] = s
		return
	}
	r.plan.SharedSecrets[id.Name] = s
}

func (r *rig) evaluate(_ context.Context, hosts []string) (map[string]plan.Specs, map[string]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evaluated = append(r.evaluated, hosts)
	specs, failed := map[string]plan.Specs{}, map[string]error{}
	for _, host := range hosts {
		if err := r.broken[host]; err != nil {
			failed[host] = err
			continue
		}
		specs[host] = r.specs[host]
	}
	return specs, failed, nil
}

func (r *rig) Emit(e plan.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Build implements [secretsgen.Programs].
func (r *rig) Build(_ context.Context, system string, ids []secret.ID) (map[secret.ID]string, map[secret.ID]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.built = append(r.built, fmt.Sprintf("%s %d", cmp.Or(system, "here"), len(ids)))
	paths, failed := map[secret.ID]string{}, map[secret.ID]error{}
	for _, id := range ids {
		script, ok := r.scripts[id]
		if !ok || script == "" {
			failed[id] = fmt.Errorf("build the generator of %q: it does not build", id)
			continue
		}
		if r.programs[script] == "" {
			r.programs[script] = r.program(script)
		}
		paths[id] = r.programs[script]
	}
	return paths, failed, nil
}

// program writes a generator. It is no store path, which a sandbox takes as well.
func (r *rig) program(script string) string {
	dir, err := os.MkdirTemp("", "fleet-generator-")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "generate")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, []byte("#!/bin/sh\nset -eu\n"+script+"\n"), 0o755)); err != nil {
		r.t.Fatal(err)
	}
	return program
}

// sync is a sync of all that must not fail as a whole.
func (r *rig) sync() *secretsgen.Report {
	r.t.Helper()
	report, err := r.engine.Sync(r.t.Context(), secretsgen.Selection{})
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// synced is a sync after which nothing is left to do.
func (r *rig) synced() *secretsgen.Report {
	r.t.Helper()
	report := r.sync()
	if report.Incomplete() {
		r.t.Fatalf("incomplete: %s", show(report))
	}
	return report
}

func show(v any) string {
	text, _ := json.MarshalIndent(v, "", "  ")
	return string(text)
}

// outcome is what became of a secret.
func outcome(t testing.TB, report *secretsgen.Report, id secret.ID) secretsgen.Outcome {
	t.Helper()
	for _, one := range report.Secrets {
		if one.ID == id {
			return one
		}
	}
	t.Fatalf("nothing is said of %s: %s", id, show(report))
	return secretsgen.Outcome{}
}
