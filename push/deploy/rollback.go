package deploy

import (
	"fmt"
	"slices"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// NoGenerationError says that a host has no generation to go back to.
type NoGenerationError struct {
	Host string
	// To is the generation that was asked for, 0 for the one before.
	To int
	// Known are those that there are, newest first.
	Known []proto.Generation
}

func (e *NoGenerationError) Error() string {
	if e.To == 0 {
		return fmt.Sprintf("roll back %q: it has no older generation with another system", e.Host)
	}
	return fmt.Sprintf("roll back %q: it has no generation %d", e.Host, e.To)
}

// Hint lists the generations.
func (e *NoGenerationError) Hint() string {
	const shown = 10
	if len(e.Known) == 0 {
		return "it has none at all; deploy to it"
	}
	text := "it has"
	for i, g := range e.Known {
		if i == shown {
			text += fmt.Sprintf(" and %d older ones", len(e.Known)-i)
			break
		}
		text += fmt.Sprintf(" %d", g.Number)
		if g.Current {
			text += " (current)"
		}
	}
	return text
}

// generationFor chooses what a host goes back to: the generation that is asked for, or else the newest one before the profile's that is another
// system. Systems are what counts, since a number may have been given to the same system twice.
func generationFor(host string, to int, info proto.HostInfo, all []proto.Generation) (proto.Generation, error) {
	slices.SortFunc(all, func(a, b proto.Generation) int { return b.Number - a.Number })
	for _, g := range all {
		if to == g.Number || to == 0 && g.Number < info.Generation && g.Toplevel != info.Profile {
			return g, nil
		}
	}
	return proto.Generation{}, &NoGenerationError{Host: host, To: to, Known: all}
}

// rollback switches to an older generation, which is guarded like any switch. Nothing is evaluated, built or pushed.
func (h *hostRun) rollback() error {
	if !h.info.Root {
		h.step = plan.StepActivate
		return &NotRootError{Host: h.name}
	}
	all, err := h.session.Generations(h.work)
	if err != nil {
		return err
	}
	g, err := generationFor(h.name, h.request.To, h.info, all)
	if err != nil {
		h.step = plan.StepActivate
		return err
	}
	h.want, h.plain = target{toplevel: g.Toplevel, activated: g.Toplevel}, true
	if name := h.host.Deploy.Specialisation; name != nil && slices.Contains(g.Specialisations, *name) {
		h.plain, h.want.activated = false, ""
		h.resolveSpecialisation()
	}
	h.report.New = g.Toplevel
	if h.toplevel, err = storepath.Parse(g.Toplevel); err != nil {
		return fmt.Errorf("roll back %q: %w", h.name, err)
	}
	if h.isUnchanged() {
		return h.skip(plan.StepActivate)
	}
	return h.activateStep()
}
