package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Version is the version of the protocol between helper and agent. Both sides send it in their hello; they must be equal.
const Version = 2

// The methods that an agent answers. Each is one stream: a request with parameters, data both ways where it says so, one result or error.
const (
	// MethodInfo: nothing → [HostInfo].
	MethodInfo = "host.info"
	// MethodMissing: [MissingRequest] → [MissingResult]. Adds temporary roots for all paths first and holds them for the session. Where nothing is missing it
	// also does what MethodRoot would.
	MethodMissing = "store.missing"
	// MethodSubstitute: [SubstituteRequest] → [SubstituteResult]. What substituters say they have is fetched from now on, while the rest may be pushed.
	MethodSubstitute = "store.substitute"
	// MethodSubstituted: nothing → [SubstitutedResult], once all of that was tried.
	MethodSubstituted = "store.substituted"
	// MethodImport: [ImportRequest], data to the agent: units ([UnitWriter]); data from the agent on channel 0: JSON lines of [ImportEvent] → [ImportResult] on
	// channel 0, and nothing on the others.
	MethodImport = "store.import"
	// MethodExport: [ExportRequest], data from the agent in the import format → [ImportResult].
	MethodExport = "store.export"
	// MethodClosure: [ClosureRequest] → [ClosureResult], the closure of paths that are valid on the host.
	MethodClosure = "store.closure"
	// MethodRoot: [RootRequest] → nothing. Replaces the named GC root atomically.
	MethodRoot = "store.root"
	// MethodBuild: [BuildRequest], data from the agent: Nix's internal-json log → [BuildResult].
	MethodBuild = "store.build"
	// MethodBegin: [BeginRequest] → [BeginResult].
	MethodBegin = "activation.begin"
	// MethodAttach: [AttachRequest], data from the agent: JSON lines of [TxnEvent] → [TxnStatus].
	MethodAttach = "activation.attach"
	// MethodNonce: [TxnRequest] → [NonceResult], while the transaction waits for a confirmation, from an agent that is root.
	MethodNonce = "activation.nonce"
	// MethodConfirm: [TxnRequest] → [TxnStatus]: waits for the end of a transaction that confirms itself. MethodAbort: the same → the same: asks
	// for the old system, and waits for it.
	MethodConfirm = "activation.confirm"
	MethodAbort   = "activation.abort"
	// MethodStatus: [TxnRequest] (an empty txn means the newest) → [TxnStatus].
	MethodStatus = "activation.status"
	// The methods about secrets need an agent that is root, else they answer with [CodeForbidden]. Where a type is not named here, it is one of
	// secretsgen/{step,seal,install}, which this package carries without looking inside.
	//
	// MethodSecretsRun: step.Request, data from the agent: what the generator prints → step.Result. The generator runs as the login user. It ends
	// with its stream, and with the connection: a value that nobody waits for is not made.
	MethodSecretsRun = "secrets.run"
	// MethodSecretsRewrap: seal.RewrapRequest → seal.RewrapResult.
	MethodSecretsRewrap = "secrets.rewrap"
	// MethodSecretsOpen: seal.Ref → [SecretValue].
	MethodSecretsOpen = "secrets.open"
	// MethodSecretsVerify: [SecretsVerifyRequest] → [SecretsVerifyResult].
	MethodSecretsVerify = "secrets.verify"
	// MethodSecretsPreflight: [SecretsPreflightRequest] → install.Report, what the system would not find when it installs its secrets; at once
	// and empty where it has none.
	MethodSecretsPreflight = "secrets.preflight"
	// MethodEnd: nothing → nothing. The client needs the agent no more: it ends as soon as nothing runs and
	// no other client is attached, instead of waiting for its grace time.
	MethodEnd = "session.end"
)

// Ready is the one line of JSON that `agent start` prints once the agent listens.
type Ready struct {
	Version int `json:"version"`
	// Socket is the absolute path of the agent's Unix socket.
	Socket string `json:"socket"`
	// Token is the session's secret, for [Hello].
	Token string `json:"token"`
	// PID is the agent's process, for people.
	PID int `json:"pid,omitempty"`
}

// PathData is the Data of an [Error] that concerns one store path: with [CodeCorrupt], [CodeNotTrusted], [CodeStoreFull] and [CodeNotFound].
type PathData struct {
	Path string `json:"path"`
}

// ErrorCode classifies an error that crosses the protocol.
type ErrorCode string

// The error codes.
const (
	CodeInternal   ErrorCode = "internal"
	CodeUsage      ErrorCode = "usage"
	CodeVersion    ErrorCode = "version"
	CodeToken      ErrorCode = "token"
	CodeLocked     ErrorCode = "locked"
	CodeNotFound   ErrorCode = "not-found"
	CodeNotTrusted ErrorCode = "not-trusted"
	CodeStoreFull  ErrorCode = "store-full"
	CodeCorrupt    ErrorCode = "corrupt"
	// CodeNoSpool says that the host cannot keep what a push wants to copy from later: it has to be sent in a way that needs none of that.
	CodeNoSpool     ErrorCode = "no-spool"
	CodeBuildFailed ErrorCode = "build-failed"
	CodeCancelled   ErrorCode = "cancelled"
	CodeForbidden   ErrorCode = "forbidden"
	// CodePreflight: a check before the activation speaks against it; the data is a [PreflightData].
	CodePreflight ErrorCode = "preflight"
	// CodeTooLate: the transaction does not wait for this any more.
	CodeTooLate ErrorCode = "too-late"
)

// HostInfo is what the agent sees of its host.
type HostInfo struct {
	// System is the Nix system of the host.
	System     string `json:"system"`
	NixVersion string `json:"nixVersion"`
	// Root says whether the agent runs as root.
	Root bool `json:"root"`
	// Trusted says whether the Nix daemon lets the agent import without signatures.
	Trusted bool `json:"trusted"`
	// TrustUnknown says that the daemon, one before Nix 2.15, does not tell; Trusted is then what root may expect.
	TrustUnknown bool   `json:"trustUnknown,omitempty"`
	BootID       string `json:"bootId"`
	CPUs         int    `json:"cpus"`
	// Current, Booted, Profile and BootDefault are toplevels (store paths), empty where there is none. Current may be a specialisation of a toplevel.
	Current     string `json:"current"`
	Booted      string `json:"booted"`
	Profile     string `json:"profile"`
	BootDefault string `json:"bootDefault"`
	// Generation is the number of the system profile's current generation, 0 where there is none.
	Generation int `json:"generation"`
	// StoreFree is what is free on the store's file system, in bytes.
	StoreFree uint64 `json:"storeFree"`
	// SpoolFree is how much the host can keep of a push, for what comes later in it, in bytes; 0 where it can keep nothing.
	SpoolFree uint64 `json:"spoolFree"`
	// Lock is who holds the host's lock, nil where nobody does.
	Lock *LockHolder `json:"lock,omitempty"`
	// Unfinished are the steps, "test" and "boot", in which the last activation that came to them has failed: the
	// host is not as it should be, although it may run and boot what it should.
	Unfinished []string `json:"unfinished,omitempty"`
	// Open is the transaction that has not ended: it is under way, staged for the next boot, or still trying to go back. Nil where there is none.
	Open *TxnStatus `json:"open,omitempty"`
}

// LockHolder names who holds a host's lock.
type LockHolder struct {
	Owner string `json:"owner"`
	Txn   string `json:"txn"`
	// Since is RFC 3339.
	Since string `json:"since"`
}

// PathInfo is a store path's metadata as it crosses the wire.
type PathInfo struct {
	Path string `json:"path"`
	// NarHash is lower-case hexadecimal SHA-256.
	NarHash string `json:"narHash"`
	NarSize uint64 `json:"narSize"`
	// References, with the path itself where it refers to itself, sorted.
	References []string `json:"references"`
	Deriver    string   `json:"deriver,omitempty"`
	Signatures []string `json:"signatures,omitempty"`
	CA         string   `json:"ca,omitempty"`
}

// MissingRequest names the closure that is about to be pushed.
type MissingRequest struct {
	// Paths are store paths without the store's folder, references first.
	Paths Lines `json:"paths"`
	// Known are toplevels that the host has said it has: what their closures hold is not among Paths.
	Known []string `json:"known,omitempty"`
	// Bases are what deltas would be made against: each a path without the store's folder, a space, and the first [BaseSumLength] digits of its NAR hash.
	Bases Lines `json:"bases,omitempty"`
	// Roots are the GC roots that are set at once where nothing is missing.
	Roots []RootRequest `json:"roots,omitempty"`
}

// BaseSumLength is how much of a base's NAR hash crosses, in hexadecimal digits: enough to find out that a host has built it with another result. That the
// delta's result is right is seen from that itself.
const BaseSumLength = 8

// MissingResult says what the host lacks.
type MissingResult struct {
	// Missing are the places in Paths of those that are not valid on the host, ascending.
	Missing []int `json:"missing"`
	// Unknown says that one of Known is not valid, or not there any more: the answer is incomplete, and has to be asked for with all paths.
	Unknown bool `json:"unknown,omitempty"`
	// Refused are the places in Bases of those that the host does not have, or has otherwise, ascending.
	Refused []int `json:"refused,omitempty"`
	// Rooted says that nothing was missing and Roots are set.
	Rooted bool `json:"rooted,omitempty"`
}

// SubstituteRequest names paths, without the store's folder and references first, that the host may fetch from its own substituters.
type SubstituteRequest struct {
	Paths Lines `json:"paths"`
}

// SubstituteResult has the places in Paths of what a substituter says it has, ascending.
type SubstituteResult struct {
	Served []int `json:"served"`
}

// SubstitutedResult says how many of the served paths are not valid all the same.
type SubstitutedResult struct {
	Missing int `json:"missing"`
}

// MaxChannels is how many channels of one transfer may be open, each in a connection of its own.
const MaxChannels = 8

// ImportRequest opens a channel of a transfer: of the units of one push, which may come over several channels, and over several connections one after the
// other. Units are numbered from 0. Each channel carries ascending numbers, and a unit comes over one channel.
//
// Channel 0 opens the transfer, and with a higher attempt goes on with it; whatever was attached before is cut off. What came then and was not yet in
// order is forgotten: sending begins again at [ImportEvent.Next]. The others join the current attempt once that event came. One transfer is open in a session at a time: a
// new one waits for one that is attached, and ends one that is not.
type ImportRequest struct {
	// Transfer is the random name of the transfer: 16 to 64 lower-case letters and digits.
	Transfer string `json:"transfer"`
	// Channel is 0 to [MaxChannels] - 1.
	Channel int `json:"channel,omitempty"`
	// Attempt is 1 where channel 0 opens a transfer, and higher each time that it goes on. An agent that does not know the transfer then answers with
	// [CodeNotFound]: it is another agent, and the push begins anew with [MethodMissing].
	Attempt int `json:"attempt"`
	// Acked is how many paths of the transfer were reported in earlier attempts; the others follow. For channel 0.
	Acked int `json:"acked,omitempty"`
	// Paths and Bytes, of NARs, are what the transfer will hold, so that the agent can choose how it takes that. For channel 0 of the first attempt.
	Paths uint64 `json:"paths,omitempty"`
	Bytes uint64 `json:"bytes,omitempty"`
}

// ImportEvent is one line that channel 0 of a transfer says. One field is set.
type ImportEvent struct {
	// Next is the number of the unit that is expected, in the first line alone.
	Next *uint32 `json:"next,omitempty"`
	// Received is how many units have come in order: all with lower numbers need not be sent again to this agent.
	Received uint32 `json:"received,omitempty"`
	// Path is a store path that is registered and protected.
	Path string `json:"path,omitempty"`
}

// ImportResult counts what was transferred: paths, and the bytes of their NARs.
type ImportResult struct {
	Paths uint64 `json:"paths"`
	Bytes uint64 `json:"bytes"`
}

// ExportRequest names valid paths of the host that are sent to the operator; their references are not added.
type ExportRequest struct {
	Paths []string `json:"paths"`
}

// ClosureRequest names valid paths whose closure is asked for.
type ClosureRequest struct {
	Roots []string `json:"roots"`
}

// ClosureResult lists a closure, references before what refers to them.
type ClosureResult struct {
	Paths []PathInfo `json:"paths"`
}

// UnmarshalJSON implements [json.Unmarshaler]. An info without a path, a hash or a size is an error, so that a list takes no more
// memory than its text stands for.
func (r *ClosureResult) UnmarshalJSON(text []byte) error {
	var list struct {
		Paths pathInfos `json:"paths"`
	}
	err := json.Unmarshal(text, &list)
	r.Paths = list.Paths
	return err
}

type pathInfos []PathInfo

func (l *pathInfos) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, err := dec.Token(); err != nil || start != json.Delim('[') {
		return errors.Join(errors.New("decode path infos: not a list"), err)
	}
	for dec.More() {
		var info PathInfo
		if err := dec.Decode(&info); err != nil {
			return err
		}
		if err := checkImportInfo(info); err != nil {
			return fmt.Errorf("decode path infos: %w", err)
		}
		*l = append(*l, info)
	}
	return nil
}

// RootRequest names a GC root below the agent's own directory of roots; Name is one path component.
type RootRequest struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Group, where it is set, is what the names of some roots begin with, Name too: those of them that are not in Keep are removed once the root is set.
	Group string   `json:"group,omitempty"`
	Keep  []string `json:"keep,omitempty"`
}

// BuildRequest names a derivation that is valid on the host; all of its outputs are built.
type BuildRequest struct {
	Drv string `json:"drv"`
}

// BuildResult lists the store paths of the outputs.
type BuildResult struct {
	Outputs []string `json:"outputs"`
}

// SecretValue is a decrypted part of a secret, with the salt of its commitment: whoever asked can tell that it is the value that was meant.
type SecretValue struct {
	Value []byte `json:"value"`
	Salt  []byte `json:"salt"`
}

// SecretsVerifyRequest names encrypted parts, each a seal.Ref.
type SecretsVerifyRequest struct {
	Parts []json.RawMessage `json:"parts"`
}

// SecretsVerifyResult says what is wrong with each, in the request's order; empty texts are right.
type SecretsVerifyResult struct {
	Wrong []string `json:"wrong"`
}

// SecretsPreflightRequest names a system that is valid on the host.
type SecretsPreflightRequest struct {
	Toplevel string `json:"toplevel"`
	// Specialisation is looked at beside the toplevel itself.
	Specialisation string `json:"specialisation,omitempty"`
}

// Action is what an activation does.
type Action string

// The actions that reach a host. Building and pushing are not activations.
const (
	ActionSwitch      Action = "switch"
	ActionBoot        Action = "boot"
	ActionTest        Action = "test"
	ActionReboot      Action = "reboot"
	ActionDryActivate Action = "dry-activate"
)

// BeginRequest opens a transaction. The toplevel must be valid on the host.
type BeginRequest struct {
	Action   Action `json:"action"`
	Toplevel string `json:"toplevel"`
	// Specialisation is activated instead of the toplevel itself; the profile is always set to the toplevel.
	Specialisation string `json:"specialisation,omitempty"`
	// Owner says who deploys, for people: user@machine.
	Owner string `json:"owner"`
	// Guard is the guard's policy; nil means the default one.
	Guard *GuardPolicy `json:"guard,omitempty"`
}

// BeginResult names the transaction that was opened; it holds the lock of the host.
type BeginResult struct {
	Txn string `json:"txn"`
}

// AttachRequest asks for the log of a transaction, from an offset on.
type AttachRequest struct {
	Txn string `json:"txn"`
	// Offset is the number of log bytes that were received already.
	Offset uint64 `json:"offset,omitempty"`
}

// TxnRequest names a transaction; an empty name means the newest one.
type TxnRequest struct {
	Txn string `json:"txn,omitempty"`
	// Reason says why, for [MethodAbort]; one line for a person.
	Reason string `json:"reason,omitempty"`
}

// TxnState is where a transaction is.
type TxnState string

// The states, named as the phases of the guard. Those of the first group are the way to a new system, those of the second the way back, those
// of the third the end.
const (
	TxnPrepared     TxnState = "prepared"
	TxnSwitching    TxnState = "switching"
	TxnJudging      TxnState = "judging"
	TxnAwaitConfirm TxnState = "await-confirm"
	TxnCommitting   TxnState = "committing"
	TxnStaging      TxnState = "staging"
	TxnRebooting    TxnState = "rebooting"

	TxnRollingBack    TxnState = "rolling-back"
	TxnRollbackReboot TxnState = "rollback-reboot"
	TxnVerifying      TxnState = "verifying"
	// TxnRollbackFailed: the old system does not stand yet. The guard tries again and again, which may take for ever.
	TxnRollbackFailed TxnState = "rollback-failed"

	// TxnCommitted: all that the action promises was done and verified.
	TxnCommitted TxnState = "committed"
	// TxnTested: the new system runs until the next boot.
	TxnTested TxnState = "tested"
	// TxnStaged: the next boot brings the new system, once, and decides. The transaction is open until then.
	TxnStaged TxnState = "staged"
	// TxnRolledBack: the old system runs and boots, and was verified.
	TxnRolledBack TxnState = "rolled-back"
	// TxnLeftAsIs: it failed, and was to be left as it is.
	TxnLeftAsIs TxnState = "left-as-is"
	// TxnFailed: it has not begun, or was run without a guard and failed; Status says what runs and what boots.
	TxnFailed TxnState = "failed"
)

// Done says whether nothing more happens in state s before the next boot.
func (s TxnState) Done() bool {
	switch s {
	case TxnCommitted, TxnTested, TxnStaged, TxnRolledBack, TxnLeftAsIs, TxnFailed:
		return true
	}
	return false
}

// Succeeded says whether a transaction in state s has done what it was to do.
func (s TxnState) Succeeded() bool { return s == TxnCommitted || s == TxnTested || s == TxnStaged }

// TxnEvent is one line of an attached transaction: a part of the log, a new state, or both.
type TxnEvent struct {
	State TxnState `json:"state,omitempty"`
	// Log is a piece of the log, and Offset the log's length with it.
	Log    string `json:"log,omitempty"`
	Offset uint64 `json:"offset,omitempty"`
}

// TxnStatus is a transaction's state and, once it is done, its result.
type TxnStatus struct {
	Txn            string   `json:"txn"`
	State          TxnState `json:"state"`
	Action         Action   `json:"action"`
	Toplevel       string   `json:"toplevel"`
	Specialisation string   `json:"specialisation,omitempty"`
	Owner          string   `json:"owner"`
	Since          string   `json:"since"`
	// Step is the step that failed or is under way: "lock", "test", "profile", "boot", "verify", "dry-activate",
	// "preflight", "drain", "health", "confirm", "stage", "reboot", "rollback".
	Step string `json:"step,omitempty"`
	// ExitCode is switch-to-configuration's, where it ran to an end.
	ExitCode int `json:"exitCode,omitempty"`
	// Reason is one line for a person.
	Reason string `json:"reason,omitempty"`
	// FailedUnits are the units that failed during the activation.
	FailedUnits []FailedUnit `json:"failedUnits,omitempty"`
	// Current, Profile and BootDefault are the host's after the transaction.
	Current     string `json:"current,omitempty"`
	Profile     string `json:"profile,omitempty"`
	BootDefault string `json:"bootDefault,omitempty"`
	Generation  int    `json:"generation,omitempty"`
	// Lock is the other holder, where the transaction failed for the lock.
	Lock *LockHolder `json:"lock,omitempty"`
	// DeadlineSeconds is how long the state may still last, 0 where it has no end of its own.
	DeadlineSeconds int `json:"deadlineSeconds,omitempty"`
	// Booted says that the host has booted into the new system, and not been switched to it.
	Booted bool `json:"booted,omitempty"`
	// Trouble is the last thing that went wrong with the rollback itself.
	Trouble string `json:"trouble,omitempty"`
	// NeedsReboot says that the running kernel is not the one that the new system boots.
	NeedsReboot bool `json:"needsReboot,omitempty"`
	// Notices are what a person should know although nothing has failed: a rollback that cannot reboot, checks that were skipped.
	Notices []string `json:"notices,omitempty"`
}

// FailedUnit is a systemd unit that failed, with the end of its log.
type FailedUnit struct {
	Name string   `json:"name"`
	Log  []string `json:"log,omitempty"`
}
