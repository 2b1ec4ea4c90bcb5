package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// Recipient is a key that values can be encrypted to: a host's ssh-ed25519 or ssh-rsa key.
type Recipient struct {
	recipient age.Recipient
	// Key is the key as "type base64".
	Key string
	// Fingerprint is "SHA256:…".
	Fingerprint string
	tag         string
}

// ErrKeyType says that a key is of a type that nothing can be encrypted to, such as ecdsa.
var ErrKeyType = errors.New("nothing can be encrypted to a key of this type")

// ParseRecipient reads a public key as "type base64 [comment]".
func ParseRecipient(text string) (Recipient, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return Recipient{}, fmt.Errorf("parse host key: %w", err)
	}
	r := Recipient{
		Key:         key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal()),
		Fingerprint: ssh.FingerprintSHA256(key),
		tag:         tagOf(key.Marshal()),
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		r.recipient, err = agessh.NewEd25519Recipient(key)
	case ssh.KeyAlgoRSA:
		r.recipient, err = agessh.NewRSARecipient(key)
	default:
		return Recipient{}, fmt.Errorf("host key of type %q: %w", key.Type(), ErrKeyType)
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("host key of type %q: %w", key.Type(), err)
	}
	return r, nil
}

// tagOf is how a stanza of agessh names the key that it is for.
func tagOf(wire []byte) string {
	sum := sha256.Sum256(wire)
	return base64.RawStdEncoding.EncodeToString(sum[:4])
}

// stanza is what a file for the key has in its header.
func (r Recipient) stanza() Stanza {
	kind, _, _ := strings.Cut(r.Key, " ")
	return Stanza{Type: kind, Tag: r.tag}
}

// Choose picks the key of a host that its secrets are encrypted to: the first ssh-ed25519 key, else the first ssh-rsa key.
// Where there is neither, the error wraps [ErrKeyType].
func Choose(keys []string) (Recipient, error) {
	for _, prefix := range [...]string{ssh.KeyAlgoED25519 + " ", ssh.KeyAlgoRSA + " "} {
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				return ParseRecipient(key)
			}
		}
	}
	return Recipient{}, fmt.Errorf("choose among %d host keys: %w", len(keys), ErrKeyType)
}

// Header is what an armored file tells without a key.
type Header struct {
	// Stanzas are those that open the file for somebody; the meaningless ones that rage adds are left out.
	Stanzas []Stanza
	// Payload is the size of the encrypted part, in bytes.
	Payload int
}

// Stanza is for one reader.
type Stanza struct {
	// Type is "ssh-ed25519", "ssh-rsa", "X25519" …
	Type string
	// Tag tells which key it is for, where the type has one.
	Tag string
}

// Inspect reads what an armored file tells without a key. The error wraps [ErrDamaged].
func Inspect(armored string) (Header, error) {
	file, err := dearmor(armored)
	if err != nil {
		return Header{}, fmt.Errorf("inspect sealed file: %w", err)
	}
	h, err := readHeader(file)
	if err != nil {
		return Header{}, fmt.Errorf("inspect sealed file: %w: its header was changed or cut", ErrDamaged)
	}
	// The nonce and the tag of the last chunk: no payload is smaller (age-encryption.org/v1).
	const smallest = 16 + 16
	if h.Payload < smallest {
		return Header{}, fmt.Errorf("inspect sealed file: %w: its payload was cut to %d bytes", ErrDamaged, h.Payload)
	}
	return h, nil
}

// readHeader reads the header of an age file.
func readHeader(file []byte) (Header, error) {
	raw, err := age.ExtractHeader(bytes.NewReader(file))
	if err != nil {
		return Header{}, err
	}
	h := Header{Payload: len(file) - len(raw)}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "->" || strings.HasSuffix(fields[1], "-grease") {
			continue
		}
		s := Stanza{Type: fields[1]}
		if len(fields) > 2 && strings.HasPrefix(s.Type, "ssh-") {
			s.Tag = fields[2]
		}
		h.Stanzas = append(h.Stanzas, s)
	}
	return h, nil
}

// IsFor says whether a file with this header is for the recipient and for nobody else.
func (h Header) IsFor(r Recipient) bool {
	return len(h.Stanzas) == 1 && h.Stanzas[0] == r.stanza()
}
