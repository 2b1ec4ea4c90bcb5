package delta

import "math/bits"

const (
	// minRun is how many equal bytes show that an alignment is right again, without a look into the index.
	minRun = 32
	// maxGap is how many different bytes such a run may follow. A hash of a store path has 32; longer gaps deserve a
	// look into the index.
	maxGap = 64
	// minGain is how many bytes more a new alignment must explain than the current one: what an instruction costs.
	minGain = 6
	// maxBackward is how far a new alignment reaches back. Where many explain the same bytes, as in tables, each would
	// look at all that the ones before it did. Addresses in tables of Go programs differ so densely that a
	// match may come late: with 16 KiB, some patches become a quarter larger.
	maxBackward = 256 << 10
)

// matcher finds out how a target is made from a base, in the manner of bsdiff: it follows an alignment of both
// through small differences, until another one explains the next bytes better.
type matcher struct {
	base  pages
	index index
	// limit is the size of the index, in bytes.
	limit int64
	// stride is that of the index, where its size allows.
	stride int64
	out    *blocks
	// pos is the position in the base that belongs to the first byte of the target that has not been described.
	pos  int64
	old  []byte
	peek [maxGap + minRun]byte
}

func (m *matcher) reset(base Base, refs *Refs) {
	m.base.reset(base, refs)
	m.index.built = false
	m.pos = 0
}

// describe writes instructions for a piece of the target.
func (m *matcher) describe(data []byte) error {
	p, exact, retry := 0, 0, 0
	// align describes what lies before p, and goes on with p at another position.
	align := func(next int64) error {
		n, err := m.commit(data[:p], next)
		data, p, retry = data[n:], p-n, 0
		return err
	}
	for p < len(data) && m.base.err == nil {
		pos := m.pos + int64(p)
		if run := m.base.match(data[p:], pos); run >= minRun || p+run == len(data) {
			if p-exact > maxGap {
				// The alignment is right again after a gap that is not worth following.
				if err := align(pos); err != nil {
					return err
				}
			}
			p += run
			exact = p
			continue
		}
		if p >= retry {
			if gap := m.resume(data[p:], pos); gap > 0 {
				p += gap
				exact = p
				continue
			}
			retry = p + minRun
		}
		found, length := m.find(data[p:])
		if length == 0 {
			p++
			continue
		}
		if length < m.base.equal(data[p:p+length], pos)+minGain {
			// The current alignment explains these bytes as well: no need to look at each of them again.
			p += max(1, length-gram)
			continue
		}
		if err := align(found); err != nil {
			return err
		}
		p += length
		exact = p
	}
	if m.base.err != nil {
		return m.base.err
	}
	n, err := m.commit(data, m.pos+int64(len(data)))
	if err != nil {
		return err
	}
	if err := m.region(data[n:], m.pos); err != nil {
		return err
	}
	m.pos += int64(len(data) - n)
	return nil
}

// resume returns how many bytes later the current alignment is right again, 0 where it is not within maxGap.
func (m *matcher) resume(data []byte, pos int64) int {
	old := m.base.at(pos)
	if len(old) < len(m.peek) {
		old = m.peek[:m.base.copy(m.peek[:], pos)]
	}
	run := 0
	for i := range min(len(data), len(old), len(m.peek)) {
		if data[i] != old[i] {
			run = 0
			continue
		}
		if run++; run == minRun {
			return i + 1 - run
		}
	}
	return 0
}

// find looks for the place of the base that has most in common with the beginning of data.
func (m *matcher) find(data []byte) (pos int64, length int) {
	if len(data) < gram {
		return 0, 0
	}
	hash, ok := gramHash(data)
	if !ok {
		return 0, 0
	}
	if !m.index.built {
		m.index.build(&m.base, m.stride, m.limit)
	}
	if !m.index.has(hash) {
		return 0, 0
	}
	at, tag := m.index.place(hash)
	for _, entry := range m.index.entries[at : at+bucket] {
		if entry == 0 {
			break
		}
		if entry&0xff != tag {
			continue
		}
		place := int64(entry>>8-1) * m.index.stride
		if n := m.base.match(data, place); n >= gram && n > length {
			pos, length = place, n
		}
	}
	return pos, length
}

// commit describes data, which the current alignment begins and another one goes on after: next is the position
// that belongs to the byte behind data. Both reach into data as far as they explain more than half of the bytes;
// what neither explains is literal. It returns how many bytes were described: what the next alignment explains is left to it.
func (m *matcher) commit(data []byte, next int64) (int, error) {
	n := len(data)
	forward, backward := 0, 0
	if n > 0 {
		forward = m.forward(data)
		if next != m.pos+int64(n) || forward < n {
			backward = m.backward(data, next)
		}
	}
	if over := forward + backward - n; over > 0 {
		keep := m.split(data[n-backward:forward], next-int64(backward), m.pos+int64(n-backward))
		forward, backward = n-backward+keep, backward-keep
	}
	if err := m.region(data[:forward], m.pos); err != nil {
		return 0, err
	}
	if err := m.out.literal(data[forward : n-backward]); err != nil {
		return 0, err
	}
	m.pos = next - int64(backward)
	return n - backward, nil
}

// forward returns how much of data the current alignment explains.
func (m *matcher) forward(data []byte) int {
	score, best, length := 0, 0, 0
	for n := 0; n < len(data); {
		piece := m.base.at(m.pos + int64(n))
		size := min(len(piece), len(data)-n)
		if size == 0 {
			break
		}
		for i, c := range piece[:size] {
			if data[n+i] != c {
				score--
				continue
			}
			if score++; score > best {
				best, length = score, n+i+1
			}
		}
		n += size
	}
	return length
}

// backward returns how much of the end of data is explained by the alignment that goes on at next.
func (m *matcher) backward(data []byte, next int64) int {
	const step = 256
	score, best, length := 0, 0, 0
	limit := int(min(int64(len(data)), next, maxBackward))
	for n := 0; n < limit; {
		size := min(step, limit-n)
		m.old = grow(m.old, size)
		if m.base.copy(m.old, next-int64(n+size)) != size {
			break
		}
		piece := data[len(data)-n-size : len(data)-n]
		for i := size - 1; i >= 0; i-- {
			if piece[i] != m.old[i] {
				score--
				continue
			}
			if score++; score > best {
				best, length = score, n+size-i
			}
		}
		n += size
	}
	return length
}

// split returns how many bytes of data, which two alignments explain, are better left to the current one, at pos.
func (m *matcher) split(data []byte, next, pos int64) int {
	m.old = grow(m.old, 2*len(data))
	before, after := m.old[:len(data)], m.old[len(data):]
	clear(m.old)
	m.base.copy(before, pos)
	m.base.copy(after, next)
	score, best, keep := 0, 0, 0
	for i, c := range data {
		if before[i] == c {
			score++
		}
		if after[i] == c {
			score--
		}
		if score > best {
			best, keep = score, i+1
		}
	}
	return keep
}

// region describes data by what the base has at pos.
func (m *matcher) region(data []byte, pos int64) error {
	for len(data) > 0 {
		old := m.base.at(pos)
		if len(old) == 0 {
			return m.base.err
		}
		n := min(len(old), len(data))
		if err := m.out.copied(data[:n], old[:n], pos); err != nil {
			return err
		}
		data, pos = data[n:], pos+int64(n)
	}
	return nil
}

// grow returns data with length n, with undefined contents. It grows by doubling.
func grow(data []byte, n int) []byte {
	if cap(data) < n {
		return make([]byte, n, 1<<bits.Len(uint(n-1)))
	}
	return data[:n]
}
