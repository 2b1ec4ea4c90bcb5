package secretsgen

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/public"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/step"
)

// LieError says that what a host or a generator's run sent cannot be what was asked for. Nothing of it was taken.
type LieError struct{ Err error }

func (e *LieError) Error() string { return fmt.Sprintf("it is not what was asked for: %v", e.Err) }
func (e *LieError) Unwrap() error { return e.Err }

// Hint says what it means.
func (e *LieError) Hint() string {
	return "the host runs another version of fleet-helper, or somebody has taken it over: do not deploy to it before you know which"
}

// take makes a result into an entry of the state, if it is exactly what was asked for. It may come from a host that is not what it seems.
func (m *making) take(result step.Result, now time.Time) (*state.Entry, error) {
	if at := result.ExpiresAt; at != nil && !at.After(now) {
		return nil, &expiredError{m.id, *at}
	}
	if err := m.checkParts(result); err != nil {
		return nil, &LieError{err}
	}
	meta, err := m.meta(secret.Generated, now)
	if err != nil {
		return nil, err
	}
	entry := &state.Entry{ID: m.id, Meta: meta, Owners: map[string]secret.Owner{}, Public: map[string][]byte{}}
	if result.ExpiresAt != nil {
		at := result.ExpiresAt.UTC().Truncate(time.Second)
		entry.Meta.ExpiresAt = &at
	}
	for name, part := range result.Parts {
		entry.Meta.Parts[name] = metaPart(part.Encrypted, part.Commit, part.Public)
		if !part.Encrypted {
			entry.Public[name] = part.Public
		}
	}
	encrypted := entry.Meta.Encrypted()
	for host := range result.Sealed {
		if _, ok := m.to[host]; !ok {
			return nil, &LieError{fmt.Errorf("parts are encrypted to %q, which is no owner", shorten(host))}
		}
	}
	for host, to := range m.to {
		if err := checkSealed(result.Sealed[host], encrypted, to); err != nil {
			return nil, &LieError{fmt.Errorf("for owner %q: %w", host, err)}
		}
		entry.Owners[host] = secret.Owner{Format: secret.Format, Gen: m.gen, Key: to.Fingerprint, Parts: sealedParts(result.Sealed[host])}
	}
	return entry, nil
}

// expiredError says that a generator made what has expired: it would be made again by every sync.
type expiredError struct {
	id secret.ID
	at time.Time
}

func (e *expiredError) Error() string {
	return fmt.Sprintf("take the new value of %s: it expired at %s already", e.id, e.at.UTC().Format(time.RFC3339))
}

// Hint says where to look.
func (e *expiredError) Hint() string {
	return "look at what the generator writes to $out/expires_at, and at the clock of the machine that it runs on"
}

func sealedParts(parts map[string]secret.SealedPart) map[string]secret.SealedPart {
	if parts == nil {
		return map[string]secret.SealedPart{}
	}
	return parts
}

// metaPart describes a part for meta.json.
func metaPart(encrypted bool, commit string, value []byte) secret.MetaPart {
	part := secret.MetaPart{Encrypted: encrypted, Commit: commit}
	if !encrypted {
		part.Encoding = state.EncodingOf(value)
	}
	return part
}

// latestExpiry is the last moment that X.509 has, which means "never" there (RFC 5280, 4.1.2.5); JSON has no later year.
const latestExpiry = 9999

func (m *making) checkParts(result step.Result) error {
	switch {
	case len(result.Parts) == 0:
		return errors.New("it has no parts")
	case len(result.Parts) > step.MaxParts:
		return fmt.Errorf("it has %d parts, more than %d", len(result.Parts), step.MaxParts)
	case result.ExpiresAt != nil && result.ExpiresAt.UTC().Year() > latestExpiry:
		return fmt.Errorf("it expires in the year %d", result.ExpiresAt.UTC().Year())
	}
	for _, name := range sortedKeys(result.Parts) {
		if err := m.checkPart(name, result.Parts[name]); err != nil {
			return fmt.Errorf("part %q: %w", shorten(name), err)
		}
	}
	for _, name := range sortedKeys(m.spec.Parts) {
		if _, ok := result.Parts[name]; !ok {
			return fmt.Errorf("part %q is declared and missing", name)
		}
	}
	return nil
}

func (m *making) checkPart(name string, part step.ResultPart) error {
	if err := secret.ValidatePart(name); err != nil {
		return err
	}
	var declared plan.SecretPart
	if m.spec.Parts != nil {
		var ok bool
		if declared, ok = m.spec.Parts[name]; !ok {
			return errors.New("it is not declared")
		}
		if declared.Encrypted != part.Encrypted {
			return fmt.Errorf("encrypted is %t, and it is declared %t", part.Encrypted, declared.Encrypted)
		}
	}
	if err := checkCommit(part.Commit); err != nil {
		return err
	}
	if part.Encrypted {
		if len(part.Public) > 0 {
			return errors.New("it is encrypted and has a value")
		}
		return nil
	}
	if err := public.Validate(declared.Type, declared.Pattern, part.Public); err != nil {
		return err
	}
	if part.Commit != seal.Commit(m.context(name), nil, secret.NewPlain(slices.Clone(part.Public))) {
		return errors.New("its commitment is not that of its value")
	}
	return nil
}

func (m *making) context(part string) seal.Context {
	return seal.Context{Fleet: m.fleet, ID: m.id, Part: part, Gen: m.gen, Seq: m.seq}
}

// checkCommit holds a commitment against its form: what is not exactly that would make two names of one value.
func checkCommit(commit string) error {
	if raw, err := hex.DecodeString(commit); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != commit {
		return fmt.Errorf("commitment %q is not 64 lower-case hexadecimal digits", shorten(commit))
	}
	return nil
}

// checkSealed holds an owner's copies against what they have to be: exactly the encrypted parts, each for the owner's key and nobody else's.
func checkSealed(parts map[string]secret.SealedPart, encrypted []string, to seal.Recipient) error {
	for _, name := range sortedKeys(parts) {
		if !slices.Contains(encrypted, name) {
			return fmt.Errorf("part %q is not one that is encrypted", shorten(name))
		}
	}
	for _, name := range encrypted {
		part, ok := parts[name]
		if !ok {
			return fmt.Errorf("part %q is missing", name)
		}
		if err := checkArmor(part, to); err != nil {
			return fmt.Errorf("part %q: %w", name, err)
		}
	}
	return nil
}

func checkArmor(part secret.SealedPart, to seal.Recipient) error {
	if secret.Checksum(part.Armor) != part.SHA256 {
		return errors.New("its checksum is wrong")
	}
	header, err := seal.Inspect(part.Armor)
	if err != nil {
		return err
	}
	if !header.IsFor(to) {
		return fmt.Errorf("it is not encrypted to the key %s alone", to.Fingerprint)
	}
	return nil
}

// shorten keeps what somebody else wrote from filling a message.
func shorten(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return s
}
