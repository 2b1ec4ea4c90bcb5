package agent

import (
	"fmt"
	"maps"
)

const (
	// maxAhead is how many units may come before the one that is expected, and maxHeld how many bytes may wait: what eight channels
	// have under way on a long link, on a host that has not much memory.
	maxAhead = 16
	maxHeld  = 32 << 20
)

// reorder puts units in order that come in some other one, within bounds. The zero value expects unit 0. It decides, and waits for nothing.
type reorder struct {
	// next is the unit that is taken next; size is that of the one that was taken before and is being worked on, 0 where there is none.
	next uint32
	size int
	held map[uint32][]byte
	// coming are the sizes of those that are being read.
	coming map[uint32]int
	// used is the size of all of these, in bytes.
	used int
	// end is how many units there are, once ended is set.
	end   uint32
	ended bool
}

// admit says whether there is room for a unit that is about to be read; where there is none, the answer changes with take, done and withdraw. The
// unit that is waited for has room always, so all come in the end. A unit that cannot be right is an error.
func (r *reorder) admit(number uint32, size int) (bool, error) {
	if err := r.check(number); err != nil {
		return false, err
	}
	wanted := number == r.next && r.size == 0
	if !wanted && (uint64(number) >= uint64(r.next)+maxAhead || r.used+size > maxHeld) {
		return false, nil
	}
	if r.coming == nil {
		r.coming = make(map[uint32]int)
	}
	r.coming[number] = size
	r.used += size
	return true, nil
}

func (r *reorder) check(number uint32) error {
	_, coming := r.coming[number]
	_, held := r.held[number]
	switch {
	case number < r.next || held || coming:
		return fmt.Errorf("unit %d came twice", number)
	case r.ended && number >= r.end:
		return fmt.Errorf("unit %d came, and there should be %d", number, r.end)
	}
	return nil
}

// put keeps a unit that was admitted and read.
func (r *reorder) put(number uint32, unit []byte) {
	if r.held == nil {
		r.held = make(map[uint32][]byte)
	}
	delete(r.coming, number)
	r.held[number] = unit
}

// withdraw forgets a unit that was admitted and could not be read.
func (r *reorder) withdraw(number uint32) {
	r.used -= r.coming[number]
	delete(r.coming, number)
}

// take returns the next unit, where it is there. It counts until done is called.
func (r *reorder) take() ([]byte, bool) {
	unit, ok := r.held[r.next]
	if !ok {
		return nil, false
	}
	delete(r.held, r.next)
	r.next++
	r.size = len(unit)
	return unit, true
}

// done says that nobody needs the unit any more that was taken last.
func (r *reorder) done() {
	r.used -= r.size
	r.size = 0
}

// received is how many units have come without a gap.
func (r *reorder) received() uint32 {
	number := r.next
	for r.held[number] != nil {
		number++
	}
	return number
}

// restart forgets what has come behind a gap, or not whole, and returns the number of the unit that should come next.
func (r *reorder) restart() uint32 {
	for number := range r.coming {
		r.withdraw(number)
	}
	next := r.received()
	maps.DeleteFunc(r.held, func(number uint32, unit []byte) bool {
		if number >= next {
			r.used -= len(unit)
		}
		return number >= next
	})
	return next
}

// finish says how many units there are.
func (r *reorder) finish(units uint32) error {
	if r.ended && units != r.end {
		return fmt.Errorf("there should be %d units, and %d before", units, r.end)
	}
	beyond := units < r.next
	for number := range r.held {
		beyond = beyond || number >= units
	}
	for number := range r.coming {
		beyond = beyond || number >= units
	}
	if beyond {
		return fmt.Errorf("there should be %d units, and more have come", units)
	}
	r.end, r.ended = units, true
	return nil
}

// complete says whether the last unit was taken.
func (r *reorder) complete() bool { return r.ended && r.next == r.end }
