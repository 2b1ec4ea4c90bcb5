package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

// Source is what evaluation says of a fleet's secrets: the Specs and the Programs of a [secretsgen.Engine]. It looks at one snapshot until it
// is renewed. It is safe for concurrent use.
type Source struct {
	backend evaluator.Backend
	plan    *plan.Plan

	mu       sync.Mutex
	snapshot evaluator.Snapshot
	// specs are those that were evaluated in the snapshot.
	specs map[string]plan.Specs
}

var _ secretsgen.Programs = (*Source)(nil)

// NewSource evaluates nothing yet.
func NewSource(backend evaluator.Backend, snapshot evaluator.Snapshot, p *plan.Plan) *Source {
	return &Source{backend: backend, plan: p, snapshot: snapshot, specs: map[string]plan.Specs{}}
}

// Snapshot is what is looked at.
func (s *Source) Snapshot() evaluator.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

// Renew looks at the files as they are now, from here on.
func (s *Source) Renew(ctx context.Context) (evaluator.Snapshot, error) {
	snapshot, err := s.backend.Snapshot(ctx)
	if err != nil {
		return evaluator.Snapshot{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot, s.specs = snapshot, map[string]plan.Specs{}
	return snapshot, nil
}

// Specs evaluates what hosts declare, each host once. The maps have the specs, and why some have none; a host whose flake declares
// no secrets has empty ones.
func (s *Source) Specs(ctx context.Context, hosts []string) (map[string]plan.Specs, map[string]error, error) {
	found, failed := map[string]plan.Specs{}, map[string]error{}
	var ask []string
	s.mu.Lock()
	snapshot := s.snapshot
	for _, host := range hosts {
		if specs, known := s.specs[host]; known {
			found[host] = specs
		} else {
			ask = append(ask, host)
		}
	}
	s.mu.Unlock()
	if len(ask) == 0 {
		return found, failed, nil
	}
	var mu sync.Mutex
	err := s.backend.Specs(ctx, snapshot, s.plan, ask, func(r evaluator.RecordResult) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Err != nil:
			failed[r.Host] = r.Err
		case r.Record.Specs == nil:
			found[r.Host] = plan.Specs{Secrets: map[string]plan.Secret{}}
		default:
			found[r.Host] = *r.Record.Specs
		}
	})
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot == snapshot {
		maps.Copy(s.specs, found)
	}
	return found, failed, nil
}

// Build implements [secretsgen.Programs].
func (s *Source) Build(ctx context.Context, system string, ids []secret.ID) (map[secret.ID]string, map[secret.ID]error, error) {
	byText := map[string]secret.ID{}
	for _, id := range ids {
		byText[id.String()] = id
	}
	programs, failed, err := s.backend.Generators(ctx, s.Snapshot(), s.plan, system, slices.Sorted(maps.Keys(byText)))
	if err != nil {
		return nil, nil, err
	}
	unbuilt, err := s.backend.BuildPrograms(ctx, s.plan.Fleet, programs)
	if err != nil {
		return nil, nil, err
	}
	built, errs := map[secret.ID]string{}, map[secret.ID]error{}
	for text, id := range byText {
		program, known := programs[text]
		switch {
		case failed[text] != nil:
			errs[id] = failed[text]
		case unbuilt[text] != nil:
			errs[id] = unbuilt[text]
		case !known:
			errs[id] = fmt.Errorf("evaluate the generator of %q: the backend has no answer", text)
		default:
			built[id] = program.Program
		}
	}
	return built, errs, nil
}

// EngineSecrets makes the secrets that a deployment misses with an engine.
type EngineSecrets struct {
	// Engine is a [secretsgen.Engine] whose Specs and Programs are Source, and whose Hosts are those of the [Deployer].
	Engine interface {
		EnsureMissing(ctx context.Context, hosts []string, specs map[string]plan.Specs, extra []secret.ID) (*secretsgen.Report, error)
	}
	Source *Source
	// Dir is the folder of the flake.
	Dir string

	mu      sync.Mutex
	written Uncommitted
}

var _ Secrets = (*EngineSecrets)(nil)

// Ensure implements [Secrets].
func (s *EngineSecrets) Ensure(ctx context.Context, needs []Need) (evaluator.Snapshot, error) {
	hosts, specs, extra, err := split(needs)
	if err != nil {
		return evaluator.Snapshot{}, err
	}
	report, err := s.Engine.EnsureMissing(ctx, hosts, specs, extra)
	if report != nil && len(report.Written) > 0 {
		// Also where it was cancelled.
		s.mu.Lock()
		s.written.Add(s.Dir, report.Written...)
		s.mu.Unlock()
	}
	if err != nil {
		return evaluator.Snapshot{}, err
	}
	snapshot, err := s.Source.Renew(ctx)
	if err != nil {
		return evaluator.Snapshot{}, err
	}
	failed := &EnsureError{Failed: failures(report), Hosts: map[string]error{}}
	for _, host := range report.Hosts {
		failed.Hosts[host.Host] = hinted{errors.New(host.Message), host.Hint}
	}
	if len(failed.Failed)+len(failed.Hosts) > 0 {
		return snapshot, failed
	}
	return snapshot, nil
}

// split sorts what hosts miss into what the engine takes.
func split(needs []Need) (hosts []string, specs map[string]plan.Specs, extra []secret.ID, err error) {
	specs = map[string]plan.Specs{}
	for _, need := range needs {
		if need.Specs != nil {
			hosts = append(hosts, need.Host)
			specs[need.Host] = *need.Specs
		}
		for _, ref := range need.Public {
			id, err := secret.ParseID(ref.ID)
			if err != nil {
				return nil, nil, nil, err
			}
			if !slices.Contains(extra, id) {
				extra = append(extra, id)
			}
		}
	}
	return hosts, specs, extra, nil
}

// failures are why secrets were not made, by id.
func failures(report *secretsgen.Report) map[string]error {
	failed := map[string]error{}
	for _, one := range report.Secrets {
		switch {
		case one.Error != "":
			failed[one.ID.String()] = hinted{errors.New(one.Error), one.Hint}
		case one.NeedsHuman != "":
			failed[one.ID.String()] = hinted{errors.New(one.NeedsHuman), one.Hint}
		case len(one.Pending) > 0 && !one.Done: // else those who have a key got it
			failed[one.ID.String()] = fmt.Errorf("no key is pinned for %s", strings.Join(one.Pending, ", "))
		}
	}
	return failed
}

// hinted is an error with its remedy.
type hinted struct {
	error
	hint string
}

// Hint is the remedy.
func (e hinted) Hint() string { return e.hint }

// Unwrap gives the error itself.
func (e hinted) Unwrap() error { return e.error }

// Uncommitted implements [Secrets].
func (s *EngineSecrets) Uncommitted() Uncommitted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Uncommitted{Dir: s.written.Dir, Files: slices.Clone(s.written.Files)}
}
