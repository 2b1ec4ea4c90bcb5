package push

import (
	"context"
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/closure/storepath"
)

const testHelper = "/nix/store/00000000000000000000000000000000-fleet-helper-1"

func answer(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(testMarker + " " + line + "\n")
	}
	return b.String()
}

func goodAnswer() []string {
	return []string{
		"uid=1000", "user=ann", "os=Linux", "machine=x86_64", "store=yes", "state=yes", "systemd=yes", "daemon=yes", "own=no",
		"helper=missing", "sudo=/run/wrappers/bin/sudo", "doas=", "run0=/usr/bin/run0", "gzip=/bin/gzip", "end=yes",
	}
}

func TestProbeIsReadThroughALoginShellsNoise(t *testing.T) {
	lines := strings.SplitAfter(answer(goodAnswer()...), "\n")
	noisy := "Welcome to web!\nuid=0\n\x1b[1mnews\x1b[0m\n" + strings.Join(lines[:3], "") + "a job ended\n" + strings.ReplaceAll(strings.Join(lines[3:], ""), "\n", "\r\n") + "bye"
	got, err := parseProbe(testMarker, noisy)
	if err != nil {
		t.Fatal(err)
	}
	want := probeResult{
		UID: 1000, User: "ann", OS: "Linux", Machine: "x86_64", Store: true, State: true, Daemon: "yes", Systemd: true,
		Tools: map[string]string{"sudo": "/run/wrappers/bin/sudo", "run0": "/usr/bin/run0", "gzip": "/bin/gzip"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProbeRefusesALyingHost(t *testing.T) {
	replace := func(key, with string) []string {
		lines := goodAnswer()
		for i, line := range lines {
			if strings.HasPrefix(line, key+"=") {
				lines[i] = with
			}
		}
		return lines
	}
	for rule, lines := range map[string][]string{
		"nothing":               nil,
		"cut off":               goodAnswer()[:14],
		"a key twice":           append(goodAnswer()[:14], "uid=0", "end=yes"),
		"a key after the end":   append(replace("uid", "os=Linux")[1:], "uid=0"),
		"an unknown key":        append([]string{"sh=/bin/sh"}, goodAnswer()...),
		"no value":              append([]string{"hello"}, goodAnswer()...),
		"negative uid":          replace("uid", "uid=-1"),
		"uid beyond 32 bits":    replace("uid", "uid=4294967296"),
		"uid 00":                replace("uid", "uid=00"),
		"user with a space":     replace("user", "user=ann root"),
		"user with an escape":   replace("user", "user=\x1b[31mann"),
		"tool with an argument": replace("sudo", "sudo=/bin/sudo -x"),
		"tool with a command":   replace("sudo", "sudo=/bin/$(reboot)"),
		"tool that is relative": replace("gzip", "gzip=gzip"),
		"endless tool":          replace("sudo", "sudo=/"+strings.Repeat("x", 300)),
		"neither yes nor no":    replace("store", "store=maybe"),
		"unknown helper state":  replace("helper", "helper=fine"),
	} {
		t.Run(rule, func(t *testing.T) {
			if got, err := parseProbe(testMarker, answer(lines...)); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
	if _, err := parseProbe(testMarker, strings.Repeat("\n", maxProbe)+answer(goodAnswer()...)); err == nil {
		t.Error("an endless answer was accepted")
	}
}

func TestProbeScriptAnswersHere(t *testing.T) {
	helper, err := storepath.Parse(testHelper)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run.Run(context.Background(), run.Cmd{Argv: []string{"/bin/sh", "-c", probeCommand(testMarker, helper)}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	got, err := parseProbe(testMarker, out.String())
	if err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if got.User != me.Username || got.OS != "Linux" || got.HelperThere {
		t.Errorf("%+v", got)
	}
}

func TestSystemsThatAMachineRuns(t *testing.T) {
	for _, c := range []struct {
		want, os, machine string
		ok                bool
	}{
		{"x86_64-linux", "Linux", "x86_64", true},
		{"i686-linux", "Linux", "x86_64", true},
		{"aarch64-linux", "Linux", "x86_64", false},
		{"x86_64-linux", "Darwin", "x86_64", false},
		{"aarch64-darwin", "Darwin", "arm64", true},
		{"armv7l-linux", "Linux", "armv8l", true},
		{"armv7l-linux", "Linux", "armv6l", false},
		{"riscv64-linux", "Linux", "riscv64", true},
		{"", "Linux", "x86_64", false},
	} {
		if got := runs(c.want, c.os, c.machine); got != c.ok {
			t.Errorf("runs(%q, %q, %q) = %v", c.want, c.os, c.machine, got)
		}
	}
}

func FuzzParseProbe(f *testing.F) {
	f.Add(answer(goodAnswer()...))
	f.Fuzz(func(t *testing.T, output string) {
		r, err := parseProbe(testMarker, output)
		if err != nil {
			return
		}
		for tool, path := range r.Tools {
			if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " '\"\\$`\n") {
				t.Errorf("%s is %q", tool, path)
			}
		}
	})
}
