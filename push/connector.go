// Package push is the operator's side of a deployment to one host: it connects, makes the helper run
// there as an agent, and then transfers closures, builds and activates through it.
//
// A [Session] outlives its SSH connections. What is interrupted by a broken connection goes on over a new one, to
// the same agent where it still lives. Nothing waits without a bound, but for people at a prompt and for
// activations and builds that are under way.
//
// What a host says is not trusted: its answers are parsed strictly and bounded, what it prints is stripped of control
// characters before it reaches an error or an event, and it never gets a password except after a prompt that we chose
// or, where a terminal is needed for that, after one that ends its output. Passwords are never in an argument or an
// environment.
package push

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/transport"
)

// Reporter receives what happens during a step: progress, log lines and warnings. The beginning and the
// end of steps are the caller's to report. It is called from several goroutines and must not block for long.
type Reporter interface {
	Emit(plan.Event)
}

// Timeouts bound the parts of a connection's setup. The zero value of a field means its default.
type Timeouts struct {
	// Dial bounds connecting and authenticating, where a person may be asked for a passphrase; default 60 s.
	Dial time.Duration
	// Probe bounds the look at the host, and with it the opening of the first channel; default 60 s.
	Probe time.Duration
	// Upload bounds sending the helper; default 5 minutes.
	Upload time.Duration
	// Elevate bounds each wait for the elevating program, people's typing excepted; default 60 s.
	Elevate time.Duration
	// Start bounds importing the helper and starting the agent; default 3 minutes.
	Start time.Duration
	// Attach bounds opening a channel to the agent; default 30 s.
	Attach time.Duration
	// Answer bounds the agent's answer to a question that is no work; default 5 minutes, since a garbage collection may hold up Nix.
	Answer time.Duration
	// Close bounds a polite end; default 5 s.
	Close time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Dial, time.Minute}, {&t.Probe, time.Minute}, {&t.Upload, 5 * time.Minute}, {&t.Elevate, time.Minute},
		{&t.Start, 3 * time.Minute}, {&t.Attach, 30 * time.Second}, {&t.Answer, 5 * time.Minute}, {&t.Close, 5 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return t
}

// Connector opens sessions. Its fields are its configuration and must not change once it is used; it is then
// safe for concurrent use. Call Close when no session needs it any more.
type Connector struct {
	// Dialers by name: "native" and "openssh", as a host's transport says, and "local" for the address "local".
	Dialers map[string]transport.Dialer
	// Helper returns the helper for a target system, valid in the operator's store.
	Helper func(ctx context.Context, system string) (storepath.Path, error)
	// Source is the operator's store.
	Source closure.Source
	// Store and Import say where [Session.Fetch] brings paths to; a nil Store is for who fetches nothing. Import's Done is ours.
	Store  Store
	Import closure.ImportOptions
	// Password asks a person, one at a time. The returned bytes are zeroed after use. Nil where nobody can be asked.
	Password func(ctx context.Context, prompt string) ([]byte, error)
	// SharePassword tries a password that one host took on the others, before a person is asked again.
	SharePassword bool
	// Reporter may be nil.
	Reporter Reporter
	// Software names our version to agents, for their messages.
	Software string
	// Level is the zstd level of pushes, 1 to 22; 0 means what fits the link's speed.
	Level int
	// UnitMemory bounds what pushes have made and keep for other hosts, in bytes; 0 means 256 MiB.
	UnitMemory int64
	Retry      Retry
	Timeouts   Timeouts

	vault vault
	// exports holds the helpers' exports, made once for all hosts of a system.
	exports exportCache
	// surveys holds what pushes ask of hosts, shop makes what they send.
	surveys surveys
	// cuts compares what is sent with what only hosts have.
	cuts   cuts
	shopMu sync.Mutex
	shop   *workshop
}

// HostSpec names a host and how it is reached, as the plan says.
type HostSpec struct {
	Target transport.Target
	// Transport is "native" or "openssh"; empty means native. The address "local" overrides it.
	Transport string
	// Elevation is "auto", "none", "sudo", "doas" or "run0"; empty means auto.
	Elevation string
	// System is the Nix system of the host.
	System string
}

// SpecOf derives a host's specification from the plan.
func SpecOf(name string, h plan.Host) HostSpec {
	t := transport.Target{Host: name, Address: h.Deploy.Address, JumpHosts: h.Deploy.JumpHosts, HostKeys: h.Deploy.HostKeys}
	if h.Deploy.Port != nil {
		t.Port = *h.Deploy.Port
	}
	if h.Deploy.User != nil {
		t.User = *h.Deploy.User
	}
	return HostSpec{Target: t, Transport: h.Deploy.Transport, Elevation: h.Deploy.Elevation, System: h.System}
}

// Close forgets the passwords that sessions shared, and what was made for pushes. Sessions stay usable, but for pushes that are under way.
func (c *Connector) Close() error {
	c.vault.forget()
	c.shopMu.Lock()
	defer c.shopMu.Unlock()
	if c.shop != nil {
		c.shop.close()
		c.shop = nil
	}
	return nil
}

// units is the workshop that all sessions share.
func (c *Connector) units() *workshop {
	c.shopMu.Lock()
	defer c.shopMu.Unlock()
	if c.shop == nil {
		limit := c.UnitMemory
		if limit <= 0 {
			limit = defaultUnitMemory
		}
		c.shop = newWorkshop(c.Source, limit)
	}
	return c.shop
}

func (c *Connector) emit(e plan.Event) {
	if c.Reporter != nil {
		e.Time = time.Now()
		c.Reporter.Emit(e)
	}
}

// dialer picks the dialer for a host.
func (c *Connector) dialer(spec HostSpec) (transport.Dialer, error) {
	name := spec.Transport
	switch {
	case spec.Target.Address == "local":
		name = "local"
	case name == "":
		name = "native"
	}
	d, ok := c.Dialers[name]
	if !ok {
		return nil, fmt.Errorf("connect to %q: there is no transport %q", spec.Target.Host, name)
	}
	return d, nil
}

// vault asks for passwords, one prompt at a time, and keeps the one that hosts share.
type vault struct {
	mu     sync.Mutex
	shared []byte
}

func (v *vault) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.shared)
	v.shared = nil
}

// question is what is asked for a password.
type question struct {
	prompt string
	// useShared takes the shared password where there is one; share keeps what a person types as that at once, since the hosts that
	// wait for it would otherwise all ask.
	useShared, share bool
}

// ask returns the shared password and true, or what a person types. The caller zeroes it.
func (v *vault) ask(ctx context.Context, person func(context.Context, string) ([]byte, error), q question) ([]byte, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q.useShared && v.shared != nil {
		return append([]byte(nil), v.shared...), true, nil
	}
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	if person == nil {
		return nil, false, errNobody
	}
	password, err := person(ctx, q.prompt)
	if err != nil {
		return nil, false, err
	}
	if q.share {
		clear(v.shared)
		v.shared = append([]byte(nil), password...)
	}
	return password, false, nil
}
