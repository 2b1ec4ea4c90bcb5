package seal

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"fleet/secretsgen/secret"
)

// maxArmor bounds an armored file, in bytes: the largest value, its envelope, and what encryption and armor add.
const maxArmor = 2 * secret.MaxValue

// Seal encrypts a value to one owner's key. salt is the same for all owners of a value.
func Seal(c Context, salt []byte, value secret.Plain, to Recipient) (secret.SealedPart, error) {
	if value.Len() > secret.MaxValue {
		return secret.SealedPart{}, fmt.Errorf("seal %s: %d bytes are more than %d", c, value.Len(), secret.MaxValue)
	}
	if to.recipient == nil {
		return secret.SealedPart{}, fmt.Errorf("seal %s: no recipient", c)
	}
	var out strings.Builder
	armored := armor.NewWriter(&out)
	encrypted, err := age.Encrypt(armored, to.recipient)
	if err != nil {
		return secret.SealedPart{}, fmt.Errorf("seal %s: %w", c, err)
	}
	envelope := Envelope(c, salt, value)
	defer envelope.Wipe()
	if _, err = encrypted.Write(envelope.Bytes()); err == nil {
		err = errors.Join(encrypted.Close(), armored.Close())
	}
	if err != nil {
		return secret.SealedPart{}, fmt.Errorf("seal %s: %w", c, err)
	}
	return secret.SealedPart{Armor: out.String(), SHA256: secret.Checksum(out.String())}, nil
}

// Opened is a value that was decrypted and found to be what it should be.
type Opened struct {
	Value secret.Plain
	// Salt is the commitment's, for sealing the same value to another owner.
	Salt []byte
}

// The reasons why a file is not what it should be.
var (
	// ErrNotForUs: none of the identities opens it.
	ErrNotForUs = errors.New("it is encrypted to another key")
	// ErrDamaged: it is no age file, or was changed.
	ErrDamaged = errors.New("it is damaged")
	// ErrContext: it holds another secret, part or generation.
	ErrContext = errors.New("it is the file of something else")
	// ErrCommit: the value is not the one that the metadata commits to.
	ErrCommit = errors.New("its value is not the one that meta.json commits to")
)

// Open decrypts an armored file, all of it, and checks that it is the value of c that commit commits to. The error wraps one of
// [ErrNotForUs], [ErrDamaged], [ErrContext] and [ErrCommit], and tells nothing of the value.
func Open(armored string, c Context, commit string, identities ...age.Identity) (Opened, error) {
	envelope, err := decrypt(armored, identities)
	if err != nil {
		return Opened{}, fmt.Errorf("open %s: %w", c, err)
	}
	got, salt, value, err := ParseEnvelope(envelope)
	switch {
	case err != nil:
		envelope.Wipe()
		return Opened{}, fmt.Errorf("open %s: %w: %w", c, ErrDamaged, err)
	case got != c:
		envelope.Wipe()
		return Opened{}, fmt.Errorf("open %s: %w: of fleet %.80q, %.300q", c, ErrContext, got.Fleet, got.String())
	case subtle.ConstantTimeCompare([]byte(Commit(c, salt, value)), []byte(commit)) != 1:
		envelope.Wipe()
		return Opened{}, fmt.Errorf("open %s: %w", c, ErrCommit)
	}
	return Opened{Value: value, Salt: bytes.Clone(salt)}, nil
}

// decrypt reads to the end before anything is looked at: age gives out the first chunks before it has seen the last.
func decrypt(armored string, identities []age.Identity) (secret.Plain, error) {
	file, err := dearmor(armored)
	if err != nil {
		return secret.Plain{}, err
	}
	if len(identities) == 0 {
		return secret.Plain{}, fmt.Errorf("%w: there is no key here", ErrNotForUs)
	}
	plain, err := age.Decrypt(bytes.NewReader(file), identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none) && namesOneOf(file, identities):
		return secret.Plain{}, fmt.Errorf("%w: it names a key of this host, but does not open with it", ErrDamaged)
	case errors.As(err, &none):
		return secret.Plain{}, ErrNotForUs
	case err != nil:
		return secret.Plain{}, fmt.Errorf("%w: its header was changed or cut", ErrDamaged)
	}
	// Large enough that nothing of the value is left behind in a buffer that was outgrown.
	out := bytes.NewBuffer(make([]byte, 0, len(file)+bytes.MinRead))
	if _, err := out.ReadFrom(plain); err != nil {
		clear(out.Bytes())
		return secret.Plain{}, fmt.Errorf("%w: its contents were changed or cut", ErrDamaged)
	}
	return secret.NewPlain(out.Bytes()), nil
}

// dearmor undoes the armor, and takes no other spelling of it than the one that is written. Here and in decrypt, errors of age are told in
// words of our own: it quotes what it could not read, and that might be a value that somebody put here in plain.
func dearmor(armored string) ([]byte, error) {
	switch {
	case len(armored) > maxArmor:
		return nil, fmt.Errorf("%w: it has %d bytes, more than any sealed file", ErrDamaged, len(armored))
	case !strings.HasPrefix(armored, armor.Header+"\n"):
		return nil, fmt.Errorf("%w: it is no armored age file", ErrDamaged)
	case !strings.HasSuffix(armored, "\n"+armor.Footer+"\n"):
		return nil, fmt.Errorf("%w: it was cut, its last line is not there", ErrDamaged)
	case strings.Contains(armored, "\r"):
		return nil, fmt.Errorf("%w: its line ends were changed", ErrDamaged)
	}
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(armored)))
	if err != nil {
		return nil, fmt.Errorf("%w: its armor was changed", ErrDamaged)
	}
	return file, nil
}
