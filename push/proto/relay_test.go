package proto

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func takeBytes(t testing.TB, from TakeFrom, infos ...PathInfo) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteTake(&b, from, infos); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packed is text as a peer may send it.
func packed(t testing.TB, text string) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(takeWindow))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll([]byte(text), nil)
}

func TestWhatIsToBeTakenCrossesAsItIs(t *testing.T) {
	from := TakeFrom{Relay: "gate", Addresses: []string{"gate.example.org", "2001:db8::1"}, Port: 7171, Key: strings.Repeat("0a", 32)}
	var want []PathInfo
	for range 1000 {
		info := pathInfo("/nix/store/x", 12)
		info.References, info.Signatures = []string{"/nix/store/y", "/nix/store/x"}, []string{"a:b"}
		want = append(want, info)
	}
	for _, infos := range [][]PathInfo{nil, want[:1], want} {
		gotFrom, got, err := ReadTake(bytes.NewReader(takeBytes(t, from, infos...)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(from, gotFrom) + cmp.Diff(infos, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWhatCannotBeTakenIsRefused(t *testing.T) {
	whole := takeBytes(t, TakeFrom{}, slices.Repeat([]PathInfo{pathInfo("a", 1)}, 100)...)
	info, err := json.Marshal(pathInfo("a", 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"nothing":           nil,
		"no format":         []byte("{}"),
		"no relay":          packed(t, ""),
		"another field":     packed(t, `{"relay":"x","shell":"rm"}`),
		"a path of no size": packed(t, `{} {"path":"a"}`),
		"cut in a frame":    whole[:len(whole)-3],
		"cut in a value":    packed(t, `{} {"path":`),
		"no value":          packed(t, `{} path`),
		"a long value":      packed(t, `{"relay":"`+strings.Repeat("x", maxTake)+`"}`),
		"a long list":       packed(t, "{}"+strings.Repeat(" ", maxTake)),
		"many paths":        packed(t, "{}"+strings.Repeat(string(info), maxTakePaths+1)),
	} {
		if _, infos, err := ReadTake(bytes.NewReader(raw)); err == nil || infos != nil {
			t.Errorf("%s: %d infos, %v", name, len(infos), err)
		}
	}
}

func TestWhatIsWantedCrossesAndNothingBehindIt(t *testing.T) {
	want := slices.Repeat(Lines{"00000000000000000000000000000000-x"}, 10000)
	var b bytes.Buffer
	if err := WriteWanted(&b, want); err != nil {
		t.Fatal(err)
	}
	b.WriteString("rest")
	got, err := ReadWanted(&b, len(want))
	if err != nil || !slices.Equal(got, want) || b.String() != "rest" {
		t.Errorf("%d of %d paths, %v, and %q", len(got), len(want), err, b.String())
	}
	for name, r := range map[string]io.Reader{
		"cut":      strings.NewReader(`"AAAA`),
		"no JSON":  strings.NewReader("paths\n"),
		"endless":  endless{},
		"no lines": strings.NewReader("\"AAAA\"\n"),
	} {
		if got, err := ReadWanted(bufio.NewReader(r), maxLineCount); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestMoreIsNotWantedThanThereMayBe(t *testing.T) {
	var b bytes.Buffer
	if err := WriteWanted(&b, Lines{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	for most, fits := range map[int]bool{0: false, 2: false, 3: true, maxLineCount: true} {
		if got, err := ReadWanted(bytes.NewReader(b.Bytes()), most); (err == nil) != fits || fits && len(got) != 3 {
			t.Errorf("of %d: %q, %v", most, got, err)
		}
	}
	// Names that do not compress fit all the same.
	long := make(Lines, 100)
	for i := range long {
		raw := make([]byte, 105)
		if _, err := rand.Read(raw); err != nil {
			t.Fatal(err)
		}
		long[i] = hex.EncodeToString(raw)
	}
	b.Reset()
	if err := WriteWanted(&b, long); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadWanted(&b, len(long)); err != nil || !slices.Equal(got, long) {
		t.Errorf("%d of %d paths, %v", len(got), len(long), err)
	}
	if _, err := ReadWanted(bufio.NewReader(strings.NewReader(strings.Repeat("x", 1<<20))), 1); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a long text: %v", err)
	}
}

func TestAWholeTakeIsBounded(t *testing.T) {
	for size, want := range map[uint64]time.Duration{0: time.Second, 256 << 20: 1025 * time.Second, math.MaxUint64: 30 * 24 * time.Hour} {
		if got := TakeTime(size); got != want {
			t.Errorf("%d bytes may take %s", size, got)
		}
	}
}

// endless is a text without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func FuzzReadTake(f *testing.F) {
	f.Add(takeBytes(f, TakeFrom{Relay: "gate", Addresses: []string{"x"}, Port: 1}, pathInfo("a", 10), pathInfo("b", 100)))
	f.Add(packed(f, `{} {"path":"a"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		from, infos, err := ReadTake(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, more, err := ReadTake(bytes.NewReader(takeBytes(t, from, infos...)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(from, again) + cmp.Diff(infos, more); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzReadWanted(f *testing.F) {
	var b bytes.Buffer
	if err := WriteWanted(&b, Lines{"a", "b"}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		paths, err := ReadWanted(bytes.NewReader(raw), maxLineCount)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteWanted(&out, paths); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadWanted(&out, len(paths)); err != nil || !slices.Equal(again, paths) {
			t.Fatalf("%q became %q, %v", paths, again, err)
		}
	})
}
