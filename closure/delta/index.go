package delta

import (
	"encoding/binary"
	"math/bits"
)

const (
	// gram is how many bytes the index looks for at once. Longer ones find less in files that differ a lot, shorter ones
	// mostly what only looks like a match.
	gram = 16
	// stride is the distance of the positions that are indexed: every match of gram+stride-1 bytes is found. The
	// levels that trade time for bytes halve it.
	stride = 8
	// bucket is the number of neighbouring entries that one gram may use: 16 bytes, which share a cache line.
	bucket = 4
	// positionBits of an entry are the number of a position, the other 8 a tag that spares comparisons.
	positionBits = 24
	maxPositions = 1<<positionBits - 1
	// entrySize is 4 bytes, and 8 bits of the filter.
	entrySize = 5
)

// index finds places of a base by the next gram of bytes. It holds every stride-th position.
//
// Its size is 5 bytes an entry, and 1.5 to 3 entries a position: 1 to 2 bytes a byte of the base at a stride of 8, until
// the limit is reached and the stride doubles.
type index struct {
	stride  int64
	entries []uint32
	// filter has a bit for each eighth of an entry: most grams that the base does not have are refused by one look at
	// a table that is a quarter as large.
	filter []uint64
	shift  uint
	built  bool
}

// build indexes the base in at most limit bytes, and with that stride if they suffice.
func (x *index) build(base *pages, stride, limit int64) {
	x.built = true
	x.stride = stride
	for {
		count := base.size/x.stride + 1
		slots := max(64, count+count/2)
		x.shift = uint(64 - bits.Len64(uint64(slots-1)))
		if count <= maxPositions && int64(entrySize)<<(64-x.shift) <= limit {
			break
		}
		x.stride *= 2
	}
	size := 1 << (64 - x.shift)
	if cap(x.entries) < size {
		x.entries, x.filter = make([]uint32, size), make([]uint64, size/8)
	}
	x.entries, x.filter = x.entries[:size], x.filter[:size/8]
	clear(x.entries)
	clear(x.filter)
	for off := int64(0); off+gram <= base.size; off += max(pageSize, x.stride) {
		page := base.at(off)
		for i := int64(0); i+gram <= int64(len(page)); i += x.stride {
			x.insert(page[i:], (off+i)/x.stride)
		}
	}
}

func (x *index) insert(data []byte, position int64) {
	hash, ok := gramHash(data)
	if !ok {
		return
	}
	at, tag := x.place(hash)
	for i := range x.entries[at : at+bucket] {
		entry := &x.entries[at+uint64(i)]
		if *entry == 0 {
			*entry = uint32(position+1)<<8 | tag
			bit := hash >> (x.shift - 3)
			x.filter[bit/64] |= 1 << (bit % 64)
			return
		}
	}
}

// has says whether the index may know a gram.
func (x *index) has(hash uint64) bool {
	bit := hash >> (x.shift - 3)
	return x.filter[bit/64]&(1<<(bit%64)) != 0
}

// place returns the first entry of a gram's bucket, and its tag.
func (x *index) place(hash uint64) (at uint64, tag uint32) {
	return hash >> x.shift &^ (bucket - 1), uint32(hash & 0xff)
}

// gramHash returns the hash of the first gram bytes of data. It refuses a run of one byte: files are full of them,
// and a longer match always shows beside it.
func gramHash(data []byte) (uint64, bool) {
	_ = data[gram-1]
	a := binary.LittleEndian.Uint64(data)
	b := binary.LittleEndian.Uint64(data[8:])
	if a == b && a == bits.RotateLeft64(a, 8) {
		return 0, false
	}
	h := a*mixA ^ bits.RotateLeft64(b*mixB, 23)
	h ^= h >> 29
	h *= mixB
	return h ^ h>>32, true
}

// Odd numbers without a pattern in their bits: 2^64 divided by the golden ratio, and the square root of 2.
const (
	mixA = 0x9e3779b97f4a7c15
	mixB = 0xb504f333f9de6485
)
