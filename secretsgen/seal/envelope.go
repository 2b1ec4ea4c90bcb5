// Package seal turns values of secrets into files that only their owners can read, and back.
//
// age gives confidentiality and nothing else: anyone who knows a host's public key can make a file for it. So what is
// encrypted is an envelope, which says which fleet, secret, part and generation the value is of, and the state in git has a commitment to
// all of that. A host checks both after decrypting, which closes swapping, replaying and mixing of generations. Since the commitment is
// salted, it tells nothing of the value; since it is the same for all owners, they can be told to have the same value.
//
// The package is for both sides. It does no input or output but for reading identity files where it is told to.
package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"fleet/secretsgen/secret"
)

// The first field of an envelope, and what the commitment's hash begins with.
const (
	envelopeTag = "fleet-secret/1"
	commitTag   = "fleet-commit/1"
)

// SaltSize is the size of a commitment's salt, in bytes.
const SaltSize = 32

// Context says what a value is the value of.
type Context struct {
	Fleet string
	ID    secret.ID
	Part  string
	Gen   secret.Gen
	// Seq counts the values of the secret.
	Seq uint64
}

// String is for messages.
func (c Context) String() string {
	return fmt.Sprintf("%s part %s of generation %s (value %d)", c.ID, c.Part, c.Gen, c.Seq)
}

// NewSalt draws the salt of one part of one value. All owners' copies have the same.
func NewSalt() ([]byte, error) {
	salt := make([]byte, SaltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	return salt, nil
}

// Envelope is the text that is encrypted: every field as its length in four bytes, big endian, and the field itself; the value is the last.
func Envelope(c Context, salt []byte, value secret.Plain) secret.Plain {
	fields := [...][]byte{
		[]byte(envelopeTag), []byte(c.Fleet), []byte(c.ID.Scope), []byte(c.ID.Name), []byte(c.Part), []byte(c.Gen),
		[]byte(strconv.FormatUint(c.Seq, 10)), salt, value.Bytes(),
	}
	size := 0
	for _, f := range fields {
		size += 4 + len(f)
	}
	out := make([]byte, 0, size)
	for _, f := range fields {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return secret.NewPlain(out)
}

// ParseEnvelope reads an envelope strictly. value shares its bytes.
func ParseEnvelope(envelope secret.Plain) (c Context, salt []byte, value secret.Plain, err error) {
	const count = 9
	var fields [count][]byte
	rest := envelope.Bytes()
	for i := range fields {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return Context{}, nil, secret.Plain{}, errors.New("parse envelope: it is cut short")
		}
		n := binary.BigEndian.Uint32(rest)
		fields[i], rest = rest[4:4+n], rest[4+n:]
	}
	if len(rest) > 0 {
		return Context{}, nil, secret.Plain{}, errors.New("parse envelope: something follows the value")
	}
	if string(fields[0]) != envelopeTag {
		return Context{}, nil, secret.Plain{}, fmt.Errorf("parse envelope: it is of format %.40q, this program reads %q", fields[0], envelopeTag)
	}
	seq, err := strconv.ParseUint(string(fields[6]), 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != string(fields[6]) {
		return Context{}, nil, secret.Plain{}, errors.New("parse envelope: its number is none")
	}
	c = Context{
		Fleet: string(fields[1]), ID: secret.ID{Scope: secret.Scope(fields[2]), Name: string(fields[3])},
		Part: string(fields[4]), Gen: secret.Gen(fields[5]), Seq: seq,
	}
	return c, fields[7], secret.NewPlain(fields[8]), nil
}

// Commit is the commitment to a value and all that it is the value of, in lower-case hexadecimal. Public parts have an empty salt.
func Commit(c Context, salt []byte, value secret.Plain) string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(commitTag))))
	h.Write([]byte(commitTag))
	envelope := Envelope(c, salt, value)
	h.Write(envelope.Bytes())
	envelope.Wipe()
	return hex.EncodeToString(h.Sum(nil))
}
