package pack

import (
	"encoding/binary"
	"slices"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// headReader reads what a headWriter wrote. The first thing that is wrong is kept in err; what is read after it is zero.
type headReader struct {
	raw, text []byte
	err       error
	tables
	entries []entry
	// paths are those of the entries and of other references.
	paths    []storepath.Path
	flags    []byte
	refs     [][]int
	nextHash int
	// budget is how many references, pairs and signatures may still come.
	budget int
}

// readHead reads what a unit says of its paths, and returns the text behind it.
func readHead(raw, text []byte) (entries []entry, rest []byte, err error) {
	r := headReader{raw: raw, text: text, budget: maxReferences}
	for _, step := range []func(){r.counts, r.names, r.numbers, r.bases, r.predecessors, r.pairs, r.derivers, r.signatures} {
		if step(); r.err != nil {
			return nil, nil, r.err
		}
	}
	if len(r.raw) > 0 {
		return nil, nil, formatError("a unit has %d bytes of hashes that nothing uses", len(r.raw))
	}
	return r.entries, r.text, nil
}

func (r *headReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = formatError(format, args...)
	}
	r.raw, r.text = nil, nil
}

// number reads a number up to limit, what says which.
func (r *headReader) number(limit uint64, what string) uint64 {
	n, size := binary.Uvarint(r.text)
	if size <= 0 || n > limit {
		r.fail("%s is not a number up to %d", what, limit)
		return 0
	}
	r.text = r.text[size:]
	return n
}

func (r *headReader) take(n int) []byte {
	if n > len(r.raw) {
		r.fail("a unit has fewer hashes than it needs")
		return make([]byte, n)
	}
	data := r.raw[:n]
	r.raw = r.raw[n:]
	return data
}

func (r *headReader) string(n int) string {
	if n > len(r.text) {
		r.fail("a text of %d bytes is not complete", n)
		return ""
	}
	text := string(r.text[:n])
	r.text = r.text[n:]
	return text
}

func (r *headReader) counts() {
	paths := int(r.number(maxBatch, "the number of paths"))
	outside := int(r.number(maxHashes, "the number of other references"))
	total := int(r.number(maxHashes, "the number of hashes"))
	if r.err != nil || paths == 0 || paths+outside > total {
		r.fail("a unit has %d paths, %d references and %d hashes", paths, outside, total)
		return
	}
	r.entries = make([]entry, paths)
	r.paths = make([]storepath.Path, paths+outside)
	r.before = make(map[int]string)
	r.nextHash = paths + outside
	data := r.take(total * hashSize)
	r.hashes = make([]string, 0, total)
	for part := range slices.Chunk(data, hashSize) {
		r.hashes = append(r.hashes, storepath.EncodeBase32(part))
	}
	for i := range r.entries {
		r.entries[i].info.NarHash = [32]byte(r.take(32))
	}
}

func (r *headReader) names() {
	const longest = storepath.MaxNameLength
	for i := range r.paths {
		r.paths[i] = r.path(r.hashes[i], r.string(int(r.number(longest, "the length of a name"))))
	}
	seen := make(map[string]bool, len(r.entries))
	for i := range r.entries {
		if seen[r.hashes[i]] {
			r.fail("%q is in a unit twice", r.paths[i])
			return
		}
		seen[r.hashes[i]] = true
		r.entries[i].info.Path = r.paths[i]
	}
	if len(r.text) < len(r.entries) {
		r.fail("a unit ends within its flags")
		return
	}
	r.flags, r.text = r.text[:len(r.entries)], r.text[len(r.entries):]
}

func (r *headReader) path(hash, name string) storepath.Path {
	if r.err != nil {
		return storepath.Path{}
	}
	path, err := storepath.ParseBase(hash + "-" + name)
	if err != nil {
		r.fail("%v", err)
	}
	return path
}

func (r *headReader) numbers() {
	for i, flag := range r.flags {
		r.entries[i].info.NarSize = r.number(delta.MaxSize, "the size of a NAR")
		r.entries[i].body = int(flag & bodyBits)
		r.entries[i].keep = flag&isKept != 0
		needsBase := flag&bodyBits != bodyPlain || flag&listsPairs != 0
		if flag&bodyBits > bodyDelta || needsBase && flag&hasBase == 0 {
			r.fail("the flags of %q are not flags", r.paths[i])
		}
	}
	r.refs = make([][]int, len(r.entries))
	for i := range r.entries {
		r.references(i)
	}
}

func (r *headReader) references(i int) {
	count := int(r.number(uint64(r.budget), "the number of references"))
	r.budget -= count
	last := -1
	for range count {
		last += 1 + int(r.number(2*maxHashes, "a reference"))
		at := i - last>>1
		if last&1 != 0 {
			at = len(r.entries) + last>>1
		}
		if r.err != nil || at < 0 || at >= len(r.paths) {
			r.fail("a reference of %q is not one", r.paths[i])
			return
		}
		r.refs[i] = append(r.refs[i], at)
		r.entries[i].info.References = append(r.entries[i].info.References, r.paths[at])
	}
	storepath.Sort(r.entries[i].info.References)
}

// hashPlace returns the hash part that a place in the tables has.
func (r *headReader) hashPlace(code uint64) string {
	at := int64(r.nextHash) + unzigzag(code)
	if at < 0 || at >= int64(len(r.hashes)) {
		r.fail("a hash is not in the table")
		return ""
	}
	r.nextHash = int(at) + 1
	return r.hashes[at]
}

// hash reads the place of a hash part, and returns the hash part.
func (r *headReader) hash() string { return r.hashPlace(r.number(2*maxHashes, "the place of a hash")) }

// name reads a name, which is the one that is expected where it is empty.
func (r *headReader) name(expected string) string {
	if n := r.number(storepath.MaxNameLength, "the length of a name"); n > 0 {
		return r.string(int(n))
	}
	return expected
}

func (r *headReader) bases() {
	for i, flag := range r.flags {
		if flag&hasBase != 0 {
			r.before[i] = r.hash()
		}
	}
	for i, flag := range r.flags {
		if flag&hasBase == 0 {
			continue
		}
		e := &r.entries[i]
		e.base = r.path(r.before[i], r.name(e.info.Path.Name()))
		size := int64(e.info.NarSize) + unzigzag(r.number(2*delta.MaxSize, "the size of a base"))
		if size < 0 || size > delta.MaxSize {
			r.fail("the base of %q has %d bytes", e.info.Path, size)
		}
		e.baseSize = uint64(size)
	}
}

func (r *headReader) predecessors() {
	for at := len(r.entries); at < len(r.paths); at++ {
		if code := r.number(2*maxHashes+1, "a predecessor"); code > 0 {
			r.before[at] = r.hashPlace(code - 1)
		}
	}
}

func (r *headReader) pairs() {
	for i := range r.entries {
		e := &r.entries[i]
		switch {
		case r.flags[i]&listsPairs != 0:
			count := int(r.number(uint64(r.budget), "the number of pairs"))
			r.budget -= count
			for range count {
				if r.err != nil {
					return
				}
				e.refs = append(e.refs, pair{r.hash(), r.hash()})
			}
		case r.flags[i]&hasBase != 0:
			pairs, ok := r.implied(i, r.refs[i])
			if !ok {
				r.fail("the reference map of %q has a hash twice", e.info.Path)
			}
			e.refs = pairs
		}
	}
}

func (r *headReader) derivers() {
	for i, flag := range r.flags {
		if flag&hasDeriver != 0 {
			info := &r.entries[i].info
			hash := r.hash()
			info.Deriver = r.path(hash, r.name(info.Path.Name()+drv))
		}
	}
}

// signatures reads signatures and content addresses.
func (r *headReader) signatures() {
	for i, flag := range r.flags {
		if flag&hasSignatures == 0 {
			continue
		}
		count := int(r.number(uint64(r.budget), "the number of signatures"))
		r.budget -= count
		for range count {
			if r.err != nil {
				return
			}
			r.entries[i].info.Signatures = append(r.entries[i].info.Signatures, r.signature())
		}
	}
	for i, flag := range r.flags {
		if flag&hasCA != 0 {
			info := &r.entries[i].info
			if info.CA = r.string(int(r.number(maxText, "the length of a content address"))); info.CA == "" {
				info.CA = contentAddress(info.NarHash)
			}
		}
	}
}

func (r *headReader) signature() string {
	code := r.number(maxText, "the length of a signature")
	text := r.string(int(code >> 1))
	if code&1 == 0 {
		return text
	}
	return formatSignature(text, r.take(signatureSize))
}
