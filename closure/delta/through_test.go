package delta

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestAViewIsTheSameWhereverItIsCut(t *testing.T) {
	const from, to = "0c4d6b8z1v2x3y5w7q9rsndfghijklmp", "1111111111111111111111111111111a"
	base := strings.Repeat("x/"+from+"-name/"+from[:31]+" and ", 40)
	want := strings.ReplaceAll(base, from, to)
	v := NewView(strings.NewReader(base), mustRefs(t, map[string]string{from: to}))
	if v.Size() != int64(len(base)) {
		t.Errorf("a view of %d bytes, not %d", v.Size(), len(base))
	}
	for _, size := range []int{1, 7, 31, 32, 33, 500, len(base)} {
		var got bytes.Buffer
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, io.NewSectionReader(v, 0, v.Size()), make([]byte, size)); err != nil || got.String() != want {
			t.Errorf("in pieces of %d: %v, %q", size, err, got.String())
		}
	}
}

func TestAViewEndsWhereTheBaseDoes(t *testing.T) {
	v := NewView(strings.NewReader("hello"), nil)
	data := make([]byte, 4)
	for off, want := range map[int64]int{3: 2, 5: 0, 50: 0} {
		if n, err := v.ReadAt(data, off); n != want || err != io.EOF {
			t.Errorf("at %d: %d bytes, %v", off, n, err)
		}
	}
	if _, err := v.ReadAt(data, -1); err == nil {
		t.Error("a view begins before its beginning")
	}
}

func TestATargetThatBeginsWhereItIsExpectedNeedsNoIndex(t *testing.T) {
	base := randomBytes(3 << 20)
	for _, at := range []int64{-5, 0, 1 << 20, 3 << 20, 1 << 50} {
		target := base[max(0, min(at, 2<<20)):][:1<<20]
		var out, got bytes.Buffer
		stats, err := Encode(&out, Input{Base: bytes.NewReader(base), Target: bytes.NewReader(target), Size: 1 << 20, At: at}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if expected := at >= 0 && at <= 2<<20; expected && (stats.Index != 0 || out.Len() > 100) {
			t.Errorf("at %d: %d bytes, an index of %d", at, out.Len(), stats.Index)
		}
		if err := Decode(&got, Patch{Base: bytes.NewReader(base), Delta: &out, Size: 1 << 20}, Limits{}); err != nil || !bytes.Equal(got.Bytes(), target) {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

func randomBytes(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{20, 26}).Read(data)
	return data
}
