package delta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// text returns n bytes that look like a program: half of it repetitive, half of it not.
func text(r *rand.Rand, n int) []byte {
	words := []string{"/nix/store/", "\x00\x00\x00\x00\x00\x00\x00\x00", "function", "\x48\x8b\x05", "\xe8", ".so.6", "\n"}
	data := make([]byte, 0, n+16)
	for len(data) < n {
		if r.IntN(2) == 0 {
			data = append(data, words[r.IntN(len(words))]...)
		}
		for range r.IntN(8) {
			data = append(data, byte(r.Uint32()))
		}
	}
	return data[:n]
}

func hashOf(r *rand.Rand) string {
	part := make([]byte, HashLength)
	for i := range part {
		part[i] = hashDigits[r.IntN(len(hashDigits))]
	}
	return string(part)
}

func mustRefs(t testing.TB, pairs map[string]string) *Refs {
	t.Helper()
	refs, err := NewRefs(pairs)
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

type example struct {
	base, target []byte
	refs         *Refs
	// at is where the target is expected in the base.
	at int64
}

func (x example) input() Input {
	return Input{Base: bytes.NewReader(x.base), Refs: x.refs, Target: bytes.NewReader(x.target), Size: int64(len(x.target)), At: x.at}
}

func (x example) patch(delta []byte) Patch {
	return Patch{Base: bytes.NewReader(x.base), Refs: x.refs, Delta: bytes.NewReader(delta), Size: int64(len(x.target))}
}

// roundTrip encodes, decodes, compares, and returns the delta.
func roundTrip(t testing.TB, x example, options Options) ([]byte, Stats) {
	t.Helper()
	var delta, out bytes.Buffer
	stats, err := Encode(&delta, x.input(), options)
	if err != nil {
		t.Fatal("encode: ", err)
	}
	if stats.Written != int64(delta.Len()) || stats.Copied+stats.Literal != int64(len(x.target)) || stats.Described != int64(len(x.target)) {
		t.Errorf("%d bytes for %d: %+v", delta.Len(), len(x.target), stats)
	}
	if err := Decode(&out, x.patch(delta.Bytes()), Limits{MaxBlock: options.BlockSize}); err != nil {
		t.Fatal("decode: ", err)
	}
	if !bytes.Equal(out.Bytes(), x.target) {
		t.Fatalf("%d bytes come back as %d others", len(x.target), out.Len())
	}
	return delta.Bytes(), stats
}

// edit returns a copy of data that one random edit has changed.
func edit(r *rand.Rand, data []byte) []byte {
	at := func() int { return r.IntN(len(data) + 1) }
	from, to := at(), at()
	if from > to {
		from, to = to, from
	}
	piece := bytes.Clone(data[from:min(to, from+20_000)])
	switch r.IntN(5) {
	case 0: // insert
		return append(append(bytes.Clone(data[:from]), text(r, r.IntN(3000))...), data[from:]...)
	case 1: // delete
		return append(bytes.Clone(data[:from]), data[from+len(piece):]...)
	case 2: // move
		rest := append(bytes.Clone(data[:from]), data[from+len(piece):]...)
		cut := r.IntN(len(rest) + 1)
		return append(append(bytes.Clone(rest[:cut]), piece...), rest[cut:]...)
	case 3: // repeat
		return append(bytes.Clone(data[:to]), append(piece, data[to:]...)...)
	default: // change every few bytes, as addresses do
		changed := bytes.Clone(data)
		for i := from; i < from+len(piece); i += 1 + r.IntN(60) {
			changed[i] += 64
		}
		return changed
	}
}

func TestDecodeInvertsEncode(t *testing.T) {
	blockSizes := []int{MinBlockSize, 64 << 10, 0, MaxBlockSize}
	levels := []Level{LevelDefault, LevelNone, LevelFast, LevelBetter}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			pairs := map[string]string{}
			base := text(r, r.IntN(400_000))
			for range r.IntN(5) {
				from := hashOf(r)
				pairs[from] = hashOf(r)
				for range r.IntN(40) {
					if at := r.IntN(len(base) + 1); at+HashLength < len(base) {
						copy(base[at:], from)
					}
				}
			}
			target := bytes.Clone(base)
			for from, to := range pairs {
				target = bytes.ReplaceAll(target, []byte(from), []byte(to))
			}
			for range r.IntN(12) {
				target = edit(r, target)
			}
			options := Options{BlockSize: blockSizes[r.IntN(len(blockSizes))], Level: levels[r.IntN(len(levels))]}
			if r.IntN(3) == 0 {
				options.IndexSize, options.CacheSize = 2048, 2048
			}
			at := r.Int64N(int64(len(base))+100) - 50
			roundTrip(t, example{base: base, target: target, refs: mustRefs(t, pairs), at: at}, options)
		})
	}
}

func TestSizeOfDeltas(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	base := text(r, 3<<20)
	old, renewed := hashOf(r), hashOf(r)
	for at := 1000; at+HashLength < len(base); at += 5000 {
		copy(base[at:], old)
	}
	rebuilt := bytes.ReplaceAll(base, []byte(old), []byte(renewed))
	unlike := text(rand.New(rand.NewPCG(3, 4)), 1<<20)
	middle := len(base) / 2
	for _, test := range []struct {
		rule    string
		x       example
		most    int
		noIndex bool
	}{
		{"nothing of nothing", example{}, 20, true},
		{"nothing of something", example{base: base}, 20, true},
		{"one byte of nothing", example{target: []byte{7}}, 40, true},
		{"one byte of one byte", example{base: []byte{1}, target: []byte{2}}, 40, true},
		{"the same", example{base: base, target: base}, 60, true},
		{"the same, seen through a map of other hashes", example{base: base, target: base, refs: mustRefs(t, map[string]string{hashOf(r): old})}, 60, true},
		{"replaced hashes in a map", example{base: base, target: rebuilt, refs: mustRefs(t, map[string]string{old: renewed})}, 60, true},
		{"replaced hashes without a map", example{base: base, target: rebuilt}, len(base) / 300, true},
		{"one byte changed", example{base: base, target: append(append(bytes.Clone(base[:middle]), base[middle]+1), base[middle+1:]...)}, 70, true},
		{"one byte inserted", example{base: base, target: append(append(bytes.Clone(base[:middle]), 'x'), base[middle:]...)}, 90, false},
		{"one byte deleted", example{base: base, target: append(bytes.Clone(base[:middle]), base[middle+1:]...)}, 90, false},
		{"cut at the end", example{base: base, target: base[:middle]}, 60, true},
		{"grown at the end", example{base: base, target: append(bytes.Clone(base), "new"...)}, 80, true},
		{"a piece of the middle, expected there", example{base: base, target: base[middle : middle+900_000], at: int64(middle)}, 60, true},
		{"a piece of the middle with other hashes, expected there", example{base: base, target: rebuilt[middle : middle+900_000], refs: mustRefs(t, map[string]string{old: renewed}), at: int64(middle)}, 70, true},
		{"a piece of the middle that grows beyond the end", example{base: base, target: append(bytes.Clone(base[middle:]), "new"...), at: int64(middle)}, 80, true},
		{"a piece of the middle, expected a byte before", example{base: base, target: base[middle : middle+900_000], at: int64(middle) - 1}, 90, false},
		{"a piece of the middle, expected nowhere", example{base: base, target: base[middle : middle+900_000], at: 1 << 50}, 90, false},
		{"the same, expected behind the end", example{base: base, target: base, at: int64(len(base))}, 90, false},
		{"the same, expected before the beginning", example{base: base, target: base, at: -1}, 60, true},
		{"halves exchanged", example{base: base, target: append(bytes.Clone(base[middle:]), base[:middle]...)}, 120, false},
		{"twice the same", example{base: base, target: append(bytes.Clone(base), base...)}, 120, false},
		{"zeros of nothing", example{target: make([]byte, 20<<20)}, 3000, true},
		{"something else", example{base: base, target: unlike}, len(unlike) + 200, false},
	} {
		t.Run(test.rule, func(t *testing.T) {
			delta, stats := roundTrip(t, test.x, Options{})
			if len(delta) > test.most || (stats.Index == 0) != test.noIndex {
				t.Errorf("%d bytes, more than %d, or an index for nothing: %+v", len(delta), test.most, stats)
			}
		})
	}
}

func TestEncoderAndDecoderAreUsedAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	e, err := NewEncoder(Options{CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{3 << 20, 10, 500_000, 0, 2 << 20} {
		base := text(r, size)
		x := example{base: base, target: edit(r, edit(r, base))}
		var again, out bytes.Buffer
		if _, err := e.Encode(&again, x.input()); err != nil {
			t.Fatal(err)
		}
		// A failure in between leaves nothing behind.
		failing := x.input()
		failing.Target = iotest.ErrReader(io.ErrClosedPipe)
		if _, err := e.Encode(io.Discard, failing); len(x.target) > 0 && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		if err := d.Decode(io.Discard, x.patch(again.Bytes()[:again.Len()/2])); err == nil {
			t.Error("half a delta is decoded")
		}
		if err := d.Decode(&out, x.patch(again.Bytes())); err != nil || !bytes.Equal(out.Bytes(), x.target) {
			t.Fatal(err)
		}
		if fresh, _ := roundTrip(t, x, Options{CacheSize: 1 << 20}); !bytes.Equal(fresh, again.Bytes()) {
			t.Errorf("%d bytes, %d from a fresh encoder", again.Len(), len(fresh))
		}
	}
}

func TestEncodingThatDoesNotPayEndsBeforeItWrites(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	noise := func(n int) []byte {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		return data
	}
	base, target := noise(1<<20), noise(9<<20)
	for rule, options := range map[string]Options{"too large": {MaxRatio: 0.9}, "too little found": {MinMatched: 0.3}} {
		var out bytes.Buffer
		stats, err := Encode(&out, example{base: base, target: target}.input(), options)
		if !errors.Is(err, ErrNotWorth) || stats.Written != 0 || out.Len() != 0 {
			t.Errorf("%s: %v, %d bytes written, %+v", rule, err, out.Len(), stats)
		}
	}
	// The same limits let pass what pays.
	roundTrip(t, example{base: target, target: edit(r, target)}, Options{MaxRatio: 0.9, MinMatched: 0.3})
	// A delta that stops to pay after some blocks ends too.
	late := append(bytes.Clone(target), noise(30<<20)...)
	stats, err := Encode(io.Discard, example{base: target, target: late}.input(), Options{MaxRatio: 0.5})
	if !errors.Is(err, ErrNotWorth) || stats.Written == 0 || stats.Described > 22<<20 {
		t.Errorf("%v, %+v", err, stats)
	}
}

func TestEncodeRefuses(t *testing.T) {
	x := example{base: []byte("base"), target: []byte("target")}
	for rule, change := range map[string]func(*Input){
		"a target that is shorter":        func(in *Input) { in.Size++ },
		"a target that is longer":         func(in *Input) { in.Size-- },
		"a negative size":                 func(in *Input) { in.Size = -1 },
		"a size beyond the format":        func(in *Input) { in.Size = MaxSize + 1 },
		"a target that fails":             func(in *Input) { in.Target = iotest.ErrReader(io.ErrClosedPipe) },
		"a base that fails":               func(in *Input) { in.Base = shortBase{} },
		"a target that fails at its end ": func(in *Input) { in.Target = io.MultiReader(in.Target, iotest.ErrReader(io.ErrClosedPipe)) },
	} {
		in := x.input()
		change(&in)
		if _, err := Encode(io.Discard, in, Options{}); err == nil {
			t.Errorf("%s is accepted", rule)
		}
	}
	for _, options := range []Options{{BlockSize: 1}, {BlockSize: MaxBlockSize + 1}, {Level: -1}, {Level: 9}, {IndexSize: -1}, {CacheSize: 1}} {
		if _, err := NewEncoder(options); err == nil {
			t.Errorf("%+v are accepted", options)
		}
	}
}

// TestTablesAreEncodedInTime has records that look alike, where any alignment explains much of everything.
func TestTablesAreEncodedInTime(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 14))
	table := func(n int) []byte {
		var data []byte
		for i := range n {
			data = append(data, "\x00\x00\x00\x00symbol\x00\x00\x12\x00\x0e\x00"...)
			data = append(data, byte(r.IntN(4)), byte(i), 0, 0, 0, byte(r.IntN(3)), 0, 0)
		}
		return data
	}
	roundTrip(t, example{base: table(80_000), target: table(80_000)}, Options{})
	roundTrip(t, example{base: bytes.Repeat([]byte("abcdefg"), 300_000), target: bytes.Repeat([]byte("abcdefgabcdefx"), 150_000)}, Options{Level: LevelBest})
}

// shortBase is shorter than it says.
type shortBase struct{}

func (shortBase) Size() int64                       { return 1 << 30 }
func (shortBase) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func TestErrorsOfTheDestinationAreReturned(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	base := text(r, 300_000)
	x := example{base: base, target: edit(r, base)}
	delta, _ := roundTrip(t, x, Options{})
	for n := range 4 {
		if _, err := Encode(&failingWriter{n * 10}, x.input(), Options{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("encode: %v", err)
		}
		if err := Decode(&failingWriter{n * 1000}, x.patch(delta), Limits{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("decode: %v", err)
		}
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(data []byte) (int, error) {
	if w.left -= len(data); w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(data), nil
}

// sparse is a large file of zeros, with marks of 700 bytes at each MiB. It takes no memory.
type sparse struct {
	size int64
	mark [700]byte
}

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) ReadAt(data []byte, off int64) (int, error) {
	clear(data)
	for mark := off &^ (1<<20 - 1); mark < off+int64(len(data)); mark += 1 << 20 {
		for i, c := range s.mark {
			if at := mark + int64(i) - off; at >= 0 && at < int64(len(data)) {
				data[at] = c ^ byte(mark>>20) ^ byte(mark>>28*11)
			}
		}
	}
	return len(data), nil
}

// TestLargeBases has a base of more than 4 GiB, a small cache and an index that is coarse, and a target that lies behind the
// first 4 GiB.
func TestLargeBases(t *testing.T) {
	base := &sparse{size: 1<<32 + 20<<20}
	copy(base.mark[:], text(rand.New(rand.NewPCG(7, 7)), len(base.mark)))
	target := make([]byte, 15<<20)
	base.ReadAt(target, 1<<32+3<<20)
	var delta, out bytes.Buffer
	in := Input{Base: base, Target: bytes.NewReader(target), Size: int64(len(target))}
	stats, err := Encode(&delta, in, Options{IndexSize: 48 << 20, CacheSize: 1 << 20})
	if err != nil || stats.Index > 48<<20 || delta.Len() > 400 {
		t.Fatalf("%v: %+v", err, stats)
	}
	err = Decode(&out, Patch{Base: base, Delta: &delta, Size: in.Size}, Limits{})
	if err != nil || !bytes.Equal(out.Bytes(), target) {
		t.Fatalf("%v, %d bytes", err, out.Len())
	}
}
