package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Format is the version of the state's files and of sealed values.
const Format = 1

// Gen is the id of one value of a secret: 128 random bits in lower-case hexadecimal. All parts of a value have the same one.
type Gen string

// NewGen draws an id; random is crypto/rand.Reader.
func NewGen(random io.Reader) (Gen, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("draw a generation's id: %w", err)
	}
	return Gen(hex.EncodeToString(id[:])), nil
}

// Validate says what is wrong with an id.
func (g Gen) Validate() error {
	if !isLowerHex(string(g), 16) {
		return fmt.Errorf("generation %q is not 32 lower-case hexadecimal digits", shorten(string(g)))
	}
	return nil
}

// isLowerHex says whether text is so many bytes in lower-case hexadecimal: one spelling a value, since values are compared as texts.
func isLowerHex(text string, size int) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == size && hex.EncodeToString(raw) == text
}

// Origin says where a value came from.
type Origin string

// The origins.
const (
	// Generated: by the secret's generator.
	Generated Origin = "generated"
	// Set: a person gave it.
	Set Origin = "set"
)

// Meta is what the state says of a secret's current value, in meta.json. It does not list the owners: each has a file of its own. Its
// fields are in the order of their names, which is the order in the file.
type Meta struct {
	CreatedAt time.Time `json:"createdAt"`
	// Deps are the generations of the secrets that the value was made from, by id.
	Deps map[string]Gen `json:"deps,omitempty"`
	// ExpiresAt is nil for a value that does not expire.
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	Format    int        `json:"format"`
	Gen       Gen        `json:"gen"`
	// GenerationData is what the generator was called with, as canonical JSON; empty where it was called with nothing.
	GenerationData json.RawMessage `json:"generationData,omitempty"`
	// MadeOn is the host that the generator ran on, which knows the value, an owner or not; empty for the operator's machine, and for what a person gave.
	MadeOn string              `json:"madeOn,omitempty"`
	Origin Origin              `json:"origin"`
	Parts  map[string]MetaPart `json:"parts"`
	// Seed identifies a hand-written generator's script; empty for others.
	Seed string `json:"seed,omitempty"`
	// Seq counts the values of this secret, from 1.
	Seq uint64 `json:"seq"`
}

// MetaPart is one part of a value.
type MetaPart struct {
	// Commit is the commitment to the part's value, see seal.Commit. It changes exactly with the value.
	Commit string `json:"commit"`
	// Encoding is how a public part's file is to be read: "text" as it is, "base64" for what is no text. Empty for encrypted parts.
	Encoding  string `json:"encoding,omitempty"`
	Encrypted bool   `json:"encrypted"`
}

// The encodings of public parts.
const (
	EncodingText   = "text"
	EncodingBase64 = "base64"
)

// MaxPublic bounds a public part, in bytes: evaluation pastes it into other hosts' configurations.
const MaxPublic = 16 << 10

// MaxValue bounds an encrypted part, in bytes.
const MaxValue = 1 << 20

// Owner is one owner's copy of the encrypted parts, in owners/<host>.json.
type Owner struct {
	Format int `json:"format"`
	Gen    Gen `json:"gen"`
	// Key is the fingerprint of the key that the parts are encrypted to, "SHA256:…" as ssh-keygen -l prints it.
	Key   string                `json:"key"`
	Parts map[string]SealedPart `json:"parts"`
}

// SealedPart is an armored age file.
type SealedPart struct {
	Armor string `json:"armor"`
	// SHA256 is the checksum of Armor in lower-case hexadecimal: damage can be told without a key.
	SHA256 string `json:"sha256"`
}

// Revoked remembers, in revoked/<gen>-<host>.json, that a host was an owner of a value that lives on: it may still know it.
type Revoked struct {
	At     time.Time `json:"at"`
	Format int       `json:"format"`
	Gen    Gen       `json:"gen"`
	Owner  string    `json:"owner"`
}

// DecodeMeta reads meta.json strictly: unknown fields, another format, names or generations that are none are errors.
func DecodeMeta(data []byte) (Meta, error) {
	var m Meta
	if err := decodeStrict(data, &m); err != nil {
		return Meta{}, fmt.Errorf("decode meta.json: %w", err)
	}
	if err := m.validate(); err != nil {
		return Meta{}, fmt.Errorf("decode meta.json: %w", err)
	}
	if len(m.GenerationData) > 0 {
		data, err := CanonicalJSON(m.GenerationData)
		if err != nil {
			return Meta{}, fmt.Errorf("decode meta.json: generationData: %w", err)
		}
		m.GenerationData = data
	}
	return m, nil
}

func (m *Meta) validate() error {
	if err := checkFormat(m.Format); err != nil {
		return err
	}
	if err := m.Gen.Validate(); err != nil {
		return err
	}
	if m.Seq == 0 {
		return errors.New("seq is 0; it counts from 1")
	}
	if m.Origin != Generated && m.Origin != Set {
		return fmt.Errorf("origin %q is neither %q nor %q", shorten(string(m.Origin)), Generated, Set)
	}
	if m.MadeOn != "" {
		if err := ValidateName(m.MadeOn); err != nil {
			return fmt.Errorf("madeOn: %w", err)
		}
	}
	if len(m.Parts) == 0 {
		return errors.New("it has no parts")
	}
	for name, part := range m.Parts {
		if err := ValidatePart(name); err != nil {
			return err
		}
		if err := part.validate(); err != nil {
			return fmt.Errorf("part %q: %w", name, err)
		}
	}
	for id, gen := range m.Deps {
		if _, err := ParseID(id); err != nil {
			return err
		}
		if err := gen.Validate(); err != nil {
			return fmt.Errorf("dependency %q: %w", id, err)
		}
	}
	return nil
}

func (p MetaPart) validate() error {
	if !isLowerHex(p.Commit, 32) {
		return fmt.Errorf("commit %q is no SHA-256 in lower-case hexadecimal", shorten(p.Commit))
	}
	want := p.Encoding == EncodingText || p.Encoding == EncodingBase64
	if p.Encrypted {
		want = p.Encoding == ""
	}
	if !want {
		return fmt.Errorf("encoding %q does not fit", shorten(p.Encoding))
	}
	return nil
}

// Encode renders meta.json, so that equal values give equal bytes.
func (m Meta) Encode() ([]byte, error) { return encode(m) }

// Encrypted lists the encrypted parts, sorted.
func (m Meta) Encrypted() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.Parts)), func(part string) bool { return !m.Parts[part].Encrypted })
}

// DecodeOwner reads an owner's file strictly; the checksums must be right.
func DecodeOwner(data []byte) (Owner, error) {
	var o Owner
	if err := decodeStrict(data, &o); err != nil {
		return Owner{}, fmt.Errorf("decode owner file: %w", err)
	}
	err := errors.Join(checkFormat(o.Format), o.Gen.Validate(), validFingerprint(o.Key))
	for name, part := range o.Parts {
		err = errors.Join(err, ValidatePart(name))
		if Checksum(part.Armor) != part.SHA256 {
			err = errors.Join(err, fmt.Errorf("part %q: its checksum is wrong, the file was damaged or edited", name))
		}
	}
	if err != nil {
		return Owner{}, fmt.Errorf("decode owner file: %w", err)
	}
	return o, nil
}

// Encode renders the owner's file.
func (o Owner) Encode() ([]byte, error) { return encode(o) }

// DecodeRevoked reads a note of a former owner.
func DecodeRevoked(data []byte) (Revoked, error) {
	var r Revoked
	err := decodeStrict(data, &r)
	if err == nil {
		err = errors.Join(checkFormat(r.Format), r.Gen.Validate(), ValidateName(r.Owner))
	}
	if err != nil {
		return Revoked{}, fmt.Errorf("decode revoked file: %w", err)
	}
	return r, nil
}

// Encode renders the note.
func (r Revoked) Encode() ([]byte, error) { return encode(r) }

func checkFormat(format int) error {
	switch {
	case format == Format:
		return nil
	case format > Format:
		return fmt.Errorf("it has format %d, newer than format %d, which this program reads", format, Format)
	}
	return fmt.Errorf("it has format %d, this program reads format %d", format, Format)
}

func validFingerprint(text string) error {
	sum, ok := strings.CutPrefix(text, "SHA256:")
	if raw, err := base64.RawStdEncoding.DecodeString(sum); !ok || err != nil || len(raw) != 32 || base64.RawStdEncoding.EncodeToString(raw) != sum {
		return fmt.Errorf("key %q is no fingerprint", shorten(text))
	}
	return nil
}

// ErrMergeMarkers says that git left a conflict in a file.
var ErrMergeMarkers = errors.New("it has git's conflict markers")

// HasMergeMarkers says whether a file was left in the middle of a merge.
func HasMergeMarkers(data []byte) bool {
	for line := range bytes.Lines(data) {
		if bytes.HasPrefix(line, []byte("<<<<<<< ")) || bytes.HasPrefix(line, []byte(">>>>>>> ")) || bytes.Equal(bytes.TrimRight(line, "\r\n"), []byte("=======")) {
			return true
		}
	}
	return false
}

func encode(value any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// CanonicalJSON renders JSON so that equal values have equal bytes: keys sorted, no space, numbers as they were written. Null and nothing are nil.
func CanonicalJSON(data []byte) (json.RawMessage, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the value")
	}
	if value == nil {
		return nil, nil
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}
