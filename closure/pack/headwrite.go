package pack

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"fleet/closure/storepath"
)

// headWriter writes what a unit says of its paths: hashes and signatures, which nothing makes shorter, into raw, all else into
// text, one column after the other.
type headWriter struct {
	entries []entry
	raw     []byte
	text    columns
	tables
	// index finds a hash part in the tables.
	index map[string]int
	// outside are the references that are not among the entries. They follow them in the tables.
	outside []storepath.Path
	// refs are the references of each entry, as places in the tables.
	refs [][]int
	// nextHash is where the next place is expected that a column names.
	nextHash int
}

// tables hold all hash parts that a unit names, in texts of 32 characters: those of its paths, then those of other references,
// then those of bases and of other predecessors.
type tables struct {
	hashes []string
	// before has the predecessors of paths and references, where they are known.
	before map[int]string
}

// columns is what the text is written to.
type columns []byte

func (c *columns) number(n uint64) { *c = binary.AppendUvarint(*c, n) }

func (c *columns) string(text string) {
	c.number(uint64(len(text)))
	*c = append(*c, text...)
}

func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// writeHead returns what a unit says of its paths, in its two parts.
func writeHead(entries []entry) (raw, text []byte, err error) {
	w := headWriter{entries: entries, index: make(map[string]int), refs: make([][]int, len(entries))}
	w.before = make(map[int]string)
	if err := w.collect(); err != nil {
		return nil, nil, err
	}
	w.nextHash = len(w.hashes)
	flags := w.flags()
	w.names(flags)
	w.numbers()
	w.bases()
	w.predecessors()
	w.pairs(flags)
	w.rest()
	if err := w.hash(); err != nil {
		return nil, nil, err
	}
	counts := columns{}
	for _, n := range []int{len(entries), len(w.outside), len(w.hashes)} {
		counts.number(uint64(n))
	}
	text = append(counts, w.text...)
	if len(text) > maxText || len(w.raw) > maxRaw || len(w.hashes) > maxHashes {
		return nil, nil, fmt.Errorf("pack: a unit says %d bytes of its paths and names %d, more than the format allows", len(text)+len(w.raw), len(w.hashes))
	}
	return w.raw, text, nil
}

// place returns where a hash part is in the tables, and adds it where it is not.
func (w *headWriter) place(hash string) int {
	at, ok := w.index[hash]
	if !ok {
		at = len(w.hashes)
		w.index[hash] = at
		w.hashes = append(w.hashes, hash)
	}
	return at
}

// collect fills the tables with the paths and their references.
func (w *headWriter) collect() error {
	for i, e := range w.entries {
		if w.place(e.info.Path.Hash()) != i {
			return fmt.Errorf("pack: %q is in a unit twice", e.info.Path)
		}
		if !e.base.IsZero() {
			w.before[i] = e.base.Hash()
		}
	}
	total := 0
	for i, e := range w.entries {
		for _, ref := range e.info.References {
			at := w.place(ref.Hash())
			if at < len(w.entries) && (at > i || w.entries[at].info.Path != ref) {
				return fmt.Errorf("pack: %q comes before %q, to which it refers", e.info.Path, ref)
			}
			if at == len(w.entries)+len(w.outside) {
				w.outside = append(w.outside, ref)
			}
			w.refs[i] = append(w.refs[i], at)
		}
		w.learn(i)
		if total += len(w.refs[i]) + len(e.refs) + len(e.info.Signatures); total > maxReferences {
			return fmt.Errorf("pack: %q refers to %d paths, more than the format allows", e.info.Path, len(w.refs[i]))
		}
	}
	return nil
}

// learn notes the predecessors of references. The first that is known is that of the whole unit.
func (w *headWriter) learn(i int) {
	for _, p := range w.entries[i].refs {
		if at, ok := w.index[p.to]; ok && at >= len(w.entries) && w.before[at] == "" {
			w.before[at] = p.from
		}
	}
}

func (w *headWriter) flags() []byte {
	flags := make([]byte, len(w.entries))
	for i, e := range w.entries {
		flags[i] = byte(e.body)
		set := func(flag byte, is bool) {
			if is {
				flags[i] |= flag
			}
		}
		pairs, ok := w.implied(i, w.refs[i])
		set(hasBase, !e.base.IsZero())
		set(listsPairs, !e.base.IsZero() && (!ok || !slices.Equal(pairs, e.refs)))
		set(hasDeriver, !e.info.Deriver.IsZero())
		set(hasSignatures, len(e.info.Signatures) > 0)
		set(hasCA, e.info.CA != "")
		set(isKept, e.keep)
	}
	return flags
}

func (w *headWriter) names(flags []byte) {
	for _, e := range w.entries {
		w.text.string(e.info.Path.Name())
	}
	for _, ref := range w.outside {
		w.text.string(ref.Name())
	}
	w.text = append(w.text, flags...)
}

// numbers writes sizes and references. A reference is its distance, if it is among the paths, else its place behind them;
// of several, each is written as the difference to the one before it.
func (w *headWriter) numbers() {
	for _, e := range w.entries {
		w.text.number(e.info.NarSize)
	}
	for i, refs := range w.refs {
		var codes []int
		for _, at := range refs {
			if at <= i && at < len(w.entries) {
				codes = append(codes, (i-at)<<1)
			} else {
				codes = append(codes, (at-len(w.entries))<<1|1)
			}
		}
		slices.Sort(codes)
		codes = slices.Compact(codes)
		w.text.number(uint64(len(codes)))
		last := -1
		for _, code := range codes {
			w.text.number(uint64(code - last - 1))
			last = code
		}
	}
}

// hashPlace writes the place of a hash part, as the difference to the one that is expected.
func (w *headWriter) hashPlace(hash string) uint64 {
	at := w.place(hash)
	code := zigzag(int64(at - w.nextHash))
	w.nextHash = at + 1
	return code
}

// bases writes where each base's hash is, its name (empty: that of the path) and its size.
func (w *headWriter) bases() {
	for _, e := range w.entries {
		if !e.base.IsZero() {
			w.text.number(w.hashPlace(e.base.Hash()))
		}
	}
	for _, e := range w.entries {
		if !e.base.IsZero() {
			w.text.string(unless(e.base.Name(), e.info.Path.Name()))
			w.text.number(zigzag(int64(e.baseSize - e.info.NarSize)))
		}
	}
}

// unless returns the text, or nothing where it is what one expects.
func unless(text, expected string) string {
	if text == expected {
		return ""
	}
	return text
}

func (w *headWriter) predecessors() {
	for i := range w.outside {
		from := w.before[len(w.entries)+i]
		if from == "" {
			w.text.number(0)
			continue
		}
		w.text.number(1 + w.hashPlace(from))
	}
}

// pairs writes those reference maps that do not follow from the tables.
func (w *headWriter) pairs(flags []byte) {
	for i, e := range w.entries {
		if flags[i]&listsPairs == 0 {
			continue
		}
		w.text.number(uint64(len(e.refs)))
		for _, p := range e.refs {
			w.text.number(w.hashPlace(p.from))
			w.text.number(w.hashPlace(p.to))
		}
	}
}

// rest writes derivers, signatures and content addresses.
func (w *headWriter) rest() {
	for _, e := range w.entries {
		if !e.info.Deriver.IsZero() {
			w.text.number(w.hashPlace(e.info.Deriver.Hash()))
			w.text.string(unless(e.info.Deriver.Name(), e.info.Path.Name()+drv))
		}
	}
	for _, e := range w.entries {
		if len(e.info.Signatures) > 0 {
			w.text.number(uint64(len(e.info.Signatures)))
		}
		for _, text := range e.info.Signatures {
			w.signature(text)
		}
	}
	for _, e := range w.entries {
		if e.info.CA != "" {
			w.text.string(unless(e.info.CA, contentAddress(e.info.NarHash)))
		}
	}
}

const (
	drv = ".drv"
	// signatureSize is that of Ed25519, in bytes.
	signatureSize = 64
)

// contentAddress is that of a path which was added as it is, in Nix's notation.
func contentAddress(hash [32]byte) string { return "fixed:r:sha256:" + storepath.EncodeBase32(hash[:]) }

// signature writes a signature: its key's name as text and its bytes raw, or all as text where it has another form.
func (w *headWriter) signature(text string) {
	name, encoded, _ := strings.Cut(text, ":")
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(data) != signatureSize || formatSignature(name, data) != text {
		w.text.number(uint64(len(text)) << 1)
		w.text = append(w.text, text...)
		return
	}
	w.text.number(uint64(len(name))<<1 | 1)
	w.text = append(w.text, name...)
	w.raw = append(w.raw, data...)
}

func formatSignature(name string, data []byte) string {
	return name + ":" + base64.StdEncoding.EncodeToString(data)
}

// hash puts hash parts and hashes of NARs before the signatures in raw.
func (w *headWriter) hash() error {
	raw := make([]byte, 0, len(w.hashes)*hashSize+len(w.entries)*32+len(w.raw))
	for _, hash := range w.hashes {
		data, err := storepath.DecodeBase32(hash, hashSize)
		if err != nil {
			return fmt.Errorf("pack: the hash part %q: %w", hash, err)
		}
		raw = append(raw, data...)
	}
	for _, e := range w.entries {
		raw = append(raw, e.info.NarHash[:]...)
	}
	w.raw = append(raw, w.raw...)
	return nil
}
