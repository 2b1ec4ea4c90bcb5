package deploy

import (
	"context"
	"errors"
	"fmt"

	"fleet/evaluator"
	"fleet/push"
)

// NeedsHelperError says that the helper cannot run on a host, and that what was asked for needs it there.
type NeedsHelperError struct {
	Host string
	// What needs it, such as "activating a system".
	What string
	// Err is why it cannot run; its own hint counts first.
	Err error
}

func (e *NeedsHelperError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *NeedsHelperError) Unwrap() error { return e.Err }

// Hint adds what is possible without it.
func (e *NeedsHelperError) Hint() string {
	text := fmt.Sprintf("%s needs the helper on %s; a push of what was built elsewhere (deploy push) does without it, where Nix takes paths from the login user", e.What, e.Host)
	var hinted interface{ Hint() string }
	if errors.As(e.Err, &hinted) && hinted.Hint() != "" {
		return hinted.Hint() + "; " + text
	}
	return text
}

// helperUnable says whether a host could not be connected to because the helper cannot run there, or because there is none for its system.
func helperUnable(err error) bool {
	_, none := errors.AsType[*evaluator.HelperError](err)
	return none || push.HelperUnable(err)
}

// withoutHelper opens a way to push where the helper cannot run, if the host is asked for no more. err is why it cannot.
func (h *hostRun) withoutHelper(err error) error {
	switch {
	case !helperUnable(err):
		return err
	case h.request.Action == ActionBuild:
		return h.needsHelper("building there", err)
	case h.request.Action != ActionPush:
		return h.needsHelper("activating a system", err)
	}
	h.unable = err
	h.pusher, err = h.openPlain(h.work, h.name, err)
	return err
}

func (h *hostRun) needsHelper(what string, err error) error {
	return &NeedsHelperError{Host: h.name, What: what, Err: err}
}

// openPlain opens a way to push with the plan's and the request's settings.
func (r *deployment) openPlain(ctx context.Context, host string, cause error) (Pusher, error) {
	connector, spec := r.Connector, func() (push.HostSpec, error) { return Spec(host, r.Plan.Hosts[host], r.request.Overrides) }
	if r.Hosts != nil {
		connector, spec = r.Hosts.opts.Connector, func() (push.HostSpec, error) { return r.Hosts.spec(host) }
	}
	how, err := spec()
	if err != nil {
		return nil, err
	}
	return connector.Plain(ctx, how, cause)
}
