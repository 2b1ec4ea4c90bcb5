package push

import (
	"errors"
	"fmt"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// NoStoreError says that a host has no Nix store of its own, so that nothing can be pushed to it. Nothing was changed there.
type NoStoreError struct{ Host string }

func (e *NoStoreError) Error() string {
	return fmt.Sprintf("probe host %q: it has no /nix/var/nix, so Nix is not installed there", e.Host)
}

// Hint says how a host gets a store.
func (e *NoStoreError) Hint() string {
	return "install NixOS (or, to push only, Nix) on the host first; nothing was changed there"
}

// WrongSystemError says that a host is not what the plan says it is. Nothing was changed there.
type WrongSystemError struct {
	Host string
	// Want is the plan's system, OS and Machine what the host's uname says.
	Want, OS, Machine string
}

func (e *WrongSystemError) Error() string {
	return fmt.Sprintf("probe host %q: the plan says %q, the host is %s on %s", e.Host, e.Want, e.OS, e.Machine)
}

// Hint names the option that is wrong.
func (e *WrongSystemError) Hint() string {
	return fmt.Sprintf("correct hosts.%s.system, or the address: this may be another machine", e.Host)
}

// ProbeError says that a host's answer to the probe cannot be used. Nothing was changed there.
type ProbeError struct {
	Host, Reason string
	// Output is the start of what the host printed, free of escape codes; empty where it printed nothing.
	Output string
}

func (e *ProbeError) Error() string {
	msg := fmt.Sprintf("probe host %q: %s", e.Host, e.Reason)
	if e.Output != "" {
		msg += fmt.Sprintf("; it printed %q", e.Output)
	}
	return msg
}

// restricted says whether the host answers, but not what was asked, as where the login may run one command alone.
func (e *ProbeError) restricted() bool { return e.Reason != errTimeout.Error() }

// Hint says what the login shell must be able to do.
func (e *ProbeError) Hint() string {
	return "the login user needs a shell that runs commands given to ssh: try ssh HOST /bin/sh -c true"
}

// NoElevationError says that the login user cannot become root.
type NoElevationError struct {
	Host, User string
	// Tried are the programs that were tried, in order; empty where the host has none.
	Tried []string
	// Reason is what each of them said.
	Reason string
}

func (e *NoElevationError) Error() string {
	how := "none of sudo, doas and run0 is there"
	if len(e.Tried) > 0 {
		how = e.Reason
	}
	return fmt.Sprintf("become root on %q as user %q: %s", e.Host, e.User, how)
}

// Hint says what to configure.
func (e *NoElevationError) Hint() string {
	return fmt.Sprintf("give %s sudo (or doas, run0) rights on %s, log in as root (deploy.user), or push only with deploy.elevation = \"none\"", e.User, e.Host)
}

// PasswordError says that the host refused the password.
type PasswordError struct{ Host, User, With string }

func (e *PasswordError) Error() string {
	return fmt.Sprintf("become root on %q: %s refused the password of user %q", e.Host, e.With, e.User)
}

// Hint says what to do about it.
func (e *PasswordError) Hint() string {
	return "run it again with the login user's own password on that host"
}

// BootstrapError says that the helper could not be made to run on a host.
type BootstrapError struct {
	Host, Reason string
	// Output is the end of what the host printed, free of escape codes.
	Output string
	// Unable says that the host does not let the helper run, and that nothing else seems to be wrong with it.
	Unable bool
}

func (e *BootstrapError) Error() string {
	msg := fmt.Sprintf("start the agent on %q: %s", e.Host, e.Reason)
	if e.Output != "" {
		msg += ": " + e.Output
	}
	return msg
}

// PlainError says that a push without the helper, which cannot run on a host, is not possible either. Nothing was changed there.
type PlainError struct {
	Host string
	// Reason is free of escape codes.
	Reason string
	// Cause is why the helper cannot run there.
	Cause error
}

func (e *PlainError) Error() string {
	return fmt.Sprintf("%v; and without the helper: push to %q: %s", e.Cause, e.Host, e.Reason)
}

// Unwrap returns the cause, whose hint holds.
func (e *PlainError) Unwrap() error { return e.Cause }

// VersionError says that the agent on a host speaks another version of the protocol.
type VersionError struct {
	Host         string
	Ours, Theirs int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("attach to the agent on %q: it speaks protocol version %d, we speak %d", e.Host, e.Theirs, e.Ours)
}

// Hint says how the two come to differ.
func (e *VersionError) Hint() string {
	return "this fleet-helper and the flake's fleet input differ: use the fleet-helper of the flake (nix run .#fleet)"
}

// LockedError says that another operator's activation holds the host.
type LockedError struct {
	Host string
	// Holder is nil where the host did not say who it is.
	Holder *proto.LockHolder
}

func (e *LockedError) Error() string {
	if e.Holder == nil {
		return fmt.Sprintf("activate on %q: another activation holds the host's lock", e.Host)
	}
	return fmt.Sprintf("activate on %q: %s holds the host's lock since %s (transaction %s)", e.Host, e.Holder.Owner, e.Holder.Since, e.Holder.Txn)
}

// NotTrustedError says that the host's Nix would refuse paths that nobody signed, or has. Nothing was registered.
type NotTrustedError struct {
	Host, User string
	// Key is the public key that signed the paths, "name:base64"; empty where none is configured.
	Key string
	// Path is one of the paths that would be refused, Count how many there are.
	Path  storepath.Path
	Count int
}

func (e *NotTrustedError) Error() string {
	if e.Key != "" {
		return fmt.Sprintf("import %q on %q: Nix there neither trusts user %q nor the key %q", e.Path, e.Host, e.User, e.Key)
	}
	return fmt.Sprintf("push to %q: Nix there does not trust user %q, and %d paths carry no signature that it could trust (first: %q)", e.Host, e.User, e.Count, e.Path)
}

// Hint names the settings, on either side, of which one is needed.
func (e *NotTrustedError) Hint() string {
	trust := fmt.Sprintf("on %s set nix.settings.trusted-users = [ %q ]", e.Host, e.User)
	if e.Key != "" {
		return fmt.Sprintf("%s, or nix.settings.trusted-public-keys = [ %q ]", trust, e.Key)
	}
	return trust + ", or let fleet sign (a key made by `nix key generate-secret`, its public part in the host's nix.settings.trusted-public-keys), or use an elevated login"
}

// StoreFullError says that a push does not fit into the host's store.
type StoreFullError struct {
	Host string
	// Need is the size of what was still missing and Free what the store's file system had left, in bytes; both before the push began. Free is 0 where it is not known.
	Need, Free uint64
	// Reason is what the host's Nix said; empty where nothing was sent.
	Reason string
}

func (e *StoreFullError) Error() string {
	msg := fmt.Sprintf("push to %q: the store is full: %s to import", e.Host, formatBytes(e.Need))
	if e.Free > 0 {
		msg += fmt.Sprintf(", %s free", formatBytes(e.Free))
	}
	if e.Reason != "" {
		msg += ": " + e.Reason
	}
	return msg
}

// Hint says how room is made.
func (e *StoreFullError) Hint() string {
	return "free space on the host (nix-collect-garbage -d there removes old generations), then run the push again: it goes on with what is missing"
}

// CorruptError says that a path's contents are not those that its hash stands for.
type CorruptError struct {
	// Host is where it arrived or lies; empty where it is the operator's own store that is corrupt.
	Host   string
	Path   storepath.Path
	Reason string
}

func (e *CorruptError) Error() string {
	if e.Host == "" {
		return fmt.Sprintf("read %q: the local store is corrupt: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("transfer %q with %q: %s", e.Path, e.Host, e.Reason)
}

// Hint names the command that mends a store.
func (e *CorruptError) Hint() string {
	if e.Host == "" {
		return "nix-store --verify-path " + e.Path.String() + " shows the damage, nix-store --repair-path mends it"
	}
	return "the connection or the machines change data: check memory and disks of both"
}

// LostError says that the connection to a host broke and did not come back.
type LostError struct {
	Host  string
	Tries int
	Err   error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("reach %q again: given up after %d tries: %v", e.Host, e.Tries, e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// DetachedError says that we stopped watching an activation, which goes on without us.
type DetachedError struct {
	Host, Txn string
	Err       error
}

func (e *DetachedError) Error() string {
	return fmt.Sprintf("watch activation %s on %q: detached, it goes on there: %v", e.Txn, e.Host, e.Err)
}

func (e *DetachedError) Unwrap() error { return e.Err }

// Hint is the command that attaches again.
func (e *DetachedError) Hint() string {
	return fmt.Sprintf("fleet attach %s %s", e.Host, e.Txn)
}

// BuildError says that a build on a host failed.
type BuildError struct {
	Host string
	Drv  storepath.Path
	// Reason is what Nix said there, free of escape codes.
	Reason string
}

func (e *BuildError) Error() string {
	return fmt.Sprintf("build %q on %q: %s", e.Drv, e.Host, e.Reason)
}

// errNeedHelper says that the helper is there but not valid, so that it has to be sent after all.
var errNeedHelper = errors.New("helper is not valid on the host")

// formatBytes renders a size for people, in binary units.
func formatBytes(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exp := float64(n)/unit, 0
	for value >= unit && exp < 5 {
		value /= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[exp])
}

// AgentError is an answer of a host's agent that has no type of its own here.
type AgentError struct {
	Host, Method string
	Code         proto.ErrorCode
	// Message and Remedy are the agent's, on one line and free of escape codes.
	Message, Remedy string
}

func (e *AgentError) Error() string {
	return fmt.Sprintf("ask the agent on %q for %s: %s (%s)", e.Host, e.Method, e.Message, e.Code)
}

// Hint is the agent's remedy, as the word of the host: nobody shall take it for ours.
func (e *AgentError) Hint() string {
	if e.Remedy == "" {
		return ""
	}
	return fmt.Sprintf("%s says: %s", e.Host, e.Remedy)
}
