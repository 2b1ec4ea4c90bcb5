// Package secret is the vocabulary of secrets: what they are called, what the state in git says of them, and the type
// that plaintext has. It does no input or output, and nothing in it can decrypt.
//
// A secret has a scope: it belongs to one host, or is shared between several. It has parts, by convention "secret" and
// "public". Every value that it ever had is a generation with an id of its own, drawn at random, and all its parts and all its owners'
// copies name the generation that they are of.
package secret

import (
	"errors"
	"fmt"
	"strings"
)

// The conventional names of parts.
const (
	PartSecret = "secret"
	PartPublic = "public"
)

// maxName bounds the name of a secret or a part, in bytes. It becomes a file name, with room for a suffix.
const maxName = 128

// Scope says whose a secret is: [Shared], or the host of [OfHost].
type Scope string

// Shared is the scope of what several hosts own.
const Shared Scope = "shared"

const hostPrefix = "host/"

// OfHost is the scope of what one host owns alone.
func OfHost(host string) Scope { return Scope(hostPrefix + host) }

// Host is the host of a scope; false for [Shared].
func (s Scope) Host() (string, bool) { return strings.CutPrefix(string(s), hostPrefix) }

// Validate says what is wrong with a scope.
func (s Scope) Validate() error {
	if s == Shared {
		return nil
	}
	host, ok := s.Host()
	if !ok {
		return fmt.Errorf("scope %q is neither %q nor \"host/NAME\"", shorten(string(s)), Shared)
	}
	return ValidateName(host)
}

// ID names a secret in its fleet. It is comparable; its text is "shared/NAME" or "host/HOST/NAME".
type ID struct {
	Scope Scope
	Name  string
}

// String is the id as the state's folders, the plan and people write it.
func (id ID) String() string { return string(id.Scope) + "/" + id.Name }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// ParseID reads the text of an id.
func ParseID(text string) (ID, error) {
	scope, name := "", text
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		scope, name = text[:i], text[i+1:]
	}
	id := ID{Scope: Scope(scope), Name: name}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("parse secret id %q: %w", shorten(text), err)
	}
	return id, nil
}

// Validate says what is wrong with an id.
func (id ID) Validate() error {
	if err := id.Scope.Validate(); err != nil {
		return err
	}
	return ValidateName(id.Name)
}

// ErrName is what errors.Is finds in every error about a name.
var ErrName = errors.New("no valid name")

type nameError struct{ name, why string }

func (e *nameError) Error() string        { return fmt.Sprintf("name %q: %s", shorten(e.name), e.why) }
func (e *nameError) Is(target error) bool { return target == ErrName }

// ValidateName says what is wrong with the name of a secret, a part or a host. Names become file names, attributes of Nix, and words of
// units and commands, so they have what is harmless in all of these.
func ValidateName(name string) error {
	switch {
	case name == "":
		return &nameError{name, "it is empty"}
	case len(name) > maxName:
		return &nameError{name, fmt.Sprintf("it is longer than %d bytes", maxName)}
	}
	for i := range len(name) {
		if c := name[i]; !isWord(c) && (i == 0 || c != '.' && c != '-') {
			return &nameError{name, "it may have letters, digits, _ . and -, and begins with a letter, a digit or _"}
		}
	}
	return nil
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// reservedParts are files of a generator's output that are no parts (fleet's generators have written them since its first version).
var reservedParts = [...]string{"created_at", "expires_at", "marker"}

// ValidatePart says what is wrong with the name of a part.
func ValidatePart(name string) error {
	for _, r := range reservedParts {
		if name == r {
			return &nameError{name, "it has another meaning in the output of a generator"}
		}
	}
	return ValidateName(name)
}

// shorten keeps what somebody else wrote from filling a message.
func shorten(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
