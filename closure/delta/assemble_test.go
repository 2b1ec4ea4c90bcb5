package delta

import (
	"bytes"
	"testing"
)

// FuzzAssemble makes a target of pieces of a base, and of bytes between them, and says only which these are.
func FuzzAssemble(f *testing.F) {
	f.Add([]byte("0123456789 some base"), []byte("\x01\x05\x03\x09\x04\x01"))
	f.Add(bytes.Repeat([]byte("base"), 5000), []byte("\x01\xff\x03\x90\xff\xff\x00\x00\x10"))
	f.Add([]byte{}, []byte{})
	encoder, err := NewEncoder(Options{BlockSize: MinBlockSize, Level: LevelNone})
	if err != nil {
		f.Fatal(err)
	}
	decoder, err := NewDecoder(Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, base, script []byte) {
		var target []byte
		var copies []Copy
		for ; len(script) >= 3 && len(target) < 1<<20; script = script[3:] {
			from := int(script[0]) * len(base) / 256
			size := min(len(base)-from, int(script[1])*len(base)/256+1)
			if size > 0 {
				copies = append(copies, Copy{int64(len(target)), int64(from), int64(size)})
				target = append(target, base[from:from+size]...)
			}
			target = append(target, bytes.Repeat(script[:1], int(script[2]))...)
		}
		var delta, out bytes.Buffer
		stats, err := encoder.Assemble(&delta, int64(len(base)), target, copies)
		if err != nil {
			t.Fatal(err)
		}
		if stats.Patched != 0 || stats.Copied+stats.Literal != int64(len(target)) || stats.Written != int64(delta.Len()) {
			t.Fatalf("%+v", stats)
		}
		err = decoder.Decode(&out, Patch{Base: bytes.NewReader(base), Delta: &delta, Size: int64(len(target))})
		if err != nil || !bytes.Equal(out.Bytes(), target) {
			t.Fatalf("%d bytes come back as %d: %v", len(target), out.Len(), err)
		}
	})
}

func TestCopiesThatCannotBeAreRefused(t *testing.T) {
	encoder, err := NewEncoder(Options{Level: LevelNone})
	if err != nil {
		t.Fatal(err)
	}
	target := make([]byte, 100)
	for name, copies := range map[string][]Copy{
		"beyond the target":  {{50, 0, 51}},
		"beyond the base":    {{0, 50, 51}},
		"before the base":    {{0, -1, 10}},
		"before the target":  {{-1, 0, 10}},
		"over another":       {{0, 0, 10}, {9, 20, 10}},
		"out of order":       {{50, 0, 10}, {0, 20, 10}},
		"of nothing":         {{0, 0, 0}},
		"of less":            {{0, 0, -1}},
		"of more than there": {{1, 1, 1<<63 - 1}},
	} {
		if _, err := encoder.Assemble(&bytes.Buffer{}, 100, target, copies); err == nil {
			t.Errorf("a copy %s is taken", name)
		}
	}
	if _, err := encoder.Assemble(&bytes.Buffer{}, -1, target, nil); err == nil {
		t.Error("a base of no size is taken")
	}
}
