package run

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestStripEscapes(t *testing.T) {
	for rule, text := range map[string][2]string{
		"plain text stays":                   {"a b\tc\n", "a b\tc\n"},
		"letters beyond ASCII stay":          {"größer → 日本", "größer → 日本"},
		"colours":                            {"\x1b[31;1mred\x1b[0m", "red"},
		"256 colours":                        {"\x1b[38;5;208mx", "x"},
		"cursor movement":                    {"a\x1b[2K\x1b[1Gb", "ab"},
		"title ended by BEL":                 {"\x1b]0;evil\ab", "b"},
		"link ended by ST":                   {"\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\", "text"},
		"device control string":              {"\x1bPq#1\x1b\\x", "x"},
		"unended string ends with its line":  {"\x1b]0;evil\nnext", "\nnext"},
		"character set":                      {"\x1b(0x\x1b(B", "x"},
		"single escape":                      {"a\x1bcb", "ab"},
		"escape at the end":                  {"a\x1b", "a"},
		"escape before an escape":            {"\x1b\x1b[31mx", "x"},
		"unended control sequence":           {"a\x1b[31", "a"},
		"one-character introducer":           {"\u009b31mx", "x"},
		"one-character string":               {"\u009dtitle\u009cx", "x"},
		"raw byte of an introducer":          {"\x9b31mx", "\ufffd31mx"},
		"bell, backspace, NUL and DEL":       {"a\a\b\x00\x7fb", "ab"},
		"carriage return before newline":     {"a\r\nb", "a\nb"},
		"other carriage return":              {"10%\r20%", "10% 20%"},
		"marks that reverse text":            {"a\u202eb\u2066c\u200f", "abc"},
		"Unicode's line separator":           {"a\u2028b", "a b"},
		"bytes that are not UTF-8":           {"a\xffb", "a\ufffdb"},
		"escape between what becomes escape": {"\x1b\x1b[m[31mx", "[31mx"},
	} {
		t.Run(rule, func(t *testing.T) {
			if diff := cmp.Diff(text[1], StripEscapes(text[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzStripEscapes(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\r\n\x1b]0;t\a\u009b1m\xff")
	f.Fuzz(func(t *testing.T, text string) {
		got := StripEscapes(text)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q holds %q", got, r)
			}
		}
		if strings.Count(got, "\n") > strings.Count(text, "\n") {
			t.Fatalf("%q has more lines than %q", got, text)
		}
		if again := StripEscapes(got); again != got {
			t.Fatalf("%q is stripped again to %q", got, again)
		}
	})
}

func TestLineWriterCutsLines(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	var got []string
	w := NewLineWriter(func(line string) { got = append(got, line) })
	for _, piece := range []string{"a", "b\nc\r\n\n", "\x1b[3", "1md\n", long, "\nlast"} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.Flush()
	w.Flush()
	if diff := cmp.Diff([]string{"ab", "c", "", "d", long[:maxLine], long[maxLine:], "last"}, got); diff != "" {
		t.Error(diff)
	}
}
