package step

import (
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"fleet/secretsgen/secret"
)

const pemKey = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAmVNZbQvVEBkqTb9aVVWt0kcxoYXNaiLhHUIvQBoTzu\n-----END PRIVATE KEY-----\n"

func TestValuesAreTakenOutOfWhatIsShown(t *testing.T) {
	for name, test := range map[string]struct{ value, printed, want string }{
		"as it is":                    {"hunter2-and-more", "the key is hunter2-and-more, really", "the key is [redacted], really"},
		"traced by the shell":         {"hunter2-and-more", "+ echo hunter2-and-more\nhunter2-and-more\n", "+ echo [redacted]\n[redacted]\n"},
		"without its last newline":    {"hunter2-and-more\n", "hunter2-and-more hunter2-and-more\n", "[redacted] [redacted]\n"},
		"in base64":                   {"hunter2-and-more", base64.StdEncoding.EncodeToString([]byte("hunter2-and-more")), "[redacted]=="},
		"in hexadecimal":              {"hunter2-and-more", hex.EncodeToString([]byte("hunter2-and-more")), "[redacted]"},
		"line by line, indented":      {pemKey, "  " + strings.ReplaceAll(pemKey, "\n", "\n  "), "  [redacted]\n  [redacted]\n  [redacted]\n  "},
		"with escape codes in it":     {"hunter2-and-more", "\x1b[1mhun\x1b[31mter2-and-more\x1b[0m", "[redacted]"},
		"with control codes in it":    {"hunter2-and-more", "hunter2\x00-and\x07-more", "[redacted]"},
		"binary, as far as it prints": {"\x00\x01hunter2\xff\x02more", "\x00\x01hunter2\xff\x02more", "[redacted]"},
		"a short one stays":           {"pin", "pin", "pin"},
		"twice in one another":        {"abcdefgh\nabcdefghij", "abcdefghij", "[redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRedactor([]secret.Plain{secret.NewPlain([]byte(test.value))})
			if got := r.Text([]byte(test.printed), false); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// What is cut off must not leave the second half of a value behind, wherever the cut is.
func TestNoHalfOfAValueIsShownWhereTheBeginningIsCut(t *testing.T) {
	value := strings.Repeat("correct horse battery staple\n", 40)
	r := newRedactor([]secret.Plain{secret.NewPlain([]byte(value))})
	for range 500 {
		var p printed
		before := strings.Repeat("x", rand.IntN(200))
		after := strings.Repeat("some more words here\n", MaxOutput/21-rand.IntN(40))
		for _, text := range []string{before, value, "\n", after} {
			_, _ = p.Write([]byte(text))
		}
		if got := p.text(r); strings.Contains(got, "battery") || strings.Contains(got, "staple") {
			t.Fatalf("shown: %.200q", got)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("hunter2-and-more", "say hunter2-and-more", uint16(3))
	f.Add("\x1b[31mhunter2", "\x1b[31mhunter2", uint16(0))
	f.Fuzz(func(t *testing.T, value, text string, cut uint16) {
		r := newRedactor([]secret.Plain{secret.NewPlain([]byte(value))})
		whole := text + value + text
		got := r.Text([]byte(whole)[min(int(cut), len(whole)):], cut > 0)
		trimmed := strings.TrimSpace(value)
		if len(trimmed) >= smallestLine && !strings.Contains(redacted, trimmed) && strings.Contains(got, trimmed) {
			t.Errorf("%q is shown in %q", trimmed, got)
		}
	})
}
