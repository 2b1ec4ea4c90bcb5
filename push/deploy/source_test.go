package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// backend stands in for Nix where secrets are asked about.
type backend struct {
	evaluator.Backend
	snapshots int
	// asked are the hosts and ids of each call, with the snapshot.
	asked []string
}

func (b *backend) Snapshot(context.Context) (evaluator.Snapshot, error) {
	b.snapshots++
	return evaluator.Snapshot{Ref: fmt.Sprint(b.snapshots)}, nil
}

func (b *backend) Specs(_ context.Context, s evaluator.Snapshot, _ *plan.Plan, hosts []string, each func(evaluator.RecordResult)) error {
	b.asked = append(b.asked, s.Ref+" specs "+strings.Join(hosts, " "))
	for _, host := range hosts {
		switch host {
		case "bad":
			each(evaluator.RecordResult{Host: host, Err: errors.New("it does not evaluate")})
		case "plain":
			each(evaluator.RecordResult{Host: host})
		default:
			each(evaluator.RecordResult{Host: host, Record: plan.Record{Specs: &plan.Specs{Secrets: map[string]plan.Secret{"db": {}}}}})
		}
	}
	return nil
}

func (b *backend) Generators(_ context.Context, s evaluator.Snapshot, _ *plan.Plan, system string, ids []string) (map[string]evaluator.Program, map[string]error, error) {
	b.asked = append(b.asked, s.Ref+" generators "+system+" "+strings.Join(ids, " "))
	programs, failed := map[string]evaluator.Program{}, map[string]error{}
	for _, id := range ids {
		if id == "shared/bad" {
			failed[id] = errors.New("it does not evaluate")
		} else if id != "shared/forgotten" {
			programs[id] = evaluator.Program{DrvPath: id + ".drv", Program: "/program/of/" + id}
		}
	}
	return programs, failed, nil
}

func (b *backend) BuildPrograms(_ context.Context, _ string, programs map[string]evaluator.Program) (map[string]error, error) {
	failed := map[string]error{}
	if _, ok := programs["shared/unbuilt"]; ok {
		failed["shared/unbuilt"] = errors.New("it does not build")
	}
	return failed, nil
}

func newTestSource(b *backend) *Source {
	return NewSource(b, evaluator.Snapshot{Ref: "first"}, &plan.Plan{Fleet: "default"})
}

func TestSpecsAreEvaluatedOnceASnapshot(t *testing.T) {
	b := &backend{}
	s := newTestSource(b)
	for range 2 {
		specs, failed, err := s.Specs(t.Context(), []string{"a", "plain", "bad"})
		if err != nil || len(specs) != 2 || len(specs["a"].Secrets) != 1 || specs["plain"].Secrets == nil || failed["bad"] == nil {
			t.Fatalf("got %v, %v, %v", specs, failed, err)
		}
	}
	if _, err := s.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Specs(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first specs a plain bad", "first specs bad", "1 specs a"}, b.asked); diff != "" {
		t.Error(diff)
	}
}

func id(name string) secret.ID { return secret.ID{Scope: secret.Shared, Name: name} }

func TestProgramsOfGeneratorsAreBuilt(t *testing.T) {
	b := &backend{}
	built, failed, err := newTestSource(b).Build(t.Context(), "x86_64-linux", []secret.ID{id("good"), id("bad"), id("unbuilt"), id("forgotten")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[secret.ID]string{id("good"): "/program/of/shared/good"}, built); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{"bad": "not evaluate", "unbuilt": "not build", "forgotten": "no answer"} {
		if failed[id(name)] == nil || !strings.Contains(failed[id(name)].Error(), want) {
			t.Errorf("%s: got %v", name, failed[id(name)])
		}
	}
}

// engine makes what it is told to have made.
type engine struct {
	hosts  []string
	extra  []secret.ID
	report *secretsgen.Report
	err    error
}

func (e *engine) EnsureMissing(_ context.Context, hosts []string, specs map[string]plan.Specs, extra []secret.ID) (*secretsgen.Report, error) {
	if len(specs) != len(hosts) {
		panic("specs are missing")
	}
	e.hosts, e.extra = hosts, extra
	return e.report, e.err
}

func TestWhatADeploymentMissesReachesTheEngine(t *testing.T) {
	e := &engine{report: &secretsgen.Report{
		Secrets: []secretsgen.Outcome{
			{ID: id("made"), Done: true},
			{ID: id("shared"), Done: true, Pending: []string{"new"}},
			{ID: id("broken"), Error: "exit code 1", Hint: "look at it"},
			{ID: id("token"), NeedsHuman: "it has no generator", Hint: "fleet secrets set shared/token"},
			{ID: id("later"), Pending: []string{"new"}},
		},
		Hosts:   []secretsgen.HostProblem{{Host: "new", Kind: secretsgen.KindKeyless, Message: "no key is pinned"}},
		Written: []string{"z", "a"},
	}}
	s := &EngineSecrets{Engine: e, Source: newTestSource(&backend{}), Dir: "/flake"}
	public := []evaluator.PublicRef{{ID: "host/peer/wireguard", Part: "public"}, {ID: "host/peer/wireguard", Part: "other"}}
	snapshot, err := s.Ensure(t.Context(), []Need{
		{Host: "a", Specs: &plan.Specs{}, Missing: []string{"shared/made"}}, {Host: "b", Specs: &plan.Specs{}, Public: public}, {Host: "old", Public: public},
	})
	if snapshot.Ref != "1" {
		t.Errorf("snapshot %q", snapshot.Ref)
	}
	peer := []secret.ID{{Scope: secret.OfHost("peer"), Name: "wireguard"}}
	if !slices.Equal(e.hosts, []string{"a", "b"}) || !slices.Equal(e.extra, peer) {
		t.Errorf("hosts %v, others %v", e.hosts, e.extra)
	}
	var partly *EnsureError
	if !errors.As(err, &partly) {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{"broken": {"exit code 1", "look at it"}, "token": {"no generator", "secrets set"}, "later": {"no key is pinned for new", ""}} {
		cause := partly.Failed["shared/"+name]
		var hinted interface{ Hint() string }
		if cause == nil || !strings.Contains(cause.Error(), want[0]) || want[1] != "" && (!errors.As(cause, &hinted) || !strings.Contains(hinted.Hint(), want[1])) {
			t.Errorf("%s: %v", name, cause)
		}
	}
	if len(partly.Failed) != 3 || partly.Hosts["new"] == nil {
		t.Errorf("got %+v", partly)
	}
	if diff := cmp.Diff(Uncommitted{Dir: "/flake", Files: []string{"a", "z"}}, s.Uncommitted()); diff != "" {
		t.Error(diff)
	}

	e.report, e.err = &secretsgen.Report{Written: []string{"b"}}, context.Canceled
	if _, err := s.Ensure(t.Context(), []Need{{Host: "a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "z"}, s.Uncommitted().Files); diff != "" {
		t.Errorf("after an interruption: %s", diff)
	}
	if _, err := s.Ensure(t.Context(), []Need{{Host: "a", Public: []evaluator.PublicRef{{ID: "nothing"}}}}); err == nil {
		t.Error("an id that is none was taken")
	}
}
