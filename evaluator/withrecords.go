package evaluator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

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
	c := &collector{ctx: ctx, backend: b, fleet: p.Fleet, build: build, out: out}
	err := b.Records(ctx, s, p, hosts, c.add)
	c.builds.Wait()
	if err != nil {
		return nil, err
	}
	for _, system := range slices.Sorted(maps.Keys(systems)) {
		path, err := b.Helper(ctx, s, p, system)
		if err != nil {
			c.failed = append(c.failed, err)
			continue
		}
		out.Helpers[system] = plan.Helper{Path: path.String()}
	}
	if len(c.failed) > 0 {
		return nil, errors.Join(c.failed...)
	}
	return out, out.Validate()
}

// collector takes records as they come, and builds their systems.
type collector struct {
	// ctx is that of the one call that the collector lives in.
	ctx     context.Context
	backend Backend
	fleet   string
	build   bool
	builds  sync.WaitGroup

	mu     sync.Mutex
	out    *plan.Plan
	failed []error
}

func (c *collector) add(r RecordResult) {
	if err := cmp.Or(r.Err, r.MissingSecrets()); err != nil {
		c.fail(err)
		return
	}
	if c.build {
		c.builds.Go(func() {
			if err := c.backend.Build(c.ctx, BuildRequest{Fleet: c.fleet, Host: r.Host, System: *r.Record.System}); err != nil {
				c.fail(err)
			}
		})
	}
	system := *r.Record.System
	system.DrvPath = ""
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Records[r.Host] = plan.Record{System: &system}
}

func (c *collector) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, err)
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
