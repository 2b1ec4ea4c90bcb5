package evaluator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// WithRecords returns what `fleet plan --json --with-records` prints and the static backend reads: the plan of the given hosts, with their
// records and the store paths of their helpers. It refers to no flake: derivations, record paths and package names are left out. Where build is set, the
// hosts' systems are built too. All hosts that fail are named, joined into one error.
func WithRecords(ctx context.Context, b Backend, s Snapshot, p *plan.Plan, hosts []string, build bool) (*plan.Plan, error) {
	out := &plan.Plan{
		FormatVersion: plan.FormatVersion, Fleet: p.Fleet, Warnings: p.Warnings,
		Helpers: map[string]plan.Helper{}, Hosts: map[string]plan.Host{}, Records: map[string]plan.Record{},
	}
	systems := map[string]bool{}
	for _, name := range hosts {
		host, ok := p.Hosts[name]
		if !ok {
			return nil, fmt.Errorf("print plan: there is no host %q", name)
		}
		host.Record = nil
		systems[host.System] = true
		out.Hosts[name] = host
	}
	keepBuilders(out)
	var mu sync.Mutex
	var failed []error
	var builds sync.WaitGroup
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	}
	err := b.Records(ctx, s, p, hosts, func(r RecordResult) {
		if r.Err != nil {
			fail(r.Err)
			return
		}
		if build {
			builds.Go(func() {
				if err := b.Build(ctx, BuildRequest{Fleet: p.Fleet, Host: r.Host, System: *r.Record.System}); err != nil {
					fail(err)
				}
			})
		}
		system := *r.Record.System
		system.DrvPath = ""
		mu.Lock()
		defer mu.Unlock()
		out.Records[r.Host] = plan.Record{System: &system}
	})
	builds.Wait()
	if err != nil {
		return nil, err
	}
	for _, system := range slices.Sorted(maps.Keys(systems)) {
		var path storepath.Path
		if path, err = b.Helper(ctx, s, p, system); err != nil {
			fail(err)
			continue
		}
		out.Helpers[system] = plan.Helper{Path: path.String()}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return out, out.Validate()
}

// keepBuilders points hosts whose builder is not part of the printed plan to the operator: their systems are built already, so
// nobody builds them.
func keepBuilders(out *plan.Plan) {
	for name, host := range out.Hosts {
		builder := host.Deploy.BuildOn
		if _, printed := out.Hosts[builder]; !printed && builder != plan.BuildOnTarget {
			host.Deploy.BuildOn = plan.BuildOnOperator
			out.Hosts[name] = host
		}
	}
}
