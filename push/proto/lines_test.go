package proto

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestLinesCrossAsTheyAre(t *testing.T) {
	for _, want := range []Lines{nil, {"one"}, {"one", "two", "one"}, slices.Repeat(Lines{strings.Repeat("x", 40)}, 100000)} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Lines
		if err := json.Unmarshal(text, &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d lines came as %d, %v", len(want), len(got), err)
		}
	}
}

func TestWhatIsNoLineIsNotSent(t *testing.T) {
	for _, lines := range []Lines{{""}, {"a", ""}, {"a\nb"}} {
		if _, err := json.Marshal(lines); err == nil {
			t.Errorf("%q was sent", lines)
		}
	}
}

// packLines is what a peer may send.
func packLines(t testing.TB, plain string) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	text, err := json.Marshal(z.EncodeAll([]byte(plain), nil))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestListsThatWouldFillTheMemoryAreRefused(t *testing.T) {
	for name, text := range map[string][]byte{
		"more text than the limit":  packLines(t, strings.Repeat("x", maxLines+1)),
		"more lines than the limit": packLines(t, strings.Repeat("x\n", maxLineCount)+"x"),
		"an empty line":             packLines(t, "a\n\nb"),
		"no list":                   []byte(`"AAAA"`),
	} {
		var lines Lines
		if err := json.Unmarshal(text, &lines); err == nil || lines != nil {
			t.Errorf("%s: %d lines, %v", name, len(lines), err)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`"KLUv/QQAEQAAYQpi"`))
	f.Add([]byte(`null`))
	f.Add([]byte(`""`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var lines, again Lines
		if json.Unmarshal(text, &lines) != nil {
			return
		}
		back, err := json.Marshal(lines)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(back, &again); err != nil || !slices.Equal(lines, again) {
			t.Fatalf("%d lines came back as %d, %v", len(lines), len(again), err)
		}
	})
}
