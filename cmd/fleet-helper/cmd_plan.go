package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// planOptions are the flags of plan.
type planOptions struct {
	fleet       fleetOptions
	global      *globals
	json        bool
	withRecords bool
	build       bool
	sel         selectOptions
}

func newPlan(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "plan",
		Summary: "Print the plan of the fleet: what Nix says of its hosts.",
		Help: `
The plan is cheap: it forces no host's modules. With --with-records the selected hosts are evaluated too, and the plan names their systems, so that
"fleet deploy --plan FILE" can deploy it later, on a machine that holds those store paths, without evaluating anything:

    fleet plan --json --with-records --build > plan.json
    fleet deploy --plan plan.json`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &planOptions{global: g}
			o.fleet.addFlags(flags)
			flags.BoolVar(&o.json, "json", false, "print the plan as JSON")
			flags.BoolVar(&o.withRecords, "with-records", false, "evaluate the selected hosts, build the helpers, and put the results into the plan")
			flags.BoolVar(&o.build, "build", false, "with --with-records: build the systems too")
			o.sel.addFlags(flags)
			return o.run
		},
	}
}

func (o *planOptions) run(ctx context.Context, env *cli.Env, _ []string) error {
	if !o.withRecords && (o.build || len(o.sel.on)+len(o.sel.exclude) > 0) {
		return cli.Usagef("--build, --on and --exclude are for --with-records")
	}
	display := ui.ForResult(withoutColor(env, o.global))
	defer display.Close()
	op, err := openFleet(ctx, env, o.global, &o.fleet, display)
	if err != nil {
		return err
	}
	if o.withRecords {
		if err := o.addRecords(ctx, op); err != nil {
			return err
		}
	}
	display.Close()
	if !o.json {
		return writePlan(env.Stdout, op.plan)
	}
	data, err := plan.Encode(op.plan)
	if err != nil {
		return err
	}
	_, err = env.Stdout.Write(data)
	return err
}

// addRecords evaluates the selected hosts and the helpers of their systems into the plan.
func (o *planOptions) addRecords(ctx context.Context, op *operation) error {
	hosts, err := o.sel.apply(op.plan, op.env.Stdin)
	if err != nil {
		return err
	}
	p, err := evaluator.WithRecords(ctx, op.backend, op.snapshot, op.plan, hosts, o.build)
	if err != nil {
		return &hostsError{Err: err}
	}
	op.plan = p
	return nil
}

// hostsError says that some hosts failed where there is no report to say it.
type hostsError struct{ Err error }

func (e *hostsError) Error() string { return e.Err.Error() }
func (e *hostsError) Unwrap() error { return e.Err }

// ExitCode is that of failed hosts.
func (e *hostsError) ExitCode() int { return int(deploy.ExitHostsFailed) }

// writePlan prints the plan for a person.
func writePlan(w io.Writer, p *plan.Plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "fleet %s, %d hosts\n\n", p.Fleet, len(p.Hosts))
	table := ui.Table{Header: []string{"HOST", "SYSTEM", "ADDRESS", "BUILD ON", "TRANSPORT", "HOST KEYS", "TOPLEVEL"}}
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		h := p.Hosts[name]
		toplevel := ""
		if r, ok := p.Records[name]; ok && r.System != nil {
			toplevel = r.System.OutPath
		}
		table.Rows = append(table.Rows, []ui.Cell{{Text: name}, {Text: h.System}, {Text: addressOf(h)}, {Text: h.Deploy.BuildOn},
			{Text: h.Deploy.Transport}, {Text: fmt.Sprint(len(h.Deploy.HostKeys))}, {Text: toplevel}})
	}
	b.WriteString(table.String())
	_, err := io.WriteString(w, b.String())
	return err
}
