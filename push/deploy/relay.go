package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/transport"
)

const (
	// maxTakers is how many hosts take from one relay at the same time: it packs what it sends for each of them.
	maxTakers = 4
	// relayPatience is how long a host waits for others to be done with its relay while nothing moves there.
	relayPatience = 10 * time.Minute
	// fillPatience is how long a push to a relay may move nothing: its substituters may be at work, of which nothing is seen here.
	fillPatience = 30 * time.Minute
	// crawl is how much a session carries within these times at least where anything is pushed, in bytes. What keeps it open is far less.
	crawl = 64 << 10
)

// relay is a host that others take from. Its channels hold a token for who uses it.
type relay struct {
	// filling is held by who pushes to it: hosts that are to have the same find it there then, and its own push does not cross theirs. A token of the
	// pushes is taken after it, never before.
	filling chan struct{}
	// failed is why nobody else tries to push to it, and tidy says that it keeps nothing any more for hosts that it does not have. Who fills it owns both.
	failed error
	tidy   bool
	takers chan struct{}
	// served is how many have taken, or tried to.
	served atomic.Uint64
}

// stalledError says that a relay does not get on.
type stalledError struct {
	relay string
	after time.Duration
}

func (e *stalledError) Error() string {
	return fmt.Sprintf("wait for the relay %q: nothing has moved there for %s", e.relay, e.after)
}

// Hint says where to look.
func (e *stalledError) Hint() string {
	return fmt.Sprintf("look at the link, the disk and the substituters of %q", e.relay)
}

// relayOf is the name of a host's relay, empty where it has none or needs none.
func relayOf(h plan.Host) string {
	if h.Deploy.Relay == nil || h.Deploy.Address == addressLocal {
		return ""
	}
	return *h.Deploy.Relay
}

// relays are the relays of the selected hosts.
func relays(p *plan.Plan, selected []string) map[string]*relay {
	found := map[string]*relay{}
	for _, name := range selected {
		if on := relayOf(p.Hosts[name]); on != "" && found[on] == nil {
			found[on] = &relay{filling: make(chan struct{}, 1), takers: make(chan struct{}, maxTakers)}
		}
	}
	return found
}

// takeFromRelay has the host take from its relay what it lacks of a push. A relay is never needed: the push sends what is missing afterwards, whatever has
// come of this.
func (h *hostRun) takeFromRelay(request push.PushRequest) push.PushResult {
	name := relayOf(h.host)
	if name == "" || h.session == nil { // taking needs the helper
		return push.PushResult{}
	}
	taker := false
	result, err := h.session.Take(h.work, push.TakeRequest{
		PushRequest: request, Relay: name, Address: h.Plan.Hosts[name].Deploy.Address,
		Offer: func(ctx context.Context, peer string, paths []storepath.Path) (*push.Offer, error) {
			session, err := h.fillRelay(name, request)
			if err != nil {
				return nil, err
			}
			if err := h.await(name, h.relays[name].takers, serving(h.relays[name])); err != nil {
				return nil, err
			}
			taker = true
			h.emit(plan.Event{Kind: plan.EventProgress, Message: fmt.Sprintf("from %q", name)})
			return session.Offer(ctx, push.OfferRequest{Peer: peer, Paths: paths, Port: h.Plan.Hosts[name].Deploy.RelayPort})
		},
	})
	if taker {
		h.relays[name].served.Add(1)
		<-h.relays[name].takers
	}
	// What else went wrong is not the relay's, so that the push meets it, too.
	if failed, ok := errors.AsType[*push.RelayError](err); ok && h.work.Err() == nil {
		h.emit(plan.Event{Kind: plan.EventWarning, Message: failed.Error() + "; what is missing is sent from here", Hint: failed.Hint()})
	}
	return result
}

// fillRelay sees to it that the relay has what is pushed, and keeps it until the host's next push.
func (h *hostRun) fillRelay(name string, request push.PushRequest) (Session, error) {
	session, err := h.sessions.get(h.work, name)
	if err != nil {
		return nil, err
	}
	r := h.relays[name]
	if err := h.await(name, r.filling, moving(session)); err != nil {
		return nil, err
	}
	defer func() { <-r.filling }()
	if r.failed != nil {
		return nil, r.failed
	}
	h.emit(plan.Event{Kind: plan.EventProgress, Message: fmt.Sprintf("to the relay %q first", name)})
	group := relayRoots(h.Plan)
	request.RootName = group + h.name
	if !r.tidy {
		request.RootGroup, request.RootKeep = group, rootsOn(h.Plan, name)
	}
	request.Substitute = h.substitute(h.Plan.Hosts[name])
	err = h.holding(h.pushes, func() error { return h.fill(name, session, request) })
	if concernsAll(err) {
		r.failed = err
	}
	if err != nil {
		return nil, err
	}
	r.tidy = true
	return session, nil
}

// relayRoots is what the names of the GC roots begin with that keep on relays what hosts of the fleet take from them; the host's name follows. No name of a
// fleet or a host has a colon.
func relayRoots(p *plan.Plan) string { return "relay:" + p.Fleet + ":" }

// rootsOn are the roots that stay on a relay: those of the hosts that the plan has behind it.
func rootsOn(p *plan.Plan, relay string) (names []string) {
	for name, host := range p.Hosts {
		if relayOf(host) == relay {
			names = append(names, relayRoots(p)+name)
		}
	}
	slices.Sort(names)
	return names
}

// fill pushes to the relay, until nothing moves any more.
func (h *hostRun) fill(name string, session Session, request push.PushRequest) error {
	ctx, cancel := context.WithCancelCause(h.work)
	defer cancel(nil)
	stalled := &stalledError{name, fillPatience}
	go func() {
		ticker := time.NewTicker(fillPatience)
		defer ticker.Stop()
		for moved := moving(session); ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if !moved() {
					cancel(stalled)
				}
			}
		}
	}()
	_, err := session.Push(ctx, request)
	if err != nil && context.Cause(ctx) == stalled {
		return stalled
	}
	return err
}

// concernsAll says whether a push to a relay failed for what is the relay's, and so would fail for others, too. What is wrong with the paths of one
// host is not.
func concernsAll(err error) bool {
	_, unreachable := errors.AsType[*transport.UnreachableError](err)
	_, lost := errors.AsType[*push.LostError](err)
	_, full := errors.AsType[*push.StoreFullError](err)
	_, distrusted := errors.AsType[*push.NotTrustedError](err)
	_, stalled := errors.AsType[*stalledError](err)
	return unreachable || lost || full || distrusted || stalled
}

// alone does f while nobody fills the host, where it is a relay.
func (h *hostRun) alone(f func() error) error {
	r := h.relays[h.name]
	if r == nil {
		return f()
	}
	return h.holding(r.filling, f)
}

// await takes a token of a relay, and gives up where nothing has moved for too long; moved says whether something has since it was asked last.
func (h *hostRun) await(name string, tokens chan struct{}, moved func() bool) error {
	ticker := time.NewTicker(relayPatience)
	defer ticker.Stop()
	for {
		select {
		case tokens <- struct{}{}:
			return nil
		case <-h.work.Done():
			return context.Cause(h.work)
		case <-ticker.C:
			if !moved() {
				return &stalledError{name, relayPatience}
			}
		}
	}
}

// moving says whether a session has carried more than what keeps it open since it was asked last.
func moving(session Session) func() bool {
	before := session.Moved()
	return func() bool {
		now := session.Moved()
		enough := now-before >= crawl
		before = now
		return enough
	}
}

// serving says whether a host is done with a relay since it was asked last.
func serving(r *relay) func() bool {
	before := r.served.Load()
	return func() bool {
		now := r.served.Load()
		any := now != before
		before = now
		return any
	}
}
