package delta

import (
	"bytes"
	"io"
	"testing"
)

// FuzzEncode makes a target by a script of edits, so that it has something of the base, and encodes and decodes it.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("0123456789abcdfghijklmnpqrsvwxyz and more"), []byte("\x01\x02\x03\x04new"), uint8(0))
	f.Add(bytes.Repeat([]byte("0c4d6b8z1v2x3y5w7q9rsndfghijklmp"), 40), []byte("\x00\x00\xff\x05\x10\x80\x02\x00\x10"), uint8(7))
	f.Add([]byte{}, []byte{}, uint8(3))
	var encoders []*Encoder
	for _, options := range []Options{
		{BlockSize: MinBlockSize, IndexSize: 1 << 10, CacheSize: 1 << 10},
		{BlockSize: MinBlockSize, IndexSize: 1 << 10, CacheSize: 1 << 10, Level: LevelNone},
		{BlockSize: MaxBlockSize, IndexSize: 1 << 16, Level: LevelBetter},
		{BlockSize: MaxBlockSize, IndexSize: 1 << 16, Level: LevelNone},
	} {
		e, err := NewEncoder(options)
		if err != nil {
			f.Fatal(err)
		}
		encoders = append(encoders, e)
	}
	d, err := NewDecoder(Limits{MaxBlock: MaxBlockSize})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, base, script []byte, how uint8) {
		x := example{base: bytes.Repeat(base, 1+int(how&7)*20)}
		x.target = applyScript(x.base, script)
		if how&8 != 0 && len(base) >= HashLength && isHashPart(string(base[:HashLength])) {
			x.refs = mustRefs(t, map[string]string{string(base[:HashLength]): "1111111111111111111111111111111a"})
		}
		if len(script) > 0 {
			x.at = int64(int8(script[len(script)-1])) * int64(len(base)) / 16
		}
		var delta, out bytes.Buffer
		if _, err := encoders[how>>4&3].Encode(&delta, x.input()); err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(&out, x.patch(delta.Bytes())); err != nil || !bytes.Equal(out.Bytes(), x.target) {
			t.Fatalf("%d bytes come back as %d: %v", len(x.target), out.Len(), err)
		}
	})
}

// applyScript copies pieces of base: three bytes say where and how much, one what is added to each seventh byte. What
// follows is literal where the piece is empty.
func applyScript(base, script []byte) []byte {
	var target []byte
	for len(script) >= 4 && len(target) < 1<<18 {
		at, size, change := int(script[0])*len(base)/256, int(script[1])<<4|int(script[2])&15, script[3]
		script = script[4:]
		piece := bytes.Clone(base[at:min(at+size, len(base))])
		for i := 0; i < len(piece); i += 7 {
			piece[i] += change
		}
		if len(piece) == 0 {
			piece = script[:min(len(script), int(change))]
			script = script[len(piece):]
		}
		target = append(target, piece...)
	}
	return append(target, script...)
}

// FuzzDecode has any base, any delta, any map and any size: an error, or a target of that size.
func FuzzDecode(f *testing.F) {
	x, delta := sample(f)
	f.Add(x.base, delta, true, uint32(len(x.target)))
	f.Add([]byte("0123456789"), join(header(10, 4, MinBlockSize), block("0129", token(kindCopy, 4), "\x03", "\x06", ""), []byte{0}), false, uint32(4))
	f.Add([]byte("0123456789"), join(header(10, 4, MinBlockSize), block("5601", token(kindSeek, 10)+token(kindCopy, 2)+token(kindSeek, 13)+token(kindCopy, 2), "", "", ""), []byte{0}), false, uint32(4))
	d, err := NewDecoder(Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, base, delta []byte, refs bool, size uint32) {
		patch := Patch{Base: bytes.NewReader(base), Delta: bytes.NewReader(delta), Size: int64(size)}
		if refs {
			patch.Refs = x.refs
		}
		out := &countingWriter{}
		err := d.Decode(out, patch)
		if out.n > patch.Size || err == nil && out.n != patch.Size {
			t.Errorf("%d bytes for a target of %d: %v", out.n, patch.Size, err)
		}
		if cap(d.arena)+cap(d.packed) > 2*DefaultBlockSize {
			t.Errorf("%d and %d bytes of memory", cap(d.arena), cap(d.packed))
		}
		// Half of a patched header would never come so far: say what it wants to hear.
		if err == nil || len(delta) < 2 {
			return
		}
		honest := append(header(uint64(len(base)), uint64(size), DefaultBlockSize), delta...)
		patch.Refs, patch.Delta = nil, bytes.NewReader(honest)
		if err := d.Decode(io.Discard, patch); err == nil && size > MaxBlockOutput*uint32(len(delta)) {
			t.Errorf("%d bytes from a delta of %d", size, len(delta))
		}
	})
}

type countingWriter struct{ n int64 }

func (w *countingWriter) Write(data []byte) (int, error) {
	w.n += int64(len(data))
	return len(data), nil
}
