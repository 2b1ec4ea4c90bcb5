package push

import (
	"fmt"
	"sync"
	"time"

	"fleet/closure"
	"fleet/push/proto"
)

const (
	// maxUnderWay bounds the units that were sent and that the host has not received, in bytes.
	maxUnderWay = 64 << 20
	// aheadTime is for how long a link has enough to do with what is made ahead.
	aheadTime = time.Second
)

// shipment is a cargo on its way to a host, over one connection after the other. Of a unit it keeps the size alone: one that has to be sent again is made
// again, where nobody has kept it. It is safe for concurrent use.
type shipment struct {
	id    string
	agent agentRef
	cargo *cargo
	// level is the order of a unit without the unit.
	level order
	shop  *workshop
	lane  *lane
	// head has the first units until they are ordered.
	head *headStart
	// warm reads ahead of the attempt.
	warm aheadRun

	mu   sync.Mutex
	cond *sync.Cond
	// attempt counts connections. acked is how many paths the host has reported in all of them.
	attempt, acked int
	pending        map[string]closure.PathInfo
	// next is the unit that is handed out next, received how many the host has received; sizes are those of the units in between, underWay their sum.
	next, received int
	sizes          map[int]int64
	underWay       int64
	// ahead are the units from next on that are ordered. unitSize is what they have come to lately, in bytes.
	ahead    []*work
	unitSize float64
	link     linkMeter
	// rtt is the connection's round trip, 0 where it is not known.
	rtt time.Duration
	// nars is the size of all NARs that the received units describe.
	nars uint64
	// stopped is why nothing is handed out any more.
	stopped error
}

func newShipment(c *cargo, agent agentRef, head *headStart) *shipment {
	s := &shipment{id: randomName(""), agent: agent, cargo: c, head: head, pending: make(map[string]closure.PathInfo, len(c.infos)), sizes: make(map[int]int64)}
	s.cond = sync.NewCond(&s.mu)
	for _, info := range c.infos {
		s.pending[info.Path.String()] = info
	}
	return s
}

// begin opens the next attempt, with a lane of its own in the workshop, over a connection with that round trip.
func (s *shipment) begin(shop *workshop, trip time.Duration) proto.ImportRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempt++
	s.rtt = trip
	s.shop, s.lane, s.stopped = shop, shop.enter(), nil
	s.warm = shop.warmUnits(s.cargo.specs, s.received)
	s.link.idle()
	return proto.ImportRequest{Transfer: s.id, Attempt: s.attempt, Acked: s.acked, Paths: uint64(len(s.cargo.infos)), Bytes: s.cargo.bytes}
}

// end gives back what the attempt has ordered.
func (s *shipment) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack()
	s.warm.Close()
	s.shop.leave(s.lane)
}

func (s *shipment) giveBack() {
	for _, job := range s.ahead {
		s.shop.release(job)
	}
	s.ahead = nil
}

// stop ends an attempt: nothing is handed out any more.
func (s *shipment) stop(attempt int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempt == attempt && s.stopped == nil {
		s.stopped = err
	}
	s.cond.Broadcast()
}

// expects takes the number of the unit that the host expects at the beginning of an attempt. Nothing was handed out before, unless it is the first.
func (s *shipment) expects(next uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempt == 1 {
		if next != 0 {
			return fmt.Errorf("it expects unit %d at first", next)
		}
		return nil
	}
	if uint64(next) < uint64(s.received) || uint64(next) > uint64(s.next) {
		return fmt.Errorf("it expects unit %d after it has received %d of %d", next, s.received, s.next)
	}
	s.giveBack()
	s.receive(int(next))
	s.next = int(next)
	clear(s.sizes)
	s.underWay = 0
	return nil
}

// ack takes how many units the host has received.
func (s *shipment) ack(received uint32, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uint64(received) <= uint64(s.received) || uint64(received) > uint64(s.next) {
		return fmt.Errorf("it has received %d units after %d of %d", received, s.received, s.next)
	}
	s.link.received(now, s.receive(int(received)))
	if s.underWay == 0 {
		s.link.idle()
	}
	s.cond.Broadcast()
	return nil
}

// receive notes units as received and returns their size.
func (s *shipment) receive(received int) int64 {
	var size int64
	for ; s.received < received; s.received++ {
		size += s.sizes[s.received]
		delete(s.sizes, s.received)
		s.nars += s.cargo.specs[s.received].NAR()
	}
	s.underWay -= size
	return size
}

// path takes a path that the host has registered.
func (s *shipment) path(name string) (closure.PathInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.pending[name]
	if !ok {
		return closure.PathInfo{}, fmt.Errorf("%q was not sent", oneLine(name))
	}
	delete(s.pending, name)
	s.acked++
	return info, nil
}

// take hands out the next unit, which may still have to be made; false where all were. The caller releases it.
func (s *shipment) take(channels int) (number int, job *work, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.stopped == nil && s.underWay >= maxUnderWay {
		s.cond.Wait()
	}
	if s.stopped != nil || s.next == len(s.cargo.specs) {
		return 0, nil, s.stopped
	}
	if len(s.ahead) == 0 {
		s.orderNext()
	}
	job, s.ahead = s.ahead[0], s.ahead[1:]
	number = s.next
	s.next++
	for len(s.ahead) < s.depth(channels) && s.next+len(s.ahead) < len(s.cargo.specs) {
		s.orderNext()
	}
	s.head.giveBack()
	return number, job, nil
}

func (s *shipment) orderNext() {
	n := s.next + len(s.ahead)
	s.ahead = append(s.ahead, s.shop.order(s.lane, s.shop.choose(s.level, s.cargo, n, s.expectedRate())))
	s.warm.unit(n)
}

// expectedRate is the link's speed in bytes/s, as measured, or as one expects of one with that round trip; 0 where nothing is known. Several hosts begin with the same
// level, which all of them can use.
func (s *shipment) expectedRate() float64 {
	if rate := s.link.rate(); rate > 0 || !s.shop.alone() {
		return rate
	}
	return supposedRate(s.rtt)
}

// depth is how many units are made ahead: enough for all workers on a fast link, and one on a slow link or where memory is short.
func (s *shipment) depth(channels int) int {
	rate := s.link.rate()
	switch {
	case s.shop.crowded():
		return 1
	case rate == 0:
		return s.shop.workers
	case s.unitSize == 0:
		return 1
	}
	return max(1, min(int(rate*aheadTime.Seconds()/s.unitSize), 2*s.shop.workers+channels))
}

// sending notes that a unit of that size is being sent.
func (s *shipment) sending(number, size int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link.begin(now)
	if s.unitSize == 0 {
		s.unitSize = float64(size)
	}
	const memory = 0.2
	s.unitSize += memory * (float64(size) - s.unitSize)
	if number >= s.received {
		s.sizes[number] = int64(size)
		s.underWay += int64(size)
	}
}

// wantsChannels is how many channels it should have that has so many, over a link with a round trip of rtt.
func (s *shipment) wantsChannels(have int, rtt time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cargo.specs)-s.next < 2*have {
		return have
	}
	return wantChannels(s.link.rate(), rtt, have, proto.MaxChannels)
}

// left are the paths that the host has not reported, in order.
func (s *shipment) left() []closure.PathInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []closure.PathInfo
	for _, info := range s.cargo.infos {
		if _, pending := s.pending[info.Path.String()]; pending {
			left = append(left, info)
		}
	}
	return left
}

// moved is how many units the host has received, and the size of their NARs.
func (s *shipment) moved() (units int, nars uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received, s.nars
}
