package proto

import "sync"

// backlog holds what was received of a stream and not read: frames' payloads as they came, one behind the other. What it holds is in no more than
// twice as much memory, and one frame. It is not safe for concurrent use; the zero value is empty.
type backlog struct {
	// pieces are what was received, the first one from begin on. Each has room for a frame, and goes back to spare once it was read.
	pieces [][]byte
	begin  int
	size   int
	spare  *spareFrames
}

// add takes a payload. Where it keeps the memory that the payload lies in, it returns true.
func (b *backlog) add(payload []byte) (kept bool) {
	b.size += len(payload)
	if last := len(b.pieces) - 1; last >= 0 && cap(b.pieces[last])-len(b.pieces[last]) >= len(payload) {
		b.pieces[last] = append(b.pieces[last], payload...)
		return false
	}
	b.pieces = append(b.pieces, payload)
	return true
}

// read moves the oldest bytes to p, as many as there are and have room.
func (b *backlog) read(p []byte) int {
	n := 0
	for n < len(p) && b.size > 0 {
		moved := copy(p[n:], b.pieces[0][b.begin:])
		n, b.begin, b.size = n+moved, b.begin+moved, b.size-moved
		if b.begin == len(b.pieces[0]) {
			b.spare.put(b.pieces[0])
			b.pieces, b.begin = b.pieces[1:], 0
		}
	}
	return n
}

// drop forgets all.
func (b *backlog) drop() { *b = backlog{spare: b.spare} }

// spareFrames keeps memory for frames of a connection, since memory that is new has to be cleared first. It is safe for concurrent use.
type spareFrames struct{ pool sync.Pool }

// get returns memory for the largest frame, of any contents.
func (s *spareFrames) get() []byte {
	if piece, ok := s.pool.Get().(*[MaxFrame]byte); ok {
		return piece[:]
	}
	return make([]byte, MaxFrame)
}

// put takes back what get returned. Other memory is not kept.
func (s *spareFrames) put(piece []byte) {
	if cap(piece) == MaxFrame {
		s.pool.Put((*[MaxFrame]byte)(piece[:MaxFrame]))
	}
}
