package secretsgen_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/step"
)

func (r *rig) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[what]++
}

// ask is what every request to a host begins with.
func (r *rig) ask(ctx context.Context, what, name string) (*host, error) {
	r.count(what + " " + name)
	h := r.hosts[name]
	if h == nil || h.down {
		return nil, fmt.Errorf("dial %s: connection refused", name)
	}
	select {
	case <-time.After(h.slow):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return h, nil
}

func told[T any](h *host, answer T, err error) (T, error) {
	if err == nil && h.lie != nil {
		h.lie(&answer)
	}
	return answer, err
}

// Key implements [secretsgen.Hosts]: a handshake that the pins were checked in.
func (r *rig) Key(ctx context.Context, name string) (string, error) {
	h, err := r.ask(ctx, "key", name)
	if err != nil {
		return "", err
	}
	key := cmp.Or(h.shows, h.key)
	if !slices.Contains(r.pins[name], key) {
		return "", &keyError{key}
	}
	return key, nil
}

type keyError struct{ key string }

func (e *keyError) Error() string        { return "the host key has changed" }
func (e *keyError) PresentedKey() string { return e.key }

// Run implements [secretsgen.Hosts].
func (r *rig) Run(ctx context.Context, name string, request step.Request) (step.Result, error) {
	h, err := r.ask(ctx, "run", name)
	if err != nil {
		return step.Result{}, err
	}
	if h.killed != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		time.AfterFunc(200*time.Millisecond, func() { h.killed(); stop() })
	}
	result, err := step.Run(ctx, request, step.Options{Helper: os.Args[0], Identities: h.identities})
	return told(h, result, err)
}

// Rewrap implements [secretsgen.Hosts].
func (r *rig) Rewrap(ctx context.Context, name string, request seal.RewrapRequest) (seal.RewrapResult, error) {
	h, err := r.ask(ctx, "rewrap", name)
	if err != nil {
		return seal.RewrapResult{}, err
	}
	result, err := seal.RewrapAll(request, h.identities...)
	return told(h, result, err)
}

// Open implements [secretsgen.Hosts].
func (r *rig) Open(ctx context.Context, name string, part seal.Ref) (seal.Opened, error) {
	h, err := r.ask(ctx, "open", name)
	if err != nil {
		return seal.Opened{}, err
	}
	opened, err := part.Open(h.identities...)
	return told(h, opened, err)
}

// Verify implements [secretsgen.Hosts].
func (r *rig) Verify(ctx context.Context, name string, parts []seal.Ref) ([]string, error) {
	h, err := r.ask(ctx, "verify", name)
	if err != nil {
		return nil, err
	}
	return told(h, seal.VerifyAll(parts, h.identities...), nil)
}
