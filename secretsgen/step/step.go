package step

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"

	"fleet/secretsgen/secret"
)

// Options say where and as whom a generator runs. Helper is needed, all else may be left out.
type Options struct {
	// Helper is the absolute path of fleet-helper on this machine. It is started with ChildCommand in new namespaces, and is what `gh`
	// and `encrypt` are in the generator's PATH.
	Helper string
	// User is who the generator runs as; nil is the calling user. Only root can name another user.
	User *User
	// Project is the flake's folder, which the generator sees as FLEET_PROJECT, in a sandbox read-only. Empty on hosts.
	Project string
	// Identities open the sealed dependencies. They are used in the calling process alone.
	Identities []age.Identity
	// Path is the PATH of a generator that has no sandbox, after the folder of `gh` and `encrypt`. Empty means [DefaultPath] where User is
	// given and the calling process' own PATH where it is not.
	Path string
	// Bubblewrap is the program that makes sandboxes; empty means bwrap in PATH.
	Bubblewrap string
	// Reporter receives what the generator printed, a line at a time, once it has ended: only then is known which values must
	// not be shown. Lines have no escape codes and none of the values that were made or read. Nil means that nobody listens.
	Reporter func(line string)
	// Warn receives what the caller should know of this machine, such as that memory may be swapped out. Nil means that nobody listens.
	Warn func(text string)
}

// User is a user of the machine that runs a generator.
type User struct {
	// Name is the login name; empty is allowed.
	Name     string
	UID, GID uint32
	// Groups are the supplementary groups.
	Groups []uint32
	// Home is HOME of a generator that has no sandbox.
	Home string
}

// ChildCommand is the hidden command of fleet-helper that calls [Child].
const ChildCommand = "generate-step"

// DefaultPath is where a login user of a host finds programs: NixOS, a multi-user Nix on another system, and the usual folders.
const DefaultPath = "/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:" +
	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The values of [Request].Sandbox.
const (
	// SandboxStrict: no network, no home, nothing but the store and the system's programs, read-only.
	SandboxStrict = "strict"
	// SandboxNetwork: strict, with the network.
	SandboxNetwork = "network"
	// SandboxNone: only the private folder.
	SandboxNone = "none"
)

var (
	// ErrSandbox is what errors.Is finds where a sandbox was asked for and cannot be had on this machine. Nothing was run.
	ErrSandbox = errors.New("no sandbox")
	// ErrTimeout is what errors.Is finds where the generator took longer than it may. It was killed.
	ErrTimeout = errors.New("took too long")
)

// Error says why a generator made no value. It holds nothing of what the generator made.
type Error struct {
	ID secret.ID
	// Err is the cause.
	Err error
	// Output is the end of what the generator printed, without escape codes and without the values that it made or read.
	Output string
	// Remedy is what to do about it; may be empty.
	Remedy string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("generate secret %q: %v", e.ID, e.Err)
	if out := strings.TrimSpace(e.Output); out != "" {
		text += "; it printed:\n" + indent(out)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says how to mend it.
func (e *Error) Hint() string { return e.Remedy }

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }

// Run runs a generator in a private folder and returns the value that it made, encrypted parts sealed to the owners of the request.
//
// The error is an [*Error], or wraps ctx.Err() where ctx ended first; both mean that there is no value. Whatever happens, also where the
// calling process is killed, neither the private folder nor a process of the generator is left once Run has returned or the process is gone;
// the one exception is a machine that allows no namespaces, where a folder that a killed process has left is removed by the next run.
// Run may be called by several goroutines at once.
func Run(ctx context.Context, req Request, opt Options) (Result, error) {
	if err := req.validate(); err != nil {
		return Result{}, &Error{ID: req.ID, Err: err}
	}
	return runStep(ctx, req, opt)
}
