package push

import (
	_ "embed"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"fleet/closure/storepath"
	"fleet/push/transport"
)

//go:embed script/probe.sh
var probeScript string

// plainPath matches absolute paths of characters that no shell and no unit file gives a meaning; [isPlainPath] also bounds them.
const plainPath = `(?:/[A-Za-z0-9._+-]+)+`

// maxProbe bounds a probe's whole answer, with what the login shell adds to it, in bytes.
const maxProbe = 64 << 10

// maxValue bounds one answer, in bytes.
const maxValue = 255

// probeResult is a host's checked answer to the probe. Every field is what an unprivileged and perhaps hostile
// host claims: it chooses what we do, and nothing of it is used as a command without the checks in parseProbe.
type probeResult struct {
	UID     uint32
	User    string
	OS      string
	Machine string
	// Store and State say whether /nix/store and /nix/var/nix are there.
	Store, State bool
	// Daemon says whether there is a daemon socket that the user may write to: "yes", "denied", "no".
	Daemon string
	// Own says whether the user may write to the store's database without the daemon.
	Own     bool
	Systemd bool
	// HelperThere says whether the helper's executable is there; whether Nix has registered it is not known yet.
	HelperThere bool
	// Tools are absolute paths of sudo, doas, run0, gzip; a missing tool has none.
	Tools map[string]string
}

// probeCommand is the line that the login shell runs. The script is in it, since a server takes no input for a command before it has started that.
func probeCommand(marker string, helper storepath.Path) string {
	return transport.Quote("/bin/sh", "-c", compact(probeScript), "fleet", marker, helper.String())
}

// parseProbe reads a probe's output. Lines without the marker are the login shell's and are skipped; in those with it,
// every key must be known, appear once and hold a value of its type.
func parseProbe(marker, output string) (probeResult, error) {
	values, err := probeValues(marker, output)
	if err != nil {
		return probeResult{}, err
	}
	r := probeResult{
		User: values["user"], OS: values["os"], Machine: values["machine"], Daemon: values["daemon"],
		Store: values["store"] == "yes", State: values["state"] == "yes", Systemd: values["systemd"] == "yes", Own: values["own"] == "yes",
		HelperThere: values["helper"] == "there", Tools: map[string]string{},
	}
	uid, err := strconv.ParseUint(values["uid"], 10, 32)
	if err != nil {
		return probeResult{}, fmt.Errorf("parse uid %q: %v", values["uid"], err)
	}
	r.UID = uint32(uid)
	for _, tool := range []string{"sudo", "doas", "run0", "gzip"} {
		if path := values[tool]; path != "" {
			r.Tools[tool] = path
		}
	}
	return r, nil
}

// probeValues splits the output into keys and values and checks each value's form.
func probeValues(marker, output string) (map[string]string, error) {
	if len(output) > maxProbe {
		return nil, fmt.Errorf("answer is longer than %d bytes", maxProbe)
	}
	forms := probeForms()
	values := make(map[string]string, len(forms))
	for line := range strings.Lines(output) {
		rest, ours := strings.CutPrefix(strings.TrimRight(line, "\r\n"), marker+" ")
		if !ours {
			continue
		}
		key, value, ok := strings.Cut(rest, "=")
		form, known := forms[key]
		_, again := values[key]
		switch {
		case !ok || !known:
			return nil, fmt.Errorf("unexpected line %q", excerpt(rest, false))
		case again:
			return nil, fmt.Errorf("%q is answered twice", key)
		case values["end"] != "":
			return nil, fmt.Errorf("%q comes after the end", key)
		case len(value) > maxValue || !form.MatchString(value):
			return nil, fmt.Errorf("%q cannot be %q", key, excerpt(value, false))
		}
		values[key] = value
	}
	for key := range forms {
		if _, ok := values[key]; !ok {
			return nil, fmt.Errorf("answer lacks %q", key)
		}
	}
	return values, nil
}

// probeForms says what each key's value must look like.
func probeForms() map[string]*regexp.Regexp {
	form := func(expr string) *regexp.Regexp { return regexp.MustCompile(`\A(?:` + expr + `)\z`) }
	yesNo, tool, name := form(`yes|no`), form(`(?:`+plainPath+`)?`), form(`[A-Za-z0-9._-]{1,64}`)
	return map[string]*regexp.Regexp{
		"uid": form(`0|[1-9][0-9]{0,9}`), "user": form(`[A-Za-z0-9._@$\\-]{1,256}`), "os": name, "machine": name,
		"store": yesNo, "state": yesNo, "own": yesNo, "systemd": yesNo, "daemon": form(`yes|denied|no`),
		"helper": form(`missing|there`), "sudo": tool, "doas": tool, "run0": tool, "gzip": tool, "end": form(`yes`),
	}
}

// isPlainPath says whether text is an absolute path that can be used in a command without surprises.
func isPlainPath(text string) bool {
	return len(text) <= maxValue && path.Clean(text) == text && regexp.MustCompile(`\A`+plainPath+`\z`).MatchString(text)
}

// runs says whether a machine whose uname says os and machine runs programs of the Nix system want.
func runs(want, os, machine string) bool {
	cpu, kernel, _ := strings.Cut(want, "-")
	if !strings.EqualFold(kernel, os) {
		return false
	}
	if cpu == machine {
		return true
	}
	also := map[string][]string{
		"x86_64":  {"i686"},
		"i586":    {"i686"},
		"aarch64": {"armv7l", "armv6l"},
		"armv8l":  {"armv7l", "armv6l"}, // a 32-bit user space on a 64-bit kernel
		"armv7l":  {"armv6l"},
		"arm64":   {"aarch64"}, // Darwin's name of it
	}
	for _, c := range also[machine] {
		if c == cpu {
			return true
		}
	}
	return false
}
