package evaluator

import (
	"fmt"
	"strings"

	"fleet/evaluator/plan"
)

// EvalError says that Nix did not evaluate something.
type EvalError struct {
	// Host is empty where the plan, the helper, or the flake as a whole does not evaluate.
	Host string
	// Summary is the useful part of what Nix said: the error's own lines, then where it happened. It is free of escape codes.
	Summary []string
	// LogFile holds the whole text; empty where it could not be written.
	LogFile string
	// Remedy is what mends this error, where that is known.
	Remedy string
	// Traced says that the text has a full trace already.
	Traced bool
}

func (e *EvalError) Error() string {
	what := "the fleet"
	if e.Host != "" {
		what = fmt.Sprintf("host %q", e.Host)
	}
	return fmt.Sprintf("evaluate %s: %s", what, strings.Join(e.Summary, "\n  "))
}

// Hint is the remedy, else where more is to be read.
func (e *EvalError) Hint() string {
	var parts []string
	if e.Remedy != "" {
		parts = append(parts, e.Remedy)
	}
	if e.LogFile != "" {
		parts = append(parts, "full text: "+e.LogFile)
	}
	if e.Remedy == "" && !e.Traced {
		parts = append(parts, "for a full trace run it again with --show-trace")
	}
	return strings.Join(parts, "; ")
}

// BuildError says that a host's system, or something that is built for the fleet, did not build.
type BuildError struct {
	// Host is empty for what is no host's.
	Host string
	// Drv is the derivation that failed, the host's own where that is not known.
	Drv string
	// Summary is what Nix said, free of escape codes.
	Summary []string
	// LogTail is the end of what the failing build printed, free of escape codes.
	LogTail []string
	// LogFile holds all that was printed; empty where it could not be written.
	LogFile string
}

func (e *BuildError) Error() string {
	lines := append([]string{}, e.Summary...)
	for _, line := range e.LogTail {
		lines = append(lines, "> "+line)
	}
	what := fmt.Sprintf("host %q", e.Host)
	if e.Host == "" {
		what = e.Drv
	}
	return fmt.Sprintf("build %s: %s", what, strings.Join(lines, "\n  "))
}

// Hint is the command that prints the build's log.
func (e *BuildError) Hint() string {
	hint := "for the log run: nix log " + e.Drv
	if e.LogFile != "" {
		hint += "; full text: " + e.LogFile
	}
	return hint
}

// NoFlakeError says that there is no flake to work on.
type NoFlakeError struct {
	// Dir is where the search began.
	Dir string
	// Missing says that there is no such folder.
	Missing bool
}

func (e *NoFlakeError) Error() string {
	if e.Missing {
		return fmt.Sprintf("find flake: there is no folder %q", e.Dir)
	}
	return fmt.Sprintf("find flake: there is no flake.nix in %q nor in a folder above it", e.Dir)
}

// Hint is the remedy.
func (e *NoFlakeError) Hint() string {
	return "run this inside the folder of your fleet's flake, or name it: --flake PATH-OR-URL"
}

// FragmentError says that a flake was named together with an output of it.
type FragmentError struct{ Ref string }

func (e *FragmentError) Error() string {
	return fmt.Sprintf("lock flake %q: a flake is needed, without # and an output", e.Ref)
}

// Hint is the remedy.
func (e *FragmentError) Hint() string {
	flake, output, _ := strings.Cut(e.Ref, "#")
	if flake == "" {
		flake = "."
	}
	return fmt.Sprintf("the fleet is named apart: --flake %s --fleet %s", flake, output)
}

// OtherFlakeError says that the program came from another flake than the one it stands in.
type OtherFlakeError struct {
	// Found is the flake around the working directory.
	Found string
	// App is the store path of the flake that the program came from.
	App string
}

func (e *OtherFlakeError) Error() string {
	return fmt.Sprintf("check flake: this program was started from the flake %s, which is not %q", e.App, e.Found)
}

// Hint is the remedy.
func (e *OtherFlakeError) Hint() string {
	return "start it from the flake itself (nix run .#deploy), or say which one is meant: --flake " + e.Found
}

// NoFleetError says that a flake has no fleet of a name.
type NoFleetError struct {
	Fleet string
	// Known are the fleets that the flake has, sorted.
	Known []string
}

func (e *NoFleetError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("find fleet %q: the flake has no fleetConfigurations", e.Fleet)
	}
	return fmt.Sprintf("find fleet %q: the flake has no fleetConfigurations.%s", e.Fleet, e.Fleet)
}

// Hint names the fleets that exist.
func (e *NoFleetError) Hint() string {
	if len(e.Known) == 0 {
		return "import flakeModules.default of the fleet flake and set fleetConfigurations.default, as in docs/guide/getting-started.md"
	}
	return "it has " + strings.Join(e.Known, ", ") + "; name one with --fleet"
}

// NixVersionError says that the installed Nix is too old.
type NixVersionError struct{ Got, Want string }

func (e *NixVersionError) Error() string {
	return fmt.Sprintf("check nix: its version is %s, and %s is needed", e.Got, e.Want)
}

// Hint is the remedy.
func (e *NixVersionError) Hint() string { return "install a newer Nix, see https://nixos.org/download" }

// HelperError says that there is no helper for a target system.
type HelperError struct {
	// System is the target's.
	System string
	Reason string
	Remedy string
}

func (e *HelperError) Error() string {
	return fmt.Sprintf("find helper for %s: %s", e.System, e.Reason)
}

// Hint is the remedy.
func (e *HelperError) Hint() string { return e.Remedy }

// StaticError says that a static plan cannot be used.
type StaticError struct {
	// File is the plan.
	File string
	// Reason names the place inside of the file where there is one, as file:line:column.
	Reason string
	Remedy string
	// Err is the cause, where it is one that a caller may look at.
	Err error
}

func (e *StaticError) Error() string { return fmt.Sprintf("read plan %q: %s", e.File, e.Reason) }

// Unwrap gives the cause.
func (e *StaticError) Unwrap() error { return e.Err }

// Hint is the remedy, or that of the cause.
func (e *StaticError) Hint() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	if hinted, ok := e.Err.(interface{ Hint() string }); ok {
		return hinted.Hint()
	}
	return ""
}

var (
	_ error    = (*EvalError)(nil)
	_ Reporter = silent{}
)

// silent is the reporter where none was given.
type silent struct{}

func (silent) Emit(plan.Event) {}
