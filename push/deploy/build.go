package deploy

import (
	"errors"
	"fmt"

	"fleet/closure/storepath"
	"fleet/evaluator"
	"fleet/push"
)

// RemoteBuildError says that a build on a host of the fleet failed.
type RemoteBuildError struct {
	// On is the host that built.
	On string
	// Reason is what its Nix said.
	Reason string
	// Log has the end of the failed builds' output.
	Log *evaluator.BuildError
}

func (e *RemoteBuildError) Error() string {
	if len(e.Log.Summary) == 0 && len(e.Log.LogTail) == 0 {
		return fmt.Sprintf("build host %q on %q: %s", e.Log.Host, e.On, e.Reason)
	}
	return fmt.Sprintf("on %q: %v", e.On, e.Log)
}

// Hint is the command that prints the build's log.
func (e *RemoteBuildError) Hint() string {
	return fmt.Sprintf("for the log run on %s: nix-store --read-log %s", e.On, e.Log.Drv)
}

// place is where the toplevel is built. One without a derivation has been built: it comes from this machine's store.
func (h *hostRun) place() string {
	if h.system.DrvPath == "" {
		return buildOnOperator
	}
	return buildPlace(h.name, h.host)
}

// build makes the toplevel where the plan says.
func (h *hostRun) build() error {
	place := h.place()
	if place == buildOnOperator {
		return h.buildHere()
	}
	if err := h.acquire(h.builds); err != nil {
		return err
	}
	defer func() { <-h.builds }()
	if place == buildOnTarget && h.session == nil {
		return h.needsHelper("building there", h.unable)
	}
	if place == buildOnTarget {
		return h.buildOn(h.name, h.session)
	}
	builder, err := h.sessions.get(h.work, place)
	if err != nil {
		return fmt.Errorf("build on %q: %w", place, err)
	}
	if err := h.buildOn(place, builder); err != nil {
		return err
	}
	if err := builder.Fetch(h.work, []storepath.Path{h.toplevel}); err != nil {
		return fmt.Errorf("fetch the build from %q: %w", place, err)
	}
	return h.buildHere()
}

// buildHere realises the toplevel on this machine, as many at a time as the backend allows; for one that was fetched, that is only the GC root.
func (h *hostRun) buildHere() error {
	return h.Backend.Build(h.work, evaluator.BuildRequest{Fleet: h.Plan.Fleet, Host: h.name, System: h.system})
}

// buildOn realises the toplevel on a host.
func (h *hostRun) buildOn(place string, builder Session) error {
	drv, err := storepath.Parse(h.system.DrvPath)
	if err != nil {
		return fmt.Errorf("build %q: %w", h.name, err)
	}
	log := &evaluator.BuildLog{Emit: h.emit}
	out, err := builder.Build(h.work, push.BuildRequest{
		Drv: drv, Out: h.toplevel, Substitute: h.substitute(h.Plan.Hosts[place]), Signer: h.request.Signer,
		Log: func(line string) {
			// A BuildLog's Write never fails.
			_, _ = log.Write([]byte(line + "\n"))
		},
	})
	log.Close()
	var failed *push.BuildError
	switch {
	case errors.As(err, &failed):
		return &RemoteBuildError{On: place, Reason: failed.Reason, Log: log.Failure(h.name, h.system.DrvPath)}
	case err != nil:
		return err
	case out != h.toplevel:
		return fmt.Errorf("build %q: evaluation promised %q, %q made %q", h.name, h.toplevel, place, out)
	}
	return nil
}
