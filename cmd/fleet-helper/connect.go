package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/deploy"
	"fleet/push/hostkeys"
	"fleet/push/transport"
)

// hostOptions say how hosts are reached.
type hostOptions struct {
	acceptNewHostKeys bool
	sshConfig         string
	transport         string
	parallel          int
}

func (o *hostOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.acceptNewHostKeys, "accept-new-host-keys", false, "accept and pin the key of a host that none is known of; a changed key is never accepted")
	flags.StringVar(&o.sshConfig, "ssh-config", "", "ssh_config `FILE` to use in place of your own and the system's")
	flags.StringVar(&o.transport, "transport", "", "use `TRANSPORT`, native or openssh, for all hosts in place of their deploy.transport")
	flags.IntVar(&o.parallel, "parallel", 0, "work on at most `N` hosts at a time; 0 means 32")
}

func (o *hostOptions) validate() error {
	switch {
	case o.transport != "" && o.transport != "native" && o.transport != "openssh":
		return cli.Usagef("--transport %q: want native or openssh", o.transport)
	case o.parallel < 0:
		return cli.Usagef("--parallel cannot be negative")
	}
	return nil
}

// limit is how many hosts are asked at a time.
func (o *hostOptions) limit() int {
	if o.parallel > 0 {
		return o.parallel
	}
	return 32
}

// connector opens sessions with the hosts of an operation, and pins keys that known_hosts vouched for.
type connector struct {
	*push.Connector
	op    *operation
	store *closure.LocalStore
}

// Close ends the connections to the store and forgets passwords.
func (c *connector) Close() error { return errors.Join(c.Connector.Close(), c.store.Close()) }

// newConnector wires the transports. Close it.
func (op *operation) newConnector(o *hostOptions) (*connector, error) {
	if o.acceptNewHostKeys && op.state == nil {
		return nil, cli.WithHint(errors.New("--accept-new-host-keys: there is no work tree to pin keys in"), "run it in the folder of the flake, or set deploy.hostKeys")
	}
	store := closure.NewLocalStore(closure.LocalOptions{})
	c := &connector{op: op, store: store, Connector: &push.Connector{
		Helper: op.helper(), Source: store, Store: store, Import: closure.ImportOptions{SkipSignatures: true}, SharePassword: true, Reporter: op.reporter, Software: "fleet " + op.env.Version,
	}}
	var prompt func(context.Context, string) ([]byte, error)
	if op.canAsk() {
		prompt = op.prompter.Password
	}
	c.Password = prompt
	c.Dialers = newDialers(o, prompt, c.record, op.banner)
	return c, nil
}

// canAsk says whether there is a terminal to ask on.
func (op *operation) canAsk() bool {
	if op.env.OpenTTY == nil {
		return false
	}
	tty, err := op.env.OpenTTY()
	if err != nil {
		return false
	}
	return tty.Close() == nil
}

// helper builds or fetches the helper of each system once, however many hosts ask for it.
func (op *operation) helper() func(context.Context, string) (storepath.Path, error) {
	type answer struct {
		once sync.Once
		path storepath.Path
		err  error
	}
	var mu sync.Mutex
	answers := map[string]*answer{}
	return func(ctx context.Context, system string) (storepath.Path, error) {
		mu.Lock()
		a, ok := answers[system]
		if !ok {
			a = &answer{}
			answers[system] = a
		}
		mu.Unlock()
		a.once.Do(func() { a.path, a.err = op.backend.Helper(ctx, op.snapshot, op.plan, system) })
		return a.path, a.err
	}
}

// banner shows what a server says before the login.
func (op *operation) banner(host, text string) {
	op.reporter.Emit(plan.Event{Time: time.Now(), Host: host, Step: plan.StepConnect, Kind: plan.EventLog, Message: text})
}

// Connect opens a session.
func (c *connector) Connect(ctx context.Context, spec push.HostSpec) (deploy.Session, error) {
	session, err := c.Connector.Connect(ctx, spec)
	if err != nil {
		return nil, err
	}
	key, provenance := session.HostKey()
	c.pin(spec.Target.Host, key, provenance)
	return deploy.Wrap(session), nil
}

// Plain opens a way to push without the helper.
func (c *connector) Plain(ctx context.Context, spec push.HostSpec, cause error) (deploy.Pusher, error) {
	plain, err := c.Connector.Plain(ctx, spec, cause)
	if err != nil {
		return nil, err
	}
	key, provenance := plain.HostKey()
	c.pin(spec.Target.Host, key, provenance)
	return plain, nil
}

// pin pins a key that known_hosts vouches for.
func (c *connector) pin(host, key string, provenance transport.Provenance) {
	if provenance != transport.ProvenanceKnownHosts || key == "" {
		return
	}
	if err := c.record(host, "", key, provenance); err != nil {
		c.warn(host, err)
	}
}

// record pins a host key. It is the transports' RecordHostKey too: a key that was accepted and cannot be pinned ends the connection.
func (c *connector) record(host, _, key string, provenance transport.Provenance) error {
	if c.op.state == nil {
		return nil // known_hosts goes on to vouch for it
	}
	verified := hostkeys.Accepted
	if provenance == transport.ProvenanceKnownHosts {
		verified = hostkeys.KnownHosts
	}
	err := c.op.state.Record(context.Background(), host, key, verified, time.Now())
	var untracked *hostkeys.UntrackedError
	if errors.As(err, &untracked) {
		c.warn(host, err)
		return nil
	}
	if err == nil && verified == hostkeys.Accepted {
		fingerprint, _ := hostkeys.Fingerprint(key) // Record has parsed it
		c.warn(host, fmt.Errorf("accepted the new host key %s and pinned it in %s: compare it with the host's own, and commit the file", fingerprint, c.op.state.Path(host)))
	}
	return err
}

func (c *connector) warn(host string, err error) {
	event := plan.Event{Time: time.Now(), Host: host, Step: plan.StepConnect, Kind: plan.EventWarning, Message: err.Error()}
	if hints := cli.Hints(err); len(hints) > 0 {
		event.Hint = hints[0]
	}
	c.op.reporter.Emit(event)
}
