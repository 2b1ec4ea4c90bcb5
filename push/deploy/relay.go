package deploy

import (
	"context"
	"errors"
	"fmt"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push"
)

// maxTakers is how many hosts take from one relay at the same time: it packs what it sends for each of them.
const maxTakers = 4

// relay is a host that others take from. Its channels hold a token for who uses it.
type relay struct {
	// filling is held by who pushes to it: hosts that are to have the same find it there then.
	filling chan struct{}
	// failed is why a push to it did not go well: nobody else waits for the same. Who fills it owns this.
	failed error
	takers chan struct{}
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
			if err := h.acquire(h.relays[name].takers); err != nil {
				return nil, err
			}
			taker = true
			h.emit(plan.Event{Kind: plan.EventProgress, Message: fmt.Sprintf("from %q", name)})
			return session.Offer(ctx, push.OfferRequest{Peer: peer, Paths: paths, Port: h.Plan.Hosts[name].Deploy.RelayPort})
		},
	})
	if taker {
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
	r := h.relays[name]
	if err := h.acquire(r.filling); err != nil {
		return nil, err
	}
	defer func() { <-r.filling }()
	if r.failed != nil {
		return nil, r.failed
	}
	session, err := h.sessions.get(h.work, name)
	if err != nil {
		return nil, err
	}
	h.emit(plan.Event{Kind: plan.EventProgress, Message: fmt.Sprintf("to the relay %q first", name)})
	request.RootName, request.Substitute = "relay-"+h.Plan.Fleet+"-"+h.name, h.substitute(h.Plan.Hosts[name])
	if _, err := session.Push(h.work, request); err != nil {
		r.failed = err
		return nil, err
	}
	return session, nil
}
