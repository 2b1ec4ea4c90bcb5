package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator/plan"
)

// outputVersion is the version of what --json prints for hosts and status. New fields may come; a field that changes its meaning changes the version.
const outputVersion = 1

func newHosts(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "hosts",
		Summary: "List the hosts of the fleet with their tags and addresses.",
		Help:    "No host is connected to, and no host's modules are evaluated.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			var fleet fleetOptions
			var sel selectOptions
			var asJSON bool
			sel.addFlags(flags)
			fleet.addFlags(flags)
			flags.BoolVar(&asJSON, "json", false, "print JSON")
			return func(ctx context.Context, env *cli.Env, _ []string) error {
				display := ui.ForResult(withoutColor(env, g))
				defer display.Close()
				op, err := openFleet(ctx, env, g, &fleet, display)
				display.Close()
				if err != nil {
					return err
				}
				hosts, err := sel.apply(op.plan, env.Stdin)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(env.Stdout, hostList(op.plan, hosts))
				}
				return writeHosts(env.Stdout, op.plan, hosts)
			}
		},
	}
}

// hostsOutput is what hosts --json prints.
type hostsOutput struct {
	FormatVersion int         `json:"formatVersion"`
	Fleet         string      `json:"fleet"`
	Hosts         []hostEntry `json:"hosts"`
}

type hostEntry struct {
	Name string `json:"name"`
	plan.Host
}

func hostList(p *plan.Plan, names []string) hostsOutput {
	out := hostsOutput{FormatVersion: outputVersion, Fleet: p.Fleet, Hosts: []hostEntry{}}
	for _, name := range names {
		out.Hosts = append(out.Hosts, hostEntry{Name: name, Host: p.Hosts[name]})
	}
	return out
}

func writeHosts(w io.Writer, p *plan.Plan, names []string) error {
	table := ui.Table{Header: []string{"HOST", "SYSTEM", "ADDRESS", "TAGS"}}
	for _, name := range names {
		h := p.Hosts[name]
		table.Rows = append(table.Rows, []ui.Cell{{Text: name}, {Text: h.System}, {Text: addressOf(h)}, {Text: strings.Join(h.Tags, " ")}})
	}
	_, err := io.WriteString(w, table.String())
	return err
}

// addressOf is how a host is reached, for a person.
func addressOf(h plan.Host) string {
	address := h.Deploy.Address
	if h.Deploy.User != nil {
		address = *h.Deploy.User + "@" + address
	}
	if h.Deploy.Port != nil {
		address = fmt.Sprintf("%s port %d", address, *h.Deploy.Port)
	}
	if len(h.Deploy.JumpHosts) > 0 {
		address += " via " + strings.Join(h.Deploy.JumpHosts, ", ")
	}
	return address
}

// writeJSON prints one indented value.
func writeJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}
