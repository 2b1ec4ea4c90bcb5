package delta

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

const (
	// HashLength is the number of characters of the hash part of a store path.
	HashLength = 32
	// MaxRefs bounds a reference map. The largest closures have some ten thousand paths.
	MaxRefs = 1 << 17

	hashDigits = "0123456789abcdfghijklmnpqrsvwxyz"
	// refsDomain sets the identity of a map apart from other hashes of the same bytes.
	refsDomain = "fleet delta references 1\n"

	// filterBits sizes the filter that spares most look-ups in text, where any 32 letters may be a hash.
	filterBits = 16
	// filterFactor spreads the first 8 characters of a hash: 2^64 divided by the golden ratio, made odd.
	filterFactor = 0x9e3779b97f4a7c15
)

type hashPart [HashLength]byte

// Refs is a reference map: hash parts of store paths as they occur in the base, and those that the target has in
// their places. It is immutable and safe for concurrent use; nil is the empty map.
//
// A base seen through a map is as long as the base. Wherever it holds a key, at any offset, the view holds the value.
// Keys are looked for in the bytes of the base, never in those of a value; where two occurrences overlap,
// the later one wins. So what a piece of the view is depends on the base's bytes up to 31 before and behind it alone.
type Refs struct {
	parts  map[hashPart]hashPart
	id     [8]byte
	filter [1 << filterBits / 64]uint64
}

// NewRefs makes a map of hash parts, 32 characters of Nix's base 32 each. Pairs of equal hashes are left out.
func NewRefs(pairs map[string]string) (*Refs, error) {
	if len(pairs) > MaxRefs {
		return nil, fmt.Errorf("delta: a reference map of %d hashes, more than %d", len(pairs), MaxRefs)
	}
	r := &Refs{parts: make(map[hashPart]hashPart, len(pairs))}
	sum := sha256.New()
	sum.Write([]byte(refsDomain))
	for _, from := range slices.Sorted(maps.Keys(pairs)) {
		to := pairs[from]
		for _, part := range []string{from, to} {
			if !isHashPart(part) {
				return nil, fmt.Errorf("delta: a reference map holds %.40q, which is no hash part of a store path", part)
			}
		}
		if from == to {
			continue
		}
		r.parts[hashPart([]byte(from))] = hashPart([]byte(to))
		r.mark([]byte(from))
		sum.Write([]byte(from + to))
	}
	copy(r.id[:], sum.Sum(nil))
	return r, nil
}

// Len returns the number of hashes that are replaced.
func (r *Refs) Len() int {
	if r == nil {
		return 0
	}
	return len(r.parts)
}

func isHashPart(part string) bool {
	if len(part) != HashLength {
		return false
	}
	for i := range len(part) {
		if !digits[part[i]] {
			return false
		}
	}
	return true
}

// digits holds the characters of Nix's base 32.
var digits = func() (is [256]bool) {
	for i := range len(hashDigits) {
		is[hashDigits[i]] = true
	}
	return is
}()

func (r *Refs) mark(part []byte) {
	slot := filterSlot(part)
	r.filter[slot/64] |= 1 << (slot % 64)
}

func (r *Refs) marked(part []byte) bool {
	slot := filterSlot(part)
	return r.filter[slot/64]&(1<<(slot%64)) != 0
}

func filterSlot(part []byte) uint64 {
	return binary.LittleEndian.Uint64(part) * filterFactor >> (64 - filterBits)
}

// replace puts the view of raw[lead:lead+len(view)] into view, which must hold these bytes already. The
// bytes around them are there to find hashes that reach over the edges.
func (r *Refs) replace(view, raw []byte, lead int) {
	// raw[i:known] is known to be digits.
	i, known := 0, 0
	for i+HashLength <= len(raw) {
		j := i + HashLength - 1
		for j >= known && digits[raw[j]] {
			j--
		}
		if j >= known {
			i, known = j+1, i+HashLength
			continue
		}
		known = i + HashLength
		if r.marked(raw[i:]) {
			if to, ok := r.parts[hashPart(raw[i:])]; ok {
				overwrite(view, to, i-lead)
			}
		}
		i++
	}
}

// overwrite puts the part of a hash that lies inside of view at offset at, which may be negative.
func overwrite(view []byte, hash hashPart, at int) {
	from := hash[:]
	if at < 0 {
		from, at = from[min(-at, len(from)):], 0
	}
	if at < len(view) {
		copy(view[at:], from)
	}
}
