package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

// sample is an example with all kinds of instructions and several blocks.
func sample(t testing.TB) (example, []byte) {
	r := rand.New(rand.NewPCG(11, 12))
	old, renewed := hashOf(r), hashOf(r)
	base := text(r, 20_000)
	copy(base[700:], old)
	target := bytes.ReplaceAll(base, []byte(old), []byte(renewed))
	target = append(append(bytes.Clone(target[10_000:]), text(r, 5000)...), target[:9_000]...)
	target[100]++
	target[103] += 2
	x := example{base: base, target: target, refs: mustRefs(t, map[string]string{old: renewed})}
	delta, stats := roundTrip(t, x, Options{BlockSize: MinBlockSize})
	if stats.Blocks < 2 || stats.Patched == 0 || stats.Literal == 0 {
		t.Fatalf("%+v", stats)
	}
	return x, delta
}

func TestACutDeltaIsAnUnexpectedEnd(t *testing.T) {
	x, delta := sample(t)
	for n := range delta {
		if err := Decode(io.Discard, x.patch(delta[:n]), Limits{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: %v", n, len(delta), err)
		}
	}
}

func TestADamagedDeltaIsNoticed(t *testing.T) {
	x, delta := sample(t)
	d, _ := NewDecoder(Limits{})
	var out bytes.Buffer
	for i := range delta {
		for _, flip := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(delta)
			damaged[i] ^= flip
			out.Reset()
			err := d.Decode(&out, x.patch(damaged))
			if err == nil && !bytes.Equal(out.Bytes(), x.target) {
				t.Fatalf("byte %d changed by %#x: another target", i, flip)
			}
			if out.Len() > len(x.target) {
				t.Fatalf("byte %d changed by %#x: %d bytes, more than %d", i, flip, out.Len(), len(x.target))
			}
		}
	}
}

func TestAWrongBaseIsNoticed(t *testing.T) {
	x, delta := sample(t)
	for rule, change := range map[string]func(*Patch){
		"other bytes": func(p *Patch) { p.Base = bytes.NewReader(text(rand.New(rand.NewPCG(1, 9)), len(x.base))) },
		"longer":      func(p *Patch) { p.Base = bytes.NewReader(append(bytes.Clone(x.base), 0)) },
		"shorter":     func(p *Patch) { p.Base = bytes.NewReader(x.base[1:]) },
		"no map":      func(p *Patch) { p.Refs = nil },
		"empty map":   func(p *Patch) { p.Refs = mustRefs(t, nil) },
		"another map": func(p *Patch) {
			p.Refs = mustRefs(t, map[string]string{strings.Repeat("0", 32): strings.Repeat("1", 32)})
		},
		"another size": func(p *Patch) { p.Size++ },
	} {
		patch := x.patch(delta)
		change(&patch)
		var out bytes.Buffer
		err := Decode(&out, patch, Limits{})
		if !errors.Is(err, ErrMismatch) || rule != "other bytes" && out.Len() != 0 {
			t.Errorf("%s: %v after %d bytes", rule, err, out.Len())
		}
	}
	plain, _ := roundTrip(t, example{base: x.base, target: x.target}, Options{})
	patch := x.patch(plain)
	if err := Decode(io.Discard, patch, Limits{}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a map that the delta does not know: %v", err)
	}
	patch = x.patch(delta)
	patch.Base = shortBase{}
	if err := Decode(io.Discard, patch, Limits{}); err == nil {
		t.Error("a base that cannot be read is accepted")
	}
}

func TestDecodeReadsNotBeyondTheDelta(t *testing.T) {
	x, delta := sample(t)
	r := bytes.NewReader(append(bytes.Clone(delta), "what follows"...))
	patch := x.patch(nil)
	patch.Delta = iotest.OneByteReader(r)
	if err := Decode(io.Discard, patch, Limits{}); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "what follows" {
		t.Errorf("%q is left", rest)
	}
}

// header makes the header of a delta; block makes one block.
func header(base, target, blockSize uint64) []byte {
	body := []byte{Version, 0}
	for _, n := range []uint64{base, target, blockSize} {
		body = binary.AppendUvarint(body, n)
	}
	return append(append([]byte(Magic), byte(len(body))), body...)
}

func block(output string, streams ...string) []byte {
	head := binary.AppendUvarint(nil, uint64(len(output)))
	for _, s := range streams {
		head = append(binary.AppendUvarint(head, uint64(len(s))), 0)
	}
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum([]byte(output), castagnoli))
	return append(append([]byte{byte(len(head))}, head...), strings.Join(streams, "")...)
}

func token(kind, n uint64) string { return string(binary.AppendUvarint(nil, n<<2|kind)) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestDecodeRefuses(t *testing.T) {
	const base = "0123456789"
	ok := header(10, 4, MinBlockSize)
	end := []byte{0}
	control := func(tokens ...string) []byte {
		return join(ok, block("0123", strings.Join(tokens, ""), "", "", ""), end)
	}
	for rule, delta := range map[string][]byte{
		"nothing":                         {},
		"another magic":                   join([]byte("fdlu"), ok[4:]),
		"an empty header":                 []byte(Magic + "\x00"),
		"a long header":                   join([]byte(Magic+"\x40"), make([]byte, 64)),
		"another version":                 join([]byte(Magic), []byte{6, 2, 0, 10, 4, 0x80, 0x20}),
		"an unknown flag":                 join([]byte(Magic), []byte{6, 1, 2, 10, 4, 0x80, 0x20}),
		"something behind the header":     join([]byte(Magic), []byte{7, 1, 0, 10, 4, 0x80, 0x20, 0}),
		"a small block size":              header(10, 4, MinBlockSize-1),
		"a base beyond the format":        header(MaxSize+1, 4, MinBlockSize),
		"a target beyond the format":      header(10, MaxSize+1, MinBlockSize),
		"a block size beyond the format":  header(10, 4, MaxBlockSize+1),
		"an end before the target's":      join(ok, end),
		"a block without output":          join(ok, block("", token(kindSeek, 2), "", "", "")),
		"a block beyond the target":       join(ok, block("01234", token(kindCopy, 5), "", "", "")),
		"a block header that is cut":      join(ok, []byte{3, 4, 0, 0}),
		"streams beyond the block size":   join(ok, block("0123", token(kindCopy, 4), strings.Repeat("\x00", MinBlockSize), "", "")),
		"a wrong checksum":                join(ok, block("0124", token(kindCopy, 4), "", "", ""), end),
		"no instruction":                  control(),
		"fewer bytes than announced":      control(token(kindCopy, 3)),
		"more bytes than announced":       control(token(kindCopy, 5)),
		"an instruction of nothing":       control(token(kindCopy, 0), token(kindCopy, 4)),
		"an instruction that is cut":      control("\x80"),
		"an instruction that is long":     control(strings.Repeat("\x80", 9) + "\x01"),
		"an unknown instruction":          control(token(3, 4)),
		"a seek before the base":          control(token(kindSeek, 1), token(kindCopy, 4)),
		"a seek beyond all bases":         control(token(kindSeek, 2*MaxSize+2), token(kindCopy, 4)),
		"a copy beyond the base":          control(token(kindSeek, 2*7), token(kindCopy, 4)),
		"literals that are missing":       control(token(kindLiteral, 4)),
		"literals that are left":          join(ok, block("0123", token(kindCopy, 4), "", "", "x"), end),
		"a patch without a value":         join(ok, block("0123", token(kindCopy, 4), "\x01", "", ""), end),
		"a patch that changes nothing":    join(ok, block("0123", token(kindCopy, 4), "\x01", "\x00", ""), end),
		"a patch behind the last copy":    join(ok, block("0123", token(kindCopy, 4), "\x04", "\x01", ""), end),
		"a value without a patch":         join(ok, block("0123", token(kindCopy, 4), "", "\x01", ""), end),
		"a gap that is cut":               join(ok, block("0123", token(kindCopy, 4), "\x80", "\x01", ""), end),
		"a gap beyond a block":            join(ok, block("0123", token(kindCopy, 4), "\xff\xff\xff\xff\x7f", "\x01", ""), end),
		"one block more than the target":  join(ok, block("0123", token(kindCopy, 4), "", "", ""), block("4", token(kindCopy, 1), "", "", "")),
		"a packed stream that is no zstd": join(ok, []byte{13, 4, 3, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, []byte("xx"), end),
	} {
		var out bytes.Buffer
		err := Decode(&out, Patch{Base: strings.NewReader(base), Delta: bytes.NewReader(delta), Size: 4}, Limits{})
		if err == nil || out.Len() > 4 {
			t.Errorf("%s: %v, %q", rule, err, out.Bytes())
		}
	}
	for rule, delta := range map[string][]byte{
		"copy":             control(token(kindCopy, 4)),
		"copies and seeks": control(token(kindCopy, 2), token(kindSeek, 2*5), token(kindSeek, 2*5-1), token(kindCopy, 2)),
		"literal":          join(ok, block("0123", token(kindLiteral, 4), "", "", "0123"), end),
		"patch":            join(ok, block("0129", token(kindCopy, 4), "\x03", "\x06", ""), end),
		"two blocks":       join(ok, block("01", token(kindCopy, 2), "", "", ""), block("23", token(kindCopy, 2), "", "", ""), end),
	} {
		if err := Decode(io.Discard, Patch{Base: strings.NewReader(base), Delta: bytes.NewReader(delta), Size: 4}, Limits{}); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestDecodeKeepsToItsLimits(t *testing.T) {
	x := example{base: []byte("base"), target: []byte("target")}
	delta, _ := roundTrip(t, x, Options{BlockSize: MaxBlockSize})
	if err := Decode(io.Discard, x.patch(delta), Limits{MaxBlock: MaxBlockSize - 1}); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	for _, limit := range []int{-1, 1, MaxBlockSize + 1} {
		if _, err := NewDecoder(Limits{MaxBlock: limit}); err == nil {
			t.Errorf("a limit of %d is accepted", limit)
		}
	}
}

// TestMemoryOfTheDecoderIsBounded decodes the most demanding deltas that the format allows, and one that lies.
func TestMemoryOfTheDecoderIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	base, target := text(r, 6<<20), text(r, 6<<20)
	x := example{base: base, target: target}
	var hard bytes.Buffer
	if _, err := Encode(&hard, x.input(), Options{}); err != nil {
		t.Fatal(err)
	}
	z, _ := zstd.NewWriter(nil)
	bomb := z.EncodeAll(make([]byte, 64<<20), nil)
	head := []byte{4}
	for _, n := range []uint64{DefaultBlockSize - 1, uint64(len(bomb)), 0, 0, 0, 0, 0, 0} {
		head = binary.AppendUvarint(head, n)
	}
	head = append(head, 0, 0, 0, 0)
	lie := join(header(uint64(len(base)), uint64(len(target)), DefaultBlockSize), []byte{byte(len(head))}, head, bomb)

	for rule, delta := range map[string][]byte{"hard": hard.Bytes(), "lie": lie} {
		var before, after runtime.MemStats
		d, err := NewDecoder(Limits{})
		if err != nil {
			t.Fatal(err)
		}
		// The first decoding makes what zstd keeps.
		small, _ := roundTrip(t, example{target: base[:100_000]}, Options{})
		if err := d.Decode(io.Discard, example{target: base[:100_000]}.patch(small)); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		err = d.Decode(io.Discard, x.patch(delta))
		runtime.ReadMemStats(&after)
		if (err == nil) != (rule == "hard") {
			t.Errorf("%s: %v", rule, err)
		}
		// All that was ever allocated, garbage included.
		if used, most := after.TotalAlloc-before.TotalAlloc, uint64(DefaultBlockSize*5/2+512<<10); used > most {
			t.Errorf("%s: %d bytes, more than %d", rule, used, most)
		}
	}
}
