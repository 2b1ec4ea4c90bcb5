package secretsgen

import (
	"time"

	"fleet/secretsgen/secret"
)

// Action is what was done, or would be done, with a secret.
type Action string

// The actions. ActionNone is there for secrets that only have notices, or need a person.
const (
	ActionNone Action = "none"
	// ActionGenerate makes the first value, ActionRegenerate another one.
	ActionGenerate   Action = "generate"
	ActionRegenerate Action = "regenerate"
	// ActionWrap seals the value to more owners, or to another key of an owner; former owners' files are removed at the same time.
	ActionWrap Action = "wrap"
	// ActionRemove removes former owners' files.
	ActionRemove Action = "remove"
	// ActionPrune removes a secret that is not declared.
	ActionPrune Action = "prune"
	// ActionSet takes a value that a person gave.
	ActionSet Action = "set"
	// ActionAccept takes the value as that of the changed declaration.
	ActionAccept Action = "accept"
)

// Status is what sync would do, by id. It holds nothing secret.
type Status struct {
	Fleet string `json:"fleet"`
	// Secrets are all that are declared or in the state, of the selection, by their ids' order.
	Secrets []SecretStatus `json:"secrets"`
	// Hosts are those whose keys or declarations cannot be used, by name.
	Hosts []HostProblem `json:"hosts"`
}

// SecretStatus is what the declaration, the state and the clock say of one secret.
type SecretStatus struct {
	ID secret.ID `json:"id"`
	// Action is what sync would do.
	Action Action `json:"action"`
	// Rules are the numbers of the rules that apply; Why says the same in a line.
	Rules []int  `json:"rules"`
	Why   string `json:"why"`
	// Declared are the owners by declaration, Owners those in the state.
	Declared []string `json:"declared"`
	Owners   []string `json:"owners"`
	// Wrap are the owners that the value would be sealed to, Remove those whose files would be removed, Pending those that have no key yet.
	Wrap    []string `json:"wrap,omitempty"`
	Remove  []string `json:"remove,omitempty"`
	Pending []string `json:"pending,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// NeedsHuman says why sync cannot do it, or cannot do all of it; Hint is the command that does.
	NeedsHuman string `json:"needsHuman,omitempty"`
	Hint       string `json:"hint,omitempty"`
	// Broken says what is wrong with the state's files.
	Broken string `json:"broken,omitempty"`
	// Gen, Seq, CreatedAt, ExpiresAt and Parts are those of the current value; empty where there is none.
	Gen       secret.Gen `json:"gen,omitempty"`
	Seq       uint64     `json:"seq,omitempty"`
	CreatedAt *time.Time `json:"createdAt,omitempty"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	Parts     []string   `json:"parts,omitempty"`
}

// HostProblem says why a host gets no secrets.
type HostProblem struct {
	Host string `json:"host"`
	// Kind is "keyless" (no key is pinned), "key-type", "shared-key", "unaccepted" (a person has to accept the key), "specs" (its
	// declarations could not be evaluated), "unreachable", or "lie" (what it sent cannot be what was asked for).
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Clean says that sync would change nothing and that nothing waits for a person.
func (s *Status) Clean() bool {
	for _, one := range s.Secrets {
		if one.Action != ActionNone || one.NeedsHuman != "" || one.Broken != "" {
			return false
		}
	}
	for _, host := range s.Hosts {
		if host.Kind != KindKeyless {
			return false
		}
	}
	return true
}

// The kinds of [HostProblem].
const (
	KindKeyless    = "keyless"
	KindKeyType    = "key-type"
	KindSharedKey  = "shared-key"
	KindUnaccepted = "unaccepted"
	KindSpecs      = "specs"
	// KindUnreachable is there where a host itself was asked for, as by [Engine.Verify]; elsewhere another one is asked.
	KindUnreachable = "unreachable"
	KindLie         = "lie"
)

// Report is what an operation did. It holds nothing secret.
type Report struct {
	Fleet string `json:"fleet"`
	// Secrets are those that something was done with, failed, is pending or noticed, by their ids' order.
	Secrets []Outcome `json:"secrets"`
	// Unchanged counts the other secrets that were looked at.
	Unchanged int `json:"unchanged"`
	// Hosts are those that got no secrets, or could not be asked, by name.
	Hosts []HostProblem `json:"hosts"`
	// Written are the files that were written or removed, relative to the folder of the flake, sorted: they are to be committed.
	Written []string `json:"written"`
}

// Outcome is what became of one secret.
type Outcome struct {
	ID     secret.ID `json:"id"`
	Action Action    `json:"action"`
	// Done says that the action was carried out and is in the state.
	Done bool `json:"done"`
	// Rules are the numbers of the rules that applied; Why says the same in a line.
	Rules []int  `json:"rules"`
	Why   string `json:"why"`
	// Via is the host that generated or re-wrapped the value; empty for this machine.
	Via string `json:"via,omitempty"`
	// Wrapped, Removed and Pending are owners: sealed to, no longer one, without a key yet.
	Wrapped []string `json:"wrapped,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Pending []string `json:"pending,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// Error says what failed; NeedsHuman what only a person can do. Either leaves the secret, or what it says of it, as it was. Hint is the command.
	Error      string     `json:"error,omitempty"`
	NeedsHuman string     `json:"needsHuman,omitempty"`
	Hint       string     `json:"hint,omitempty"`
	Gen        secret.Gen `json:"gen,omitempty"`
}

// Incomplete says that something failed or waits for a person: exit code 5.
func (r *Report) Incomplete() bool {
	for _, one := range r.Secrets {
		if one.Error != "" || one.NeedsHuman != "" {
			return true
		}
	}
	for _, host := range r.Hosts {
		if host.Kind != KindKeyless {
			return true
		}
	}
	return false
}

// Changed lists the secrets that were changed.
func (r *Report) Changed() []secret.ID {
	var ids []secret.ID
	for _, one := range r.Secrets {
		if one.Done {
			ids = append(ids, one.ID)
		}
	}
	return ids
}

// Verification is what hosts say of the values that they own.
type Verification struct {
	Fleet string `json:"fleet"`
	// Verified counts the parts that were found right, all hosts together.
	Verified int `json:"verified"`
	// Wrong are the parts that were not, by host, secret and part.
	Wrong []WrongPart `json:"wrong"`
	// Unreachable are the hosts that could not be asked, by name.
	Unreachable []HostProblem `json:"unreachable"`
}

// WrongPart is a part that its owner cannot read, or that is not what meta.json commits to.
type WrongPart struct {
	Host   string    `json:"host"`
	ID     secret.ID `json:"id"`
	Part   string    `json:"part"`
	Reason string    `json:"reason"`
	Hint   string    `json:"hint,omitempty"`
}

// HostKey compares what a host's SSH server shows with what is pinned and what this machine has accepted.
type HostKey struct {
	Host string `json:"host"`
	// Presented is the fingerprint from the handshake, PresentedKey the key as "type base64"; empty where the host could not be reached.
	Presented    string `json:"presented,omitempty"`
	PresentedKey string `json:"presentedKey,omitempty"`
	// Pinned are the fingerprints of all pinned keys; Recipient is the one that secrets are encrypted to.
	Pinned    []string `json:"pinned"`
	Recipient string   `json:"recipient,omitempty"`
	// Accepted says that this machine has accepted Recipient for the host.
	Accepted bool `json:"accepted"`
	// Matches says that Presented is one of Pinned.
	Matches bool `json:"matches"`
	// Problem says what is wrong; Hint is the command that mends it.
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`
}
