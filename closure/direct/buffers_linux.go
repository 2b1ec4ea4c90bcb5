package direct

import (
	"math/bits"
	"sync"
)

// smallestBuffer is the exponent of the size of the smallest buffer.
const smallestBuffer = 12

// buffers are kept for NARs to come, since memory that is new has to be cleared first. Their sizes are powers of two.
type buffers struct {
	pools [64]sync.Pool
}

// exponent is that of the smallest buffer for size bytes.
func exponent(size uint64) int { return max(bits.Len64(max(size, 1)-1), smallestBuffer) }

// get returns size bytes of any contents.
func (b *buffers) get(size uint64) []byte {
	e := exponent(size)
	if data, ok := b.pools[e].Get().(*[]byte); ok {
		return (*data)[:size]
	}
	return make([]byte, size, 1<<e)
}

// put takes back what get returned, or the beginning of it.
func (b *buffers) put(data []byte) { b.pools[exponent(uint64(cap(data)))].Put(&data) }
