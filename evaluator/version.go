package evaluator

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"fleet/closure/run"
	"fleet/evaluator/plan"
)

// nixVersion is the version of Nix that an installed nix is, or is compatible with.
type nixVersion struct {
	major, minor int
	text         string
}

// parseVersion reads what nix --version prints: "nix (Nix) 2.26.3", "nix (Lix, like Nix) 2.91.1", "nix (Determinate Nix 3.8.5) 2.30.2".
func parseVersion(line string) (nixVersion, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nixVersion{}, fmt.Errorf("read version of nix: it printed nothing")
	}
	text := words[len(words)-1]
	parts := strings.SplitN(text, ".", 3)
	if len(parts) < 2 {
		return nixVersion{}, fmt.Errorf("read version of nix: %q is no version", text)
	}
	// A version before its release is "2.19pre20231123_abc".
	minorText, _, _ := strings.Cut(parts[1], "pre")
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(minorText)
	if err1 != nil || err2 != nil {
		return nixVersion{}, fmt.Errorf("read version of nix: %q is no version", text)
	}
	return nixVersion{major: major, minor: minor, text: text}, nil
}

func (v nixVersion) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// checkVersion asks nix for its version, once. The real nixpkgs refuses to be evaluated by Nix before 2.18, while 2.8
// does everything that we need of it.
func (n *Nix) checkVersion(ctx context.Context) error {
	n.mu.Lock()
	known := n.version != nil
	n.mu.Unlock()
	if known {
		return nil
	}
	out, err := run.Output(ctx, run.Cmd{Argv: []string{"nix", "--version"}, MaxOutput: 1 << 16, NewSession: true})
	if err != nil {
		return fmt.Errorf("ask nix for its version: %w", err)
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return err
	}
	if !v.atLeast(2, 8) {
		return &NixVersionError{Got: v.text, Want: "2.18 or newer"}
	}
	n.mu.Lock()
	n.version = &v
	n.mu.Unlock()
	if !v.atLeast(2, 18) {
		n.emit(plan.Event{
			Step: plan.StepPlan, Kind: plan.EventWarning,
			Message: "nix " + v.text + " is older than 2.18, which current nixpkgs needs",
			Hint:    "install a newer Nix, see https://nixos.org/download",
		})
	}
	return nil
}
