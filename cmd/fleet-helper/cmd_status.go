package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/evaluator"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/deploy"
	"fleet/push/proto"
	"fleet/push/transport"
)

// statusOptions are the flags of status.
type statusOptions struct {
	fleet    fleetOptions
	hosts    hostOptions
	sel      selectOptions
	global   *globals
	json     bool
	evaluate bool
	// transactions asks for all that the hosts remember.
	transactions bool
}

func newStatus(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "status",
		Summary: "Show what the hosts run, what they boot, their last activation, and what is open.",
		Help: `
Every selected host is connected to; nothing is changed there. An activation that is open is shown with who has begun it, what it waits for, and for how long
still. With --evaluate the hosts are evaluated too, and compared with what the flake says now. The exit code is 3 where a host cannot be reached or evaluated, or
where a rollback has failed and is tried again; a host that differs is no failure.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &statusOptions{global: g}
			o.sel.addFlags(flags)
			o.fleet.addFlags(flags)
			o.hosts.addFlags(flags)
			flags.BoolVar(&o.json, "json", false, "print JSON")
			flags.BoolVar(&o.transactions, "transactions", false, "list all activations that the hosts remember")
			flags.BoolVar(&o.evaluate, "evaluate", false, "evaluate the hosts, and say which of them a deployment would change")
			return o.run
		},
	}
}

// hostStatus is what is known of one host.
type hostStatus struct {
	Host string `json:"host"`
	// Reachable says that there was a session.
	Reachable bool     `json:"reachable"`
	Error     string   `json:"error,omitempty"`
	Hints     []string `json:"hints,omitempty"`
	// silent says that nothing answered at the host's address.
	silent bool
	// Current, Profile and BootDefault are store paths.
	Current     string            `json:"current,omitempty"`
	Profile     string            `json:"profile,omitempty"`
	BootDefault string            `json:"bootDefault,omitempty"`
	Generation  int               `json:"generation,omitempty"`
	NixVersion  string            `json:"nixVersion,omitempty"`
	Lock        *proto.LockHolder `json:"lock,omitempty"`
	Last        *lastTransaction  `json:"lastTransaction,omitempty"`
	// Open is the transaction that has not ended.
	Open *openTransaction `json:"openTransaction,omitempty"`
	// Transactions are those that the host remembers, newest first, with --transactions.
	Transactions []lastTransaction `json:"transactions,omitempty"`
	// Toplevel is what the flake says, with --evaluate; Matches whether the host runs and boots it.
	Toplevel string `json:"toplevel,omitempty"`
	Matches  *bool  `json:"matches,omitempty"`
}

type lastTransaction struct {
	Txn    string         `json:"txn"`
	Action proto.Action   `json:"action"`
	State  proto.TxnState `json:"state"`
	Owner  string         `json:"owner"`
	Since  string         `json:"since"`
	Reason string         `json:"reason,omitempty"`
}

type statusOutput struct {
	FormatVersion int          `json:"formatVersion"`
	Fleet         string       `json:"fleet"`
	Hosts         []hostStatus `json:"hosts"`
}

func (o *statusOptions) run(ctx context.Context, env *cli.Env, _ []string) error {
	if err := o.hosts.validate(); err != nil {
		return err
	}
	display := ui.ForResult(withoutColor(env, o.global))
	defer display.Close()
	op, err := openFleet(ctx, env, o.global, &o.fleet, display)
	if err != nil {
		return err
	}
	names, err := o.sel.apply(op.plan, env.Stdin)
	if err != nil {
		return err
	}
	found, err := o.look(ctx, op, names)
	if err != nil {
		return err
	}
	display.Close()
	if o.json {
		err = writeJSON(env.Stdout, statusOutput{FormatVersion: outputVersion, Fleet: op.plan.Fleet, Hosts: found})
	} else {
		err = writeStatus(env.Stdout, found, o.evaluate)
	}
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return cli.Status(statusCode(found))
}

// statusCode is 3 where a host is not known to be well.
func statusCode(found []hostStatus) int {
	for _, h := range found {
		if h.Error != "" || h.Open != nil && h.Open.State == proto.TxnRollbackFailed {
			return int(deploy.ExitHostsFailed)
		}
	}
	return cli.ExitOK
}

// look asks all hosts at the same time.
func (o *statusOptions) look(ctx context.Context, op *operation, names []string) ([]hostStatus, error) {
	c, err := op.newConnector(&o.hosts)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	pins, err := op.pins()
	if err != nil {
		return nil, err
	}
	overrides := deploy.Overrides{Transport: o.hosts.transport, AcceptNewHostKeys: o.hosts.acceptNewHostKeys, Pins: pins}
	found := make([]hostStatus, len(names))
	var group errgroup.Group
	group.SetLimit(o.hosts.limit())
	for i, name := range names {
		found[i].Host = name
		group.Go(func() error {
			if err := found[i].ask(ctx, c.Connector, op.plan.Hosts[name], overrides, o.transactions); err != nil {
				found[i].fail(err)
			}
			return nil
		})
	}
	// The goroutines return no errors: each is its host's own.
	_ = group.Wait()
	if o.evaluate {
		return found, compare(ctx, op, found)
	}
	return found, nil
}

func (s *hostStatus) fail(err error) {
	if s.Error == "" {
		s.Error, s.Hints = err.Error(), cli.Hints(err)
		var unreachable *transport.UnreachableError
		s.silent = errors.As(err, &unreachable)
	}
}

// ask connects to the host and takes down what it says.
func (s *hostStatus) ask(ctx context.Context, c *push.Connector, h plan.Host, overrides deploy.Overrides, all bool) (err error) {
	spec, err := deploy.Spec(s.Host, h, overrides)
	if err != nil {
		return err
	}
	session, err := c.Connect(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	info := session.Info()
	s.Reachable = true
	s.Current, s.Profile, s.BootDefault, s.Generation = info.Current, info.Profile, info.BootDefault, info.Generation
	s.NixVersion, s.Lock = info.NixVersion, info.Lock
	if open := info.Open; open != nil {
		s.Open = &openTransaction{lastTransaction: transactionOf(*open), Toplevel: open.Toplevel, DeadlineSeconds: open.DeadlineSeconds, Trouble: open.Trouble}
	}
	if all {
		list, err := session.Transactions(ctx)
		if err != nil {
			return err
		}
		for _, one := range list {
			s.Transactions = append(s.Transactions, transactionOf(one))
		}
	}
	last, err := session.Status(ctx, "")
	var answer *push.AgentError
	switch {
	case errors.As(err, &answer) && answer.Code == proto.CodeNotFound:
		return nil
	case err != nil:
		return err
	}
	newest := transactionOf(last)
	s.Last = &newest
	return nil
}

// compare evaluates the hosts and says which of them are as the flake says.
func compare(ctx context.Context, op *operation, found []hostStatus) error {
	byName := map[string]*hostStatus{}
	names := make([]string, len(found))
	for i := range found {
		names[i] = found[i].Host
		byName[found[i].Host] = &found[i]
	}
	var mu sync.Mutex
	return op.backend.Records(ctx, op.snapshot, op.plan, names, func(r evaluator.RecordResult) {
		mu.Lock()
		defer mu.Unlock()
		s := byName[r.Host]
		switch {
		case r.Err != nil:
			s.fail(r.Err)
		case r.MissingSecrets() != nil:
			s.fail(r.MissingSecrets())
		case r.Record.System != nil:
			s.Toplevel = r.Record.System.OutPath
			if s.Reachable {
				matches := deploy.Matches(op.plan.Hosts[r.Host], s.Toplevel, specialisation, proto.HostInfo{Current: s.Current, Profile: s.Profile, BootDefault: s.BootDefault})
				s.Matches = &matches
			}
		}
	})
}

// writeStatus prints a table, and what is wrong below it.
func writeStatus(w io.Writer, found []hostStatus, evaluated bool) error {
	table := ui.Table{Header: []string{"HOST", "STATE", "GENERATION", "RUNS", "BOOTS", "LAST ACTIVATION"}}
	if evaluated {
		table.Header = append(table.Header, "FLAKE")
	}
	for _, s := range found {
		row := []ui.Cell{{Text: s.Host}, {Text: s.state()}, {Text: number(s.Generation)}, {Text: short(s.Current)}, {Text: s.boots()}, {Text: s.last()}}
		if evaluated {
			row = append(row, ui.Cell{Text: s.matches()})
		}
		table.Rows = append(table.Rows, row)
	}
	var b strings.Builder
	b.WriteString(table.String())
	for _, s := range found {
		s.writeOpen(&b)
		s.writeTransactions(&b)
		if s.Error != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", text.Line(s.Host), strings.TrimSpace(text.Clean(s.Error)))
			for _, hint := range s.Hints {
				fmt.Fprintf(&b, "  hint: %s\n", text.Line(hint))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *hostStatus) state() string {
	switch {
	case !s.Reachable && s.silent:
		return "unreachable"
	case !s.Reachable:
		return "no session" // it answered, or we never asked: the error says which
	case s.Open != nil && s.Open.State == proto.TxnRollbackFailed:
		return "ROLLBACK FAILED"
	case s.Open != nil && s.Open.State == proto.TxnStaged:
		return "up, a boot is staged"
	case s.Open != nil:
		return fmt.Sprintf("%s by %s", s.Open.State, s.Open.Owner)
	case s.Lock != nil:
		return "locked by " + s.Lock.Owner
	}
	return "up"
}

// boots is what the next boot brings, as a person wants to know it: the same, or something else.
func (s *hostStatus) boots() string {
	switch {
	case s.BootDefault == "":
		return "-"
	case s.BootDefault == s.Current:
		return "the same"
	}
	return short(s.BootDefault)
}

func (s *hostStatus) last() string {
	if s.Last == nil {
		return "-"
	}
	return fmt.Sprintf("%s %s by %s", s.Last.Action, s.Last.State, s.Last.Owner) + at(s.Last.Since)
}

// at is a time of a host for people, with a word before it; empty where it is none.
func at(since string) string {
	t, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return ""
	}
	return " at " + t.Local().Format("2006-01-02 15:04")
}

func (s *hostStatus) matches() string {
	switch {
	case s.Matches == nil:
		return "-"
	case *s.Matches:
		return "matches"
	}
	return "differs: " + short(s.Toplevel)
}

// short is a store path as a person tells it from others: the start of its hash, and its name.
func short(path string) string {
	base := strings.TrimPrefix(path, "/nix/store/")
	if hash, name, ok := strings.Cut(base, "-"); ok && len(hash) == 32 {
		return hash[:7] + "…-" + name
	}
	if base == "" {
		return "-"
	}
	return base
}

func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
