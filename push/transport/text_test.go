package transport

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"fleet/closure/run"
)

func TestForeignTextBecomesOneHarmlessLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", " a\nb\tc ": "a b c", "\x1b[31mred\x1b[0m": "red", "a\x1b]0;title\x07b": "ab", "x\x00\x08y": "xy", "\u202eevil": "evil",
	} {
		if got := cleanText(in, 100); got != want {
			t.Errorf("%q becomes %q", in, got)
		}
	}
	if got := cleanText(strings.Repeat("ü", 100), 11); len(got) != 10 {
		t.Errorf("cut to %q", got)
	}
	if got := cleanLines("a\r\n\n\x1b[2Jb\n"+strings.Repeat("c", 100), 10); got != "a\nb\ncccccc" {
		t.Errorf("lines are %q", got)
	}
}

func FuzzCleanText(f *testing.F) {
	f.Add("a\x1b[31mb\nc", 10)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		limit = limit%4096 + 1
		if limit < 1 {
			return
		}
		got := cleanText(in, limit)
		if len(got) > limit || strings.ContainsAny(got, "\x1b\n\r\x00\x07") || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q", in, got)
		}
	})
}

func TestAShellReadsQuotedWordsBackAsTheyWere(t *testing.T) {
	words := []string{"a", "", "it's", "a b", "$HOME `id` \\ \" * ? [x] ~ # !", "new\nline", "A=b", "-n", "ü", "'", "''", "%s"}
	var out bytes.Buffer
	err := run.Run(context.Background(), run.Cmd{Argv: []string{"/bin/sh", "-c", Quote(append([]string{"printf", "%s\\0"}, words...)...)}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(out.String(), "\x00"), "\x00"); strings.Join(got, "|") != strings.Join(words, "|") {
		t.Errorf("read back %q", got)
	}
	if got := Quote("/bin/a-b", "x_y", "1.0"); got != "/bin/a-b x_y 1.0" {
		t.Errorf("plain words become %q", got)
	}
	if got := Quote("a\x00b"); got != "ab" {
		t.Errorf("NUL becomes %q", got)
	}
}

func TestOnlyPlainPinsAreAccepted(t *testing.T) {
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	if pins, err := parsePins([]string{good + " comment", good}); err != nil || len(pins) != 2 || keyText(pins[0]) != good {
		t.Errorf("pins are %v (%v)", pins, err)
	}
	for _, bad := range []string{"", "x", "ssh-rsa " + good[12:], "ssh-ed25519 !", "ssh-ed25519 AAAA"} {
		if _, err := parsePins([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, err := parsePins(make([]string, maxPins+1)); err == nil {
		t.Error("no limit")
	}
}

func FuzzKnownHostsLine(f *testing.F) {
	for _, line := range []string{"h ssh-ed25519 AAAA", "@revoked * x y", "|1|a|b c d", "[h]:1,!x k v", "# c", ""} {
		f.Add([]byte(line))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		path := dir + "/known_hosts"
		if err := writeFile(path, content); err != nil {
			t.Fatal(err)
		}
		if _, err := loadKnownHosts([]string{path}); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	})
}
