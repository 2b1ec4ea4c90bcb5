package evaluator_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator"
	"fleet/evaluator/plan"
)

// secretsFlake is a work tree of the flake with secrets.
func secretsFlake(t *testing.T) string {
	t.Helper()
	dir := copyFlake(t)
	if err := os.CopyFS(dir+"-secrets", os.DirFS("testdata/secrets")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "text"), filepath.Join(dir+"-secrets", "text")); err != nil {
		t.Fatal(err)
	}
	return dir + "-secrets"
}

// made puts a secret into the state.
func made(t *testing.T, dir, id string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "made"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "made", strings.ReplaceAll(id, "/", "-")), "")
}

func TestRecordsTellWhatIsMissingBeforeTheyEvaluateASystem(t *testing.T) {
	dir := secretsFlake(t)
	for _, workers := range []int{1, 4} {
		n, events := newNix(t, dir, func(o *evaluator.NixOptions) { o.Workers = workers })
		s, p := open(t, n)
		got, err := records(t.Context(), t, n, s, p, slices.Sorted(maps.Keys(p.Hosts))...)
		if err != nil {
			t.Fatal(err)
		}
		if r := got["plain"]; r.Err != nil || r.Record.Specs != nil || r.Record.System == nil || r.MissingSecrets() != nil {
			t.Errorf("a host without specs: %+v", r)
		}
		if r := got["ready"]; r.Err != nil || r.Record.Specs == nil || r.Record.System == nil || r.MissingSecrets() != nil {
			t.Errorf("a host that has all: %+v", r)
		}
		lacking := got["lacking"]
		var missing *evaluator.MissingSecretsError
		if lacking.Err != nil || lacking.Record.System != nil || !errors.As(lacking.MissingSecrets(), &missing) {
			t.Fatalf("a host that misses some: %+v", lacking)
		}
		if diff := cmp.Diff([]string{"host/lacking/db", "host/lacking/key"}, missing.Missing); diff != "" || !strings.Contains(hint(missing), "secrets sync") {
			t.Error(diff, hint(missing))
		}
		if string(lacking.Record.Specs.Secrets["db"].Generator.Data) != `{"size":32}` {
			t.Errorf("its declarations are %+v", lacking.Record.Specs)
		}
		var public *evaluator.MissingPublicError
		if !errors.As(got["reader"].Err, &public) || got["reader"].Record.Specs == nil || public.Host != "reader" {
			t.Fatalf("a host that reads another's public part: %+v", got["reader"])
		}
		if diff := cmp.Diff([]evaluator.PublicRef{{ID: "host/peer/wireguard", Part: "public"}}, public.Refs); diff != "" {
			t.Error(diff)
		}
		if !errors.As(got["reader"].Err, new(*evaluator.EvalError)) {
			t.Error("what Nix said is lost")
		}
		checkRecord(t, got["failing"], "failing", "the system is bad")
		if got["failing"].Record.Specs == nil {
			t.Error("failing: what it declares is lost")
		}
		checkRecord(t, got["undeclared"], "undeclared", "the specs are bad")
		for _, host := range []string{"lacking", "undeclared"} {
			if events.find(func(e plan.Event) bool { return strings.Contains(e.Message, "the system of "+host) }) {
				t.Errorf("the system of %s was evaluated", host)
			}
		}
	}
}

func TestAnotherSnapshotHasTheSecretsThatWereMade(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, string){"no repository": func(*testing.T, string) {}, "repository": commit} {
		t.Run(name, func(t *testing.T) {
			dir := secretsFlake(t)
			prepare(t, dir)
			n, _ := newNix(t, dir, nil)
			first, p := open(t, n)
			for _, id := range []string{"host/lacking/db", "host/lacking/key", "host/peer/wireguard"} {
				made(t, dir, id)
			}
			if name == "repository" {
				git(t, dir, "add", "-N", "made")
			}
			second, err := n.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got, err := records(t.Context(), t, n, second, p, "lacking", "reader")
			if err != nil {
				t.Fatal(err)
			}
			checkRecord(t, got["lacking"], "lacking", "")
			checkRecord(t, got["reader"], "reader", "")
			got, err = records(t.Context(), t, n, first, p, "lacking")
			if err != nil || got["lacking"].MissingSecrets() == nil {
				t.Errorf("the first snapshot has changed: %+v, %v", got["lacking"], err)
			}
		})
	}
}

func TestASnapshotAfterSecretsWereMadeIsNotTakenForAnotherFlake(t *testing.T) {
	dir := secretsFlake(t)
	n, _ := newNix(t, dir, nil)
	s, _ := open(t, n)
	source, _, _ := strings.Cut(strings.TrimPrefix(s.Ref, "path:"), "?")
	n, _ = newNix(t, dir, func(o *evaluator.NixOptions) { o.AppSource = source })
	open(t, n)
	made(t, dir, "host/lacking/db")
	if _, err := n.Snapshot(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSpecsEvaluateNoSystem(t *testing.T) {
	n, events := newNix(t, secretsFlake(t), nil)
	s, p := open(t, n)
	var mu sync.Mutex
	got := map[string]evaluator.RecordResult{}
	err := n.Specs(t.Context(), s, p, []string{"plain", "ready", "lacking", "reader", "failing", "undeclared", "nobody"}, func(r evaluator.RecordResult) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Host] = r
	})
	if err != nil {
		t.Fatal(err)
	}
	for host, r := range got {
		bad := host == "undeclared" || host == "nobody"
		if (r.Err != nil) != bad || r.Record.System != nil || (r.Record.Specs == nil) != (bad || host == "plain") {
			t.Errorf("%s: %+v", host, r)
		}
	}
	if len(got) != 7 {
		t.Errorf("%d results", len(got))
	}
	if events.find(func(e plan.Event) bool { return strings.Contains(e.Message, "the system of ") }) {
		t.Error("a system was evaluated")
	}
}

func TestGeneratorsAreEvaluatedAndBuilt(t *testing.T) {
	var state string
	n, _ := newNix(t, secretsFlake(t), func(o *evaluator.NixOptions) { o.System, state = "x86_64-linux", o.StateDir })
	s, p := open(t, n)
	ids := []string{
		"shared/ca", "shared/ca.pem", "host/lacking/db", "host/ready/db",
		"shared/bad", "shared/odd", "shared/unbuilt", "shared/empty", "shared/nothing", "host/nobody/db", "db",
	}
	programs, failed, err := n.Generators(t.Context(), s, p, "", ids)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{
		"shared/bad": "the generator is bad", "shared/odd": "no derivation", "shared/nothing": "nothing",
		"host/nobody/db": "the plan does not say", "db": "it must be",
	} {
		if failed[id] == nil || !strings.Contains(failed[id].Error(), want) {
			t.Errorf("%s: got %v, want %q", id, failed[id], want)
		}
	}
	want := []string{"host/lacking/db", "host/ready/db", "shared/ca", "shared/ca.pem", "shared/empty", "shared/unbuilt"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(programs))); diff != "" || len(failed) != 5 {
		t.Error(diff, failed)
	}
	unbuilt, err := n.BuildPrograms(t.Context(), "default", programs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shared/empty", "shared/unbuilt"}, slices.Sorted(maps.Keys(unbuilt))); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(unbuilt["shared/unbuilt"].Error(), "exit code 3") || !strings.Contains(hint(unbuilt["shared/unbuilt"]), "nix log") {
		t.Errorf("got %v, hint %q", unbuilt["shared/unbuilt"], hint(unbuilt["shared/unbuilt"]))
	}
	protected := rootTargets(t, filepath.Join(state, "gcroots", "default"))
	for id, program := range programs {
		if _, err := os.Stat(program.Program); (err == nil) != (unbuilt[id] == nil) {
			t.Errorf("%s: %v", id, err)
		}
		if unbuilt[id] == nil && !slices.Contains(protected, filepath.Dir(filepath.Dir(program.Program))) {
			t.Errorf("%s is not protected: %v", id, protected)
		}
	}
}

func rootTargets(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, target)
	}
	return targets
}

func TestManyGeneratorsFitIntoArguments(t *testing.T) {
	dir := secretsFlake(t)
	text, err := os.ReadFile(filepath.Join(dir, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	many := strings.Replace(string(text), "shared = {", `shared = builtins.listToAttrs (builtins.genList (i: { name = "a-secret-with-a-rather-long-name-${toString i}"; value = works "ca"; }) 3000) // {`, 1)
	writeFile(t, filepath.Join(dir, "flake.nix"), many)
	n, _ := newNix(t, dir, func(o *evaluator.NixOptions) { o.System = "x86_64-linux" })
	s, p := open(t, n)
	var ids []string
	for i := range 3000 {
		ids = append(ids, fmt.Sprintf("shared/a-secret-with-a-rather-long-name-%d", i))
	}
	programs, failed, err := n.Generators(t.Context(), s, p, "x86_64-linux", ids)
	if err != nil || len(programs) != 3000 || len(failed) != 0 {
		t.Fatalf("%d programs, %d failed, %v", len(programs), len(failed), err)
	}
	if _, err := n.BuildPrograms(t.Context(), "default", programs); err != nil {
		t.Error(err)
	}
}

func TestAPrintedPlanNeedsSecretsThatAreThere(t *testing.T) {
	n, _ := newNix(t, secretsFlake(t), nil)
	s, p := open(t, n)
	_, err := evaluator.WithRecords(t.Context(), n, s, p, []string{"plain", "lacking"}, false)
	if !errors.As(err, new(*evaluator.MissingSecretsError)) {
		t.Errorf("got %v", err)
	}
}

func TestAStaticPlanHasNoSecrets(t *testing.T) {
	s, err := evaluator.NewStatic(evaluator.StaticOptions{Files: []string{"plan.json"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, generators := s.Generators(t.Context(), evaluator.Snapshot{}, nil, "", nil)
	_, build := s.BuildPrograms(t.Context(), "default", nil)
	for _, err := range []error{s.Specs(t.Context(), evaluator.Snapshot{}, nil, nil, nil), generators, build} {
		if err == nil || !strings.Contains(hint(err), "--plan") {
			t.Errorf("got %v, hint %q", err, hint(err))
		}
	}
}
