package proto

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestABacklogReturnsWhatItWasGiven adds and reads pieces of all sizes, as a frame reader adds them: in memory that it uses again unless it was kept.
func TestABacklogReturnsWhatItWasGiven(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	b := backlog{spare: new(spareFrames)}
	frames := frameReader{spare: b.spare}
	var want, got []byte
	for range 5000 {
		if random.IntN(2) == 0 && b.size < Window {
			size := 1 + random.IntN(1<<random.IntN(18))
			size = min(size, MaxFrame)
			if cap(frames.buf) < size {
				frames.buf = frames.room(uint32(size))
			}
			payload := frames.buf[:size]
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			want = append(want, payload...)
			if b.add(payload) {
				frames.keep()
			}
			continue
		}
		piece := make([]byte, random.IntN(1<<random.IntN(20)))
		n := b.read(piece)
		if n < len(piece) && b.size > 0 {
			t.Fatalf("read %d of %d bytes, and %d are left", n, len(piece), b.size)
		}
		got = append(got, piece[:n]...)
	}
	rest := make([]byte, b.size)
	b.read(rest)
	if got = append(got, rest...); !bytes.Equal(got, want) || b.size != 0 || len(b.pieces) != 0 {
		t.Errorf("read %d bytes of %d, they are the same: %t; %d pieces are left", len(got), len(want), bytes.Equal(got, want), len(b.pieces))
	}
}

// TestABacklogOfSmallFramesTakesLittleMemory sends what a peer sends that wants to fill our memory: frames that are just too large for the rest of a piece,
// and tiny ones.
func TestABacklogOfSmallFramesTakesLittleMemory(t *testing.T) {
	for _, size := range []int{1, 100, 2049, MaxFrame/2 + 1} {
		b := backlog{spare: new(spareFrames)}
		frames := frameReader{spare: b.spare}
		// The memory is that of the largest frame, whatever comes next.
		frames.buf = frames.room(MaxFrame)
		for b.size+size <= Window {
			if cap(frames.buf) < size {
				frames.buf = frames.room(uint32(size))
			}
			if b.add(frames.buf[:size]) {
				frames.keep()
			}
		}
		memory := 0
		for _, piece := range b.pieces {
			memory += cap(piece)
		}
		if memory > 2*Window+MaxFrame {
			t.Errorf("frames of %d bytes: %d bytes are held in %d", size, b.size, memory)
		}
	}
}
