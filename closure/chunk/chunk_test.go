package chunk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fleet/closure/delta"
)

func noise(seed uint64, size int) []byte {
	random := rand.New(rand.NewPCG(seed, 7))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

func cut(t testing.TB, key Key, data []byte) (chunks []Chunk, signature []byte) {
	t.Helper()
	err := NewCutter(key).Cut(bytes.NewReader(data), int64(len(data)), func(c Chunk) error {
		chunks, signature = append(chunks, c), Append(signature, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return chunks, signature
}

// match returns what target has in common with base, through a signature that has crossed, after checking it.
func match(t testing.TB, base, target []byte) (copies []delta.Copy, common int64) {
	t.Helper()
	key := Key{1, 2, 3}
	_, encoded := cut(t, key, base)
	rest := bytes.NewReader(append(encoded, "behind"...))
	signature, err := Read(rest, int64(len(base)))
	if err != nil || rest.Len() != len("behind") {
		t.Fatalf("%d bytes are left: %v", rest.Len(), err)
	}
	if int64(len(encoded)) > MaxSignature(int64(len(base))) {
		t.Fatalf("a signature of %d bytes for %d", len(encoded), len(base))
	}
	chunks, _ := cut(t, key, target)
	copies = signature.Match(chunks)
	at := int64(0)
	for _, c := range copies {
		if c.Target < at || !bytes.Equal(target[c.Target:c.Target+c.Size], base[c.Base:c.Base+c.Size]) {
			t.Fatalf("%+v behind %d is wrong", c, at)
		}
		at = c.Target + c.Size
		common += c.Size
	}
	return copies, common
}

func TestChunksMakeUpTheFileAndDependOnTheKey(t *testing.T) {
	for _, size := range []int{0, 1, MinSize - 1, MinSize, MinSize + 1, MaxSize, 3 << 20} {
		data := noise(1, size)
		chunks, _ := cut(t, Key{}, data)
		others, _ := cut(t, Key{9}, data)
		total := 0
		for i, c := range chunks {
			if total += c.Size; c.Size > MaxSize || c.Size < MinSize && i+1 < len(chunks) {
				t.Errorf("%d bytes: chunk %d has %d", size, i, c.Size)
			}
			if others[i].Size != c.Size || others[i].Hash == c.Hash {
				t.Errorf("%d bytes: chunk %d is %v with one key and %v with another", size, i, c, others[i])
			}
		}
		if total != size {
			t.Errorf("%d bytes are cut into %d", size, total)
		}
	}
}

func TestTheMeanIsSixteenKiB(t *testing.T) {
	chunks, _ := cut(t, Key{}, noise(2, 32<<20))
	if mean := 32 << 20 / len(chunks); mean < 14<<10 || mean > 18<<10 {
		t.Errorf("%d bytes", mean)
	}
}

// Both sides must cut alike for ever, whatever becomes of the code.
func TestTheRulesOfCuttingDoNotChange(t *testing.T) {
	text := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 5)
	data := slices.Concat(noise(3, 50_000), make([]byte, 200_000), []byte(strings.Repeat(text, 100)), noise(4, 70_000))
	chunks, signature := cut(t, Key{5}, data)
	var sizes []int
	for _, c := range chunks {
		sizes = append(sizes, c.Size)
	}
	want := []int{20241, 18558, 5669, 65536, 65536, 65536, 41462, 18994, 29515, 11453}
	if !slices.Equal(sizes, want) {
		t.Errorf("sizes %v", sizes)
	}
	if got := hex.EncodeToString(signature[:2*recordSize]); got != "4f1019757d920deb3209d147c6c6487d07678f00c498eeab0d636919" {
		t.Errorf("signature %s", got)
	}
}

func TestWhatIsEqualIsFound(t *testing.T) {
	base := noise(5, 4<<20)
	changed := bytes.Clone(base)
	for i := range 4 {
		changed[i<<20+1000]++
	}
	for name, tt := range map[string]struct {
		target []byte
		copies int
		least  int64
	}{
		"nothing changed":   {base, 1, 4 << 20},
		"a byte a MiB":      {changed, 4, 4<<20 - 4*2*MaxSize},
		"something put in":  {slices.Concat(base[:1<<20], noise(6, 5000), base[1<<20:]), 2, 4<<20 - 2*MaxSize},
		"something cut out": {slices.Concat(base[:1<<20], base[2<<20:]), 2, 3<<20 - 2*MaxSize},
		"halves exchanged":  {slices.Concat(base[2<<20:], base[:2<<20]), 2, 4<<20 - 4*MaxSize},
		"nothing in common": {noise(7, 1<<20), 0, 0},
		"nothing at all":    {nil, 0, 0},
	} {
		copies, common := match(t, base, tt.target)
		if common < tt.least || len(copies) > tt.copies+1 {
			t.Errorf("%s: %d bytes in %d copies", name, common, len(copies))
		}
	}
}

func TestARunOfEqualChunksIsOneCopy(t *testing.T) {
	base := make([]byte, 1<<20)
	if copies, common := match(t, base, base); len(copies) != 1 || common != 1<<20 {
		t.Errorf("%v", copies)
	}
}

func TestASignatureThatLiesIsRefused(t *testing.T) {
	data := noise(8, 200_000)
	_, good := cut(t, Key{}, data)
	small := bytes.Clone(good)
	small[0], small[1] = 0, 1
	for name, tt := range map[string]struct {
		signature []byte
		size      int64
	}{
		"cut":                    {good[:len(good)-1], 200_000},
		"empty":                  {nil, 1},
		"of another size":        {good, 199_999},
		"of chunks too small":    {small, 200_000},
		"of a file of no size":   {good, -1},
		"of a file of any size":  {good, delta.MaxSize + 1},
		"of less than announced": {good, delta.MaxSize},
	} {
		if _, err := Read(bytes.NewReader(tt.signature), tt.size); err == nil {
			t.Errorf("a signature %s is taken", name)
		}
	}
}

// limited reads only so much of a file.
type limited struct{ data []byte }

func (l limited) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(l.data).ReadAt(p, off)
}

func TestAFileThatIsShorterIsAnError(t *testing.T) {
	err := NewCutter(Key{}).Cut(limited{make([]byte, 100)}, 200, func(Chunk) error { return nil })
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	target := noise(9, 100_000)
	chunks, good := cut(f, Key{}, target)
	f.Add(good, int64(100_000))
	f.Add(good[:50], int64(1<<40))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		signature, err := Read(bytes.NewReader(data), size)
		if err != nil {
			return
		}
		at := int64(0)
		for _, c := range signature.Match(chunks) {
			if c.Size <= 0 || c.Target < at || c.Base < 0 || c.Base+c.Size > size || c.Target+c.Size > int64(len(target)) {
				t.Fatalf("%+v behind %d in a base of %d", c, at, size)
			}
			at = c.Target + c.Size
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), []byte{0, 200, 1, 50, 100, 0, 9, 255, 3})
	f.Add(uint64(2), []byte{})
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		base := noise(seed, 300_000)
		var target []byte
		for ; len(script) >= 3 && len(target) < 1<<20; script = script[3:] {
			at := int(script[0]) * 1000
			target = append(target, base[at:min(len(base), at+int(script[1])*500)]...)
			target = append(target, noise(uint64(script[2]), int(script[2]))...)
		}
		match(t, base, target)
	})
}

func BenchmarkCut(b *testing.B) {
	data := noise(1, 64<<20)
	c := NewCutter(Key{})
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := c.Cut(bytes.NewReader(data), int64(len(data)), func(Chunk) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
