// Package wire writes the primitives in which Nix's programs talk to each other and store what they export (libutil/serialise.cc): numbers of 64 bits, and texts that are
// filled up with zeros to a multiple of 8 bytes.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"

	"fleet/closure/storepath"
)

// Encoder writes to a buffered writer, whose errors are sticky: they show when it is flushed.
type Encoder struct{ *bufio.Writer }

// Number writes an unsigned number.
func (e Encoder) Number(value uint64) {
	_, _ = e.Write(binary.LittleEndian.AppendUint64(e.AvailableBuffer(), value))
}

// Flag writes a boolean.
func (e Encoder) Flag(value bool) {
	if value {
		e.Number(1)
	} else {
		e.Number(0)
	}
}

// Text writes a string.
func (e Encoder) Text(value string) {
	const zeros = "\x00\x00\x00\x00\x00\x00\x00"
	e.Number(uint64(len(value)))
	_, _ = e.WriteString(value)
	_, _ = e.WriteString(zeros[:-len(value)&7])
}

// Texts writes a list of strings.
func (e Encoder) Texts(values []string) {
	e.Number(uint64(len(values)))
	for _, value := range values {
		e.Text(value)
	}
}

// Path writes a store path, the zero Path as an empty string.
func (e Encoder) Path(p storepath.Path) { e.Text(p.String()) }

// Paths writes a list of store paths.
func (e Encoder) Paths(paths []storepath.Path) {
	e.Number(uint64(len(paths)))
	for _, p := range paths {
		e.Path(p)
	}
}

// Info writes what a store is told of a path beside its name: that it is registered now, and was not built there.
func (e Encoder) Info(info storepath.Info) {
	e.Path(info.Deriver)
	e.Text(hex.EncodeToString(info.NarHash[:]))
	e.Paths(info.References)
	e.Number(0)
	e.Number(info.NarSize)
	e.Flag(false)
	e.Texts(info.Signatures)
	e.Text(info.CA)
}
