package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
	"fleet/push/hostkeys"
	"fleet/secretsgen/trust"
)

func newHostKey(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "host-key",
		Summary: "Look at, pin and accept the keys of hosts, which SSH and secrets rely on.",
		Help: `
A key is pinned in the state, fleet-state/<fleet>/hosts/<host>.json, or in deploy.hostKeys; both come from git. So this machine keeps beside it, outside of every
repository, which key it has accepted for which host: only for those it encrypts. Your known_hosts can introduce a host; a key that has changed, or that another
host has, takes a person who compares its fingerprint.`,
		Sub: []*cli.Command{newHostKeyScan(g), newHostKeyAccept(g), newHostKeyList(g)},
	}
}

// hostKeyRow is what is known of one key of a host.
type hostKeyRow struct {
	Host        string `json:"host"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Key         string `json:"key"`
	// Source is "plan" or "state", or "retired" for a key that the host had once.
	Source   string     `json:"source"`
	Verified string     `json:"verified,omitempty"`
	AddedAt  *time.Time `json:"addedAt,omitempty"`
	// Accepted says how this machine accepted the key for the host: "confirmed", "known_hosts", or not at all.
	Accepted   string     `json:"accepted,omitempty"`
	AcceptedAt *time.Time `json:"acceptedAt,omitempty"`
	// SharedWith are other hosts that have the key.
	SharedWith []string `json:"sharedWith,omitempty"`
}

type hostKeysOutput struct {
	FormatVersion int          `json:"formatVersion"`
	Fleet         string       `json:"fleet"`
	Keys          []hostKeyRow `json:"keys"`
	// Keyless are the hosts of the fleet that no key is pinned for.
	Keyless []string `json:"keyless"`
}

func newHostKeyList(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "list",
		Args:    "[HOST]…",
		Summary: "List pinned keys with their provenance, and whether this machine has accepted them.",
		Help:    "No host is connected to.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &secretsOptions{global: g}
			o.fleet.addFlakeFlags(flags)
			flags.BoolVar(&o.json, "json", false, "print JSON")
			return func(ctx context.Context, env *cli.Env, args []string) error {
				return o.run(ctx, env, func(_ context.Context, v *vault) (func() error, error) {
					hosts, err := v.hostsNamed(args)
					if err != nil {
						return nil, err
					}
					out, err := v.listKeys(hosts)
					if err != nil {
						return nil, err
					}
					return func() error {
						if o.json {
							return writeJSON(env.Stdout, out)
						}
						return writeKeys(env.Stdout, o.global, out)
					}, nil
				})
			}
		},
	}
}

// hostsNamed checks names of hosts; none means all of the fleet.
func (v *vault) hostsNamed(names []string) ([]string, error) {
	if len(names) == 0 {
		return slices.Sorted(maps.Keys(v.op.plan.Hosts)), nil
	}
	for _, name := range names {
		if _, ok := v.op.plan.Hosts[name]; !ok {
			return nil, v.unknownHost(name)
		}
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (v *vault) listKeys(hosts []string) (hostKeysOutput, error) {
	out := hostKeysOutput{FormatVersion: outputVersion, Fleet: v.op.plan.Fleet, Keys: []hostKeyRow{}, Keyless: []string{}}
	inState, err := v.op.state.All()
	if err != nil {
		return out, err
	}
	all := map[string][]string{}
	for host := range v.op.plan.Hosts {
		all[host] = v.pinsOf(host)
	}
	shared := trust.Shared(all)
	for _, host := range hosts {
		accepted, err := v.trust.Store.Host(host)
		if err != nil {
			return out, err
		}
		rows := keyRows(host, v.op.plan.Hosts[host].Deploy.HostKeys, inState[host])
		if len(all[host]) == 0 {
			out.Keyless = append(out.Keyless, host)
		}
		for i := range rows {
			if rows[i].Source != sourceRetired {
				rows[i].SharedWith = shared[host]
			}
			rows[i].accept(accepted)
		}
		out.Keys = append(out.Keys, rows...)
	}
	return out, nil
}

// The sources of keys.
const (
	sourcePlan    = "plan"
	sourceState   = "state"
	sourceRetired = "retired"
)

// keyRows are the keys of one host, in the plan, in the state, and former ones.
func keyRows(host string, inPlan []string, pins hostkeys.HostPins) []hostKeyRow {
	var rows []hostKeyRow
	add := func(key, source string, verified hostkeys.Verified, at *time.Time) {
		// The plan and the state were read strictly; what is no key is shown all the same.
		fingerprint, _ := hostkeys.Fingerprint(key)
		kind, _, _ := strings.Cut(key, " ")
		rows = append(rows, hostKeyRow{Host: host, Type: strings.TrimPrefix(kind, "ssh-"), Fingerprint: fingerprint, Key: key, Source: source, Verified: string(verified), AddedAt: at})
	}
	for _, key := range inPlan {
		add(key, sourcePlan, "", nil)
	}
	for _, pin := range pins.Pins {
		add(pin.Key, sourceState, pin.Verified, &pin.AddedAt)
	}
	for _, pin := range pins.Retired {
		add(pin.Key, sourceRetired, pin.Verified, &pin.AddedAt)
	}
	return rows
}

// accept fills in what this machine has accepted.
func (r *hostKeyRow) accept(list []trust.Acceptance) {
	for _, a := range list {
		if a.Fingerprint == r.Fingerprint {
			r.Accepted, r.AcceptedAt = string(a.How), &a.At
		}
	}
}

func writeKeys(w io.Writer, g *globals, out hostKeysOutput) error {
	var b strings.Builder
	var commands []string
	table := ui.Table{Header: []string{"HOST", "KEY", "PINNED", "BY", "ACCEPTED HERE"}}
	for _, r := range out.Keys {
		pinned := r.Source
		if r.AddedAt != nil {
			pinned += " " + r.AddedAt.Format(time.DateOnly)
		}
		accepted := "no"
		switch {
		case r.Source == sourceRetired:
			accepted = "-"
		case len(r.SharedWith) > 0:
			accepted = "never: " + strings.Join(r.SharedWith, ", ") + " has a key of it"
		case r.Accepted != "":
			accepted = r.Accepted + " " + r.AcceptedAt.Format(time.DateOnly)
		default:
			commands = append(commands, fmt.Sprintf("%s host-key accept %s %s", g.secretsCommand(), r.Host, r.Fingerprint))
		}
		table.Rows = append(table.Rows, []ui.Cell{{Text: r.Host}, {Text: r.Type + " " + r.Fingerprint}, {Text: pinned}, {Text: orDash(r.Verified)}, {Text: accepted}})
	}
	if len(out.Keys) > 0 {
		b.WriteString(table.String())
	}
	if len(out.Keyless) > 0 {
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "no key is known of: %s\n", strings.Join(out.Keyless, ", "))
		commands = append(commands, g.secretsCommand()+" host-key scan "+strings.Join(out.Keyless, " "))
	}
	writeToDo(&b, commands)
	_, err := io.WriteString(w, b.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// hostKeyScanOptions are the flags of scan.
type hostKeyScanOptions struct {
	secretsOptions
	sel selectOptions
}

func newHostKeyScan(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "scan",
		Args:    "[HOST]…",
		Summary: "Ask hosts for their keys, and pin those of hosts that none is known of.",
		Help: `
A key that your known_hosts has is pinned with that provenance. Any other is shown with its fingerprint and asked about; without a terminal it is only listed, with the
command that accepts it, and the exit code is 5. A key that differs from the pinned one, or that another host has, is never pinned here.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &hostKeyScanOptions{secretsOptions: secretsOptions{global: g}}
			o.sel.addFlags(flags)
			o.addFlags(flags)
			return o.scan
		},
	}
}

func (o *hostKeyScanOptions) scan(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) > 0 && len(o.sel.on)+len(o.sel.exclude) > 0 {
		return cli.Usagef("hosts are given as arguments or with --on, not both")
	}
	return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
		hosts, err := v.hostsNamed(args)
		if err == nil && len(args) == 0 {
			hosts, err = o.sel.apply(v.op.plan, env.Stdin)
		}
		if err != nil {
			return nil, err
		}
		rows, err := v.scanKeys(ctx, hosts)
		if err != nil {
			return nil, err
		}
		return func() error { return o.showScan(ctx, env, v, rows) }, nil
	})
}

// scanOutput is what host-key scan and accept print with --json.
type scanOutput struct {
	FormatVersion int       `json:"formatVersion"`
	Fleet         string    `json:"fleet"`
	ExitCode      int       `json:"exitCode"`
	Hosts         []scanRow `json:"hosts"`
	FilesToCommit []string  `json:"filesToCommit"`
}

func (o *secretsOptions) showScan(ctx context.Context, env *cli.Env, v *vault, rows []scanRow) error {
	code := int(scanExit(rows))
	files := v.op.state.Uncommitted(context.WithoutCancel(ctx))
	var err error
	if o.json {
		err = writeJSON(env.Stdout, scanOutput{FormatVersion: outputVersion, Fleet: v.op.plan.Fleet, ExitCode: code, Hosts: rows, FilesToCommit: append([]string{}, files...)})
	} else if err = writeScan(env.Stdout, o.global, rows); err == nil {
		_, err = fmt.Fprint(env.Stderr, ui.CommitText(deploy.Uncommitted{Dir: v.op.state.Dir(), Files: files}))
	}
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return cli.Status(code)
}

// scanExit is 5 where a person has to decide, 3 where a host could not be asked.
func scanExit(rows []scanRow) deploy.ExitCode {
	code := deploy.ExitOK
	for _, r := range rows {
		switch r.State {
		case scanUnreachable:
			code = deploy.ExitHostsFailed
		case scanUnconfirmed, scanDeclined, scanChanged, scanShared, scanRefused:
			return deploy.ExitSecrets
		}
	}
	return code
}

func writeScan(w io.Writer, g *globals, rows []scanRow) error {
	var b strings.Builder
	var commands []string
	table := ui.Table{Header: []string{"HOST", "KEY", "RESULT"}}
	for _, r := range rows {
		table.Rows = append(table.Rows, []ui.Cell{{Text: r.Host}, {Text: orDash(strings.TrimSpace(r.Type + " " + r.Fingerprint))}, {Text: string(r.State)}})
	}
	b.WriteString(table.String())
	for _, r := range rows {
		if r.Error != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", r.Host, firstLine(r.Error))
			for _, hint := range r.Hints {
				fmt.Fprintf(&b, "  hint: %s\n", g.spell(hint))
			}
		}
		if (r.State == scanUnconfirmed || r.State == scanChanged) && r.Fingerprint != "" {
			commands = append(commands, fmt.Sprintf("%s host-key accept %s %s", g.secretsCommand(), r.Host, r.Fingerprint))
		}
	}
	if len(commands) > 0 {
		b.WriteString("\ncompare each fingerprint with the host's own, on its console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n")
	}
	writeToDo(&b, commands)
	_, err := io.WriteString(w, b.String())
	return err
}

func newHostKeyAccept(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "accept",
		Args:    "HOST FINGERPRINT",
		Summary: "Accept a key whose fingerprint you have compared with the host's own.",
		Help: `
FINGERPRINT is "SHA256:…", as ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints it on the host's console. A key that is pinned already is accepted on this
machine. Another one is taken from the host, if it has that fingerprint, and pinned in place of the one of its type, which is kept as retired; then
"secrets rekey" encrypts for it. A key that another host has is refused.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &secretsOptions{global: g}
			o.addFlags(flags)
			return o.acceptKey
		},
	}
}

func (o *secretsOptions) acceptKey(ctx context.Context, env *cli.Env, args []string) error {
	if len(args) != 2 {
		return &cli.UsageError{Err: errors.New("accept needs a host and a fingerprint"), Remedy: "on the host's console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"}
	}
	host, fingerprint := args[0], args[1]
	if err := checkFingerprint(fingerprint); err != nil {
		return err
	}
	return o.run(ctx, env, func(ctx context.Context, v *vault) (func() error, error) {
		if _, err := v.hostsNamed([]string{host}); err != nil {
			return nil, err
		}
		row, err := v.acceptKey(ctx, host, fingerprint)
		if err != nil {
			return nil, err
		}
		return func() error { return o.showScan(ctx, env, v, []scanRow{row}) }, nil
	})
}
