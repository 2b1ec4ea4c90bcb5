package push

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// relayFrom is from how much on a host takes what it lacks from its relay, in bytes of NARs. Less is sent sooner than the relay is asked.
const relayFrom = 1 << 20

// OfferRequest asks a host, the relay, to let another host take paths from it, once.
type OfferRequest struct {
	// Peer is the hash of the key that the other host has made for this.
	Peer string
	// Paths are valid on the relay. Others cannot be taken.
	Paths []storepath.Path
	// Port is the TCP port that the relay listens on; 0 means any.
	Port int
}

// Offer is a relay that listens for one host. Close it.
type Offer struct {
	// Port is where it listens, Key the hash of the key that it has made for this, and Addresses are the IP addresses that it says it has.
	Port      int
	Key       string
	Addresses []string

	stream *proto.Stream
	// cancel ends the stream's context, and patience is how long Close waits for the relay before.
	cancel   context.CancelFunc
	patience time.Duration
}

// Offer has the host listen for another one, until the offer is closed, or the connection breaks.
func (s *Session) Offer(ctx context.Context, request OfferRequest) (*Offer, error) {
	params := proto.OfferRequest{Port: request.Port, Peer: request.Peer, Paths: baseNames(request.Paths)}
	var offer *Offer
	err := s.resume(ctx, func(ctx context.Context, l *link) (_ bool, err error) {
		offer, err = l.offer(ctx, params)
		return false, err
	})
	return offer, s.answer(proto.MethodOffer, err)
}

func (l *link) offer(ctx context.Context, params proto.OfferRequest) (offer *Offer, err error) {
	ctx, silence, cancel := l.untilSilent(ctx, proto.MethodOffer)
	defer func() {
		if offer == nil {
			cancel(nil)
		}
	}()
	stream, err := l.control.Open(ctx, proto.MethodOffer, params)
	if err != nil {
		return nil, err
	}
	o := &Offer{stream: stream, cancel: func() { cancel(nil) }, patience: l.s.c.Timeouts.withDefaults().Close}
	err = eachLine(stream, maxAck, func(line []byte) error {
		silence.Stop()
		var ready proto.OfferReady
		if err := json.Unmarshal(line, &ready); err != nil {
			return err
		}
		o.Port, o.Key, o.Addresses = ready.Port, ready.Key, cleanAddresses(ready.Addresses)
		return errReady
	})
	switch {
	case errors.Is(err, errReady) && o.usable(params.Port):
		return o, nil
	case err == nil:
		err = stream.Result(nil)
	}
	if isAnswer(err) || isLost(err) || ctx.Err() != nil {
		return nil, err
	}
	return nil, fmt.Errorf("offer paths on %q: the agent does not say where it listens", l.s.spec.Target.Host)
}

// untilSilent is a context that ends with silence: where the agent lets us wait longer than for an answer, unless that timer is stopped, or set anew.
func (l *link) untilSilent(ctx context.Context, method string) (_ context.Context, silence *time.Timer, cancel context.CancelCauseFunc) {
	silent := fmt.Errorf("ask the agent on %q for %s: %w", l.s.spec.Target.Host, method, errTimeout)
	ctx, cancel = context.WithCancelCause(ctx)
	silence = time.AfterFunc(l.s.c.Timeouts.withDefaults().Answer, func() { cancel(silent) })
	context.AfterFunc(ctx, func() { silence.Stop() })
	return ctx, silence, cancel
}

// errReady ends the reading of what comes before the work.
var errReady = errors.New("it is ready")

// usable says whether a relay listens where it was told to.
func (o *Offer) usable(port int) bool {
	sum, err := hex.DecodeString(o.Key)
	return err == nil && len(sum) == 32 && o.Port > 0 && o.Port < 1<<16 && (port == 0 || o.Port == port)
}

// cleanAddresses keeps what may be an address of a relay: what a relay says is where another host will connect to.
func cleanAddresses(texts []string) (addresses []string) {
	for _, text := range texts {
		address, err := netip.ParseAddr(text)
		if err == nil && address.IsGlobalUnicast() && address.Zone() == "" && len(addresses) < proto.MaxRelayAddresses-1 {
			addresses = append(addresses, address.String())
		}
	}
	return addresses
}

// Close ends the offer: nothing listens any more when it returns, unless the relay does not answer.
func (o *Offer) Close() {
	if o.stream == nil {
		return
	}
	defer o.cancel()
	defer time.AfterFunc(o.patience, o.stream.Cancel).Stop()
	if o.stream.CloseWrite() == nil {
		_ = o.stream.Result(nil) // what went wrong is seen by who takes
	}
}

// onBreak has f called where the offer ends in an error.
func (o *Offer) onBreak(f func(error)) {
	if o.stream == nil {
		return
	}
	go func() { // Close sees to its end
		if err := o.stream.Result(nil); err != nil {
			f(err)
		}
	}()
}

// RelayError says that a host could not take what it lacks from its relay. It can be sent all the same.
type RelayError struct {
	Host, Relay string
	Err         error
}

func (e *RelayError) Error() string {
	reason := e.Err.Error()
	if answer, ok := errors.AsType[*AgentError](e.Err); ok && answer.Method == proto.MethodTake {
		reason = answer.Message // it is the host itself that says it
	}
	return fmt.Sprintf("bring paths to %q by its relay %q: %s", e.Host, e.Relay, reason)
}

// Unwrap gives the cause.
func (e *RelayError) Unwrap() error { return e.Err }

// Hint is the cause's.
func (e *RelayError) Hint() string {
	var hinted interface{ Hint() string }
	if errors.As(e.Err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// TakeRequest asks for the closures of paths to be taken from another host, the relay.
type TakeRequest struct {
	PushRequest
	// Relay is the relay's name, and Address where the host looks for it first, before the addresses of the offer.
	Relay, Address string
	// Offer sees to it that the relay has paths, and offers them to the peer with that key. It is called where the host lacks enough to be worth it.
	Offer func(ctx context.Context, peer string, paths []storepath.Path) (*Offer, error)
}

// Take has the host take from a relay what it lacks. It registers what is as our own store has it, and nothing else, whatever the relay sends. A
// [Session.Push] of the same makes sure of the rest, and is needed in any case. The relay is near, so nothing is fetched from the host's substituters
// before the push. The result counts what was taken. A [*RelayError] says what was wrong
// with the relay or the way to it; other errors are those that the push would meet.
func (s *Session) Take(ctx context.Context, request TakeRequest) (PushResult, error) {
	graph, err := s.c.Source.Closure(ctx, request.Roots...)
	if err != nil {
		return PushResult{}, err
	}
	t := newTransfer(s, request.PushRequest, graph)
	t.request.Substitute = false
	l, err := s.connected(ctx)
	if err != nil {
		return PushResult{}, err
	}
	asked, err := t.survey(ctx)
	if err != nil {
		return PushResult{}, t.explain(err)
	}
	asked, m, rooted, err := t.missing(ctx, l, asked)
	if err != nil || rooted {
		return PushResult{}, t.explain(err)
	}
	missing := asked.cargo(m)
	if err := t.prepare(missing.infos, missing.bytes); err != nil || missing.bytes < relayFrom {
		return PushResult{}, t.explain(err)
	}
	if err := t.take(ctx, l, request, missing.infos); err != nil && ctx.Err() == nil {
		return t.result(), &RelayError{Host: s.spec.Target.Host, Relay: request.Relay, Err: s.answer(proto.MethodTake, err)}
	}
	t.progress.flush()
	return t.result(), context.Cause(ctx)
}

// take has the agent take infos, references first.
func (t *transfer) take(ctx context.Context, l *link, request TakeRequest, infos []closure.PathInfo) error {
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	ctx, silence, cancel := l.untilSilent(ctx, proto.MethodTake)
	defer cancel(nil)
	stream, err := client.Open(ctx, proto.MethodTake, nil)
	if err != nil {
		return err
	}
	k := &taking{t: t, stream: stream, request: request, infos: infos, left: make(map[string]uint64, len(infos)), silence: silence, end: cancel}
	var largest uint64
	for _, info := range infos {
		k.left[info.Path.String()] = info.NarSize
		largest = max(largest, info.NarSize)
	}
	k.patience = l.s.c.Timeouts.withDefaults().Answer + proto.TakeTime(largest)
	defer k.close()
	err = eachLine(stream, maxAck, func(line []byte) error {
		if k.offer == nil {
			return k.begin(ctx, line)
		}
		return k.event(line)
	})
	if err != nil {
		return err
	}
	if err := stream.Result(nil); err != nil {
		return err
	}
	if len(k.left) > 0 {
		return fmt.Errorf("take paths on %q: the agent did not report %d of them", t.s.spec.Target.Host, len(k.left))
	}
	return nil
}

// taking is a take under way.
type taking struct {
	t       *transfer
	stream  *proto.Stream
	request TakeRequest
	infos   []closure.PathInfo
	// left are the sizes of the paths that the host has not reported.
	left map[string]uint64
	// offer is the relay's, nil before there is one.
	offer *Offer
	// silence ends the take where the host reports nothing for patience, which is enough for its largest path; end ends it at once.
	silence  *time.Timer
	patience time.Duration
	end      context.CancelCauseFunc
}

// begin has the relay offer the paths to the key that the host has made, and tells the host where.
func (k *taking) begin(ctx context.Context, line []byte) (err error) {
	var ready proto.TakeReady
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	paths := make([]storepath.Path, len(k.infos))
	for i, info := range k.infos {
		paths[i] = info.Path
	}
	// It is the relay that is waited for now.
	k.silence.Stop()
	if k.offer, err = k.request.Offer(ctx, ready.Key, paths); err != nil {
		return err
	}
	k.silence.Reset(k.patience)
	k.offer.onBreak(func(err error) {
		// The host sees that as well, and may have more to say.
		time.AfterFunc(lastWords, func() { k.end(fmt.Errorf("the relay has ended its offer: %s", oneLine(err.Error()))) })
	})
	from := proto.TakeFrom{Relay: k.request.Relay, Port: k.offer.Port, Key: k.offer.Key, Addresses: []string{k.request.Address}}
	for _, address := range k.offer.Addresses {
		if !slices.Contains(from.Addresses, address) {
			from.Addresses = append(from.Addresses, address)
		}
	}
	if err := proto.WriteTake(k.stream, from, k.wires()); err != nil {
		return err
	}
	return k.stream.CloseWrite()
}

// wires are the infos as they cross, signed where the host wants that.
func (k *taking) wires() []proto.PathInfo {
	signer := k.request.Signer
	if k.t.s.Info().Trusted {
		signer = nil
	}
	wires := make([]proto.PathInfo, len(k.infos))
	for i, info := range k.infos {
		wires[i] = proto.PathInfo{
			Path: info.Path.String(), NarHash: hex.EncodeToString(info.NarHash[:]), NarSize: info.NarSize, References: pathStrings(info.References),
			Deriver: info.Deriver.String(), Signatures: info.Signatures, CA: info.CA,
		}
		if signer != nil {
			// The graph shares its slices with other pushes.
			wires[i].Signatures = append(slices.Clone(info.Signatures), signer.Sign(info))
		}
	}
	return wires
}

// event counts a path that the host has registered.
func (k *taking) event(line []byte) error {
	var event proto.ImportEvent
	if err := json.Unmarshal(line, &event); err != nil {
		return err
	}
	size, known := k.left[event.Path]
	if !known {
		return fmt.Errorf("take paths on %q: the agent reports %q, which it was not to take", k.t.s.spec.Target.Host, oneLine(event.Path))
	}
	delete(k.left, event.Path)
	k.silence.Reset(k.patience)
	k.t.progress.path(size)
	return nil
}

func (k *taking) close() {
	if k.offer != nil {
		k.offer.Close()
	}
}

// baseNames are paths without the store's folder.
func baseNames(paths []storepath.Path) proto.Lines {
	names := make(proto.Lines, len(paths))
	for i, path := range paths {
		names[i] = path.Base()
	}
	return names
}
