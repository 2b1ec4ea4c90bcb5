package secret

import (
	"fmt"
	"io"
)

// redacted is what is printed in place of plaintext.
const redacted = "[redacted]"

// Plain is plaintext. However it is printed, logged or encoded, it shows nothing. The zero value is empty.
type Plain struct {
	// A function, since fmt calls no methods of what is in an unexported field of something that it prints: it would show bytes, and follows
	// some pointers.
	value func() []byte
}

// NewPlain takes over value, which the caller must not use any more.
func NewPlain(value []byte) Plain { return Plain{func() []byte { return value }} }

// Bytes is the value itself, to be encrypted, written where it belongs, or compared. It is shared, not copied.
func (p Plain) Bytes() []byte {
	if p.value == nil {
		return nil
	}
	return p.value()
}

// Len is the number of bytes.
func (p Plain) Len() int { return len(p.Bytes()) }

// Wipe overwrites the value. Copies that Go or the kernel made are out of reach.
func (p Plain) Wipe() { clear(p.Bytes()) }

// String implements [fmt.Stringer].
func (p Plain) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (p Plain) GoString() string { return redacted }

// Format implements [fmt.Formatter], for the verbs that would look inside.
func (p Plain) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler], and with it what JSON and loggers do.
func (p Plain) MarshalText() ([]byte, error) { return []byte(redacted), nil }
