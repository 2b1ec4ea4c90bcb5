package install

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// keys are the host's private keys.
type keys struct {
	identities []age.Identity
	// found says which they are, and from which file.
	found []string
	// failed are the files that none could be read from.
	failed seal.NoKeyError
}

func (m *Manifest) loadKeys() keys {
	var k keys
	for _, file := range m.Identities {
		identities, err := seal.LoadIdentities(file)
		var failed *seal.NoKeyError
		if errors.As(err, &failed) {
			k.failed.Files = append(k.failed.Files, failed.Files...)
			k.failed.Reasons = append(k.failed.Reasons, failed.Reasons...)
			continue
		}
		k.identities = append(k.identities, identities...)
		k.found = append(k.found, fmt.Sprintf("%s from %q", strings.Join(seal.Fingerprints(identities), " "), file))
	}
	return k
}

// opened is a secret that was decrypted and verified, or why it could not be.
type opened struct {
	parts map[string]secret.Plain
	err   error
}

// openAll decrypts and verifies secrets, all in memory. Whoever calls it wipes what it returns.
func (m *Manifest) openAll(ctx context.Context, secrets []*Secret) map[secret.ID]opened {
	k := m.loadKeys()
	results := make([]opened, len(secrets))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range secrets {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				results[i].err = err
				return nil
			}
			results[i] = s.open(m, k)
			return nil
		})
	}
	_ = group.Wait() // no goroutine returns an error
	all := make(map[secret.ID]opened, len(secrets))
	for i, s := range secrets {
		all[s.ID] = results[i]
	}
	return all
}

func wipe(all map[secret.ID]opened) {
	for _, o := range all {
		o.wipe()
	}
}

func (o opened) wipe() {
	for _, value := range o.parts {
		value.Wipe()
	}
}

// open opens all parts of a secret or none.
func (s *Secret) open(m *Manifest, k keys) opened {
	o := opened{parts: make(map[string]secret.Plain, len(s.Parts))}
	for _, name := range slices.Sorted(maps.Keys(s.Parts)) {
		c := seal.Context{Fleet: m.Fleet, ID: s.ID, Part: name, Gen: s.Gen, Seq: s.Seq}
		value, err := s.Parts[name].open(c, m, k)
		if err != nil {
			o.wipe()
			return opened{err: err}
		}
		o.parts[name] = value
	}
	return o
}

func (p Part) open(c seal.Context, m *Manifest, k keys) (secret.Plain, error) {
	switch {
	case !p.Encrypted:
		return p.openPublic(c)
	case len(k.identities) == 0:
		return secret.Plain{}, fmt.Errorf("open %s: %w", c, &k.failed)
	}
	opened, err := seal.Open(p.Armor, c, p.Commit, k.identities...)
	if errors.Is(err, seal.ErrNotForUs) {
		return secret.Plain{}, &otherKeyError{err, m.Host, k}
	}
	return opened.Value, err
}

func (p Part) openPublic(c seal.Context) (secret.Plain, error) {
	var value []byte
	switch p.Encoding {
	case secret.EncodingText:
		value = []byte(p.Text)
	case secret.EncodingBase64:
		var err error
		if value, err = base64.StdEncoding.DecodeString(p.Text); err != nil {
			return secret.Plain{}, fmt.Errorf("open %s: %w: it is not in base64", c, seal.ErrDamaged)
		}
	default:
		return secret.Plain{}, fmt.Errorf("open %s: its encoding %.80q is unknown", c, p.Encoding)
	}
	plain := secret.NewPlain(value)
	if seal.Commit(c, nil, plain) != p.Commit {
		return secret.Plain{}, fmt.Errorf("open %s: %w", c, seal.ErrCommit)
	}
	return plain, nil
}

// otherKeyError says which keys a host has, where a file is for none of them.
type otherKeyError struct {
	err  error
	host string
	keys keys
}

func (e *otherKeyError) Error() string {
	text := fmt.Sprintf("%s than this host's, %s", e.err, strings.Join(e.keys.found, " and "))
	if len(e.keys.failed.Reasons) > 0 {
		text += "; " + e.keys.failed.Detail()
	}
	return text
}

func (e *otherKeyError) Unwrap() error { return e.err }

// Hint says how the two come together.
func (e *otherKeyError) Hint() string {
	return fmt.Sprintf("put the host's key back; if it has a new one: fleet secrets host-key scan %s, and fleet secrets sync; fleet secrets status says what must be entered again", e.host)
}
