package text

import (
	"strings"
	"testing"
	"time"
)

func TestLineIsFreeOfWhatATerminalWouldObey(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                     "plain",
		"a\x1b[31mred\x1b[0m b":     "ared b",
		"title\x1b]0;owned\x07 end": "title end",
		"two\nlines\tand tab":       "two lines and tab",
		"bell\x07 null\x00":         "bell null",
		"reversed \u202etxt":        "reversed txt",
		"over\rwritten":             "over written",
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCutAndPadCountCells(t *testing.T) {
	for _, test := range []struct {
		in    string
		width int
		cut   string
	}{
		{"short", 10, "short"}, {"exactly", 7, "exactly"}, {"too long", 5, "too …"}, {"x", 0, ""},
		{"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"e\u0301te\u0301", 3, "e\u0301te\u0301"},
	} {
		got := Cut(test.in, test.width)
		if got != test.cut || Width(got) > test.width {
			t.Errorf("Cut(%q, %d) = %q", test.in, test.width, got)
		}
		if padded := Pad(got, 12); Width(padded) != 12 {
			t.Errorf("Pad(%q) takes %d cells", got, Width(padded))
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 1 << 60: "1024.0 PiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0.0s", 1234 * time.Millisecond: "1.2s", 42 * time.Second: "42s", 185 * time.Second: "3m05s", 62 * time.Minute: "1h02m"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("some text", 4)
	f.Fuzz(func(t *testing.T, s string, width int) {
		s = Line(s)
		if got := Cut(s, width); width >= 0 && Width(got) > width || !strings.HasPrefix(s, strings.TrimSuffix(got, "…")) {
			t.Errorf("Cut(%q, %d) = %q", s, width, got)
		}
	})
}
