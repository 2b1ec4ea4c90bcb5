// Package buffer keeps memory for NARs and units to come, since memory that is new has to be cleared first.
package buffer

import (
	"math/bits"
	"sync"
)

// smallest is the exponent of the size of the smallest buffer.
const smallest = 12

// Pool keeps buffers, whose sizes are powers of two; the garbage collector takes those that nobody uses. The zero value is empty. It is safe for concurrent use.
type Pool struct {
	pools [64]sync.Pool
}

// Size is how much memory a buffer for size bytes has, in bytes.
func Size(size uint64) int64 { return 1 << exponent(size) }

// exponent is that of the smallest buffer for size bytes.
func exponent(size uint64) int { return max(bits.Len64(max(size, 1)-1), smallest) }

// Get returns size bytes of any contents.
func (p *Pool) Get(size uint64) []byte {
	e := exponent(size)
	if data, ok := p.pools[e].Get().(*[]byte); ok {
		return (*data)[:size]
	}
	return make([]byte, size, 1<<e)
}

// Put takes back what Get returned, or the beginning of it.
func (p *Pool) Put(data []byte) { p.pools[exponent(uint64(cap(data)))].Put(&data) }
