package serve

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"fleet/closure/storepath"
)

// maxPathText bounds a store path's text, in bytes. It is far above what a real one has.
const maxPathText = 4096

// FaultError says that what the other side sends is not the protocol.
type FaultError struct{ Reason string }

func (e *FaultError) Error() string { return "nix-store --serve: protocol fault: " + e.Reason }

func fault(format string, args ...any) error {
	return &FaultError{Reason: fmt.Sprintf(format, args...)}
}

// encoder writes the primitives of the protocol (libutil/serialise.cc). Its errors are those of the buffered writer, which are sticky.
type encoder struct{ *bufio.Writer }

func (e encoder) number(value uint64) {
	_, _ = e.Write(binary.LittleEndian.AppendUint64(e.AvailableBuffer(), value))
}

func (e encoder) flag(value bool) {
	if value {
		e.number(1)
	} else {
		e.number(0)
	}
}

func (e encoder) text(value string) {
	const zeros = "\x00\x00\x00\x00\x00\x00\x00"
	e.number(uint64(len(value)))
	_, _ = e.WriteString(value)
	_, _ = e.WriteString(zeros[:-len(value)&7])
}

func (e encoder) paths(paths []storepath.Path) {
	e.number(uint64(len(paths)))
	for _, p := range paths {
		e.text(p.String())
	}
}

// add writes the request to add a path, without its NAR, which follows.
func (e encoder) add(info storepath.Info) {
	e.number(cmdAddToStoreNar)
	e.text(info.Path.String())
	e.text(info.Deriver.String())
	e.text(hex.EncodeToString(info.NarHash[:]))
	e.paths(info.References)
	// Registered now, and not built there.
	e.number(0)
	e.number(info.NarSize)
	e.flag(false)
	e.number(uint64(len(info.Signatures)))
	for _, signature := range info.Signatures {
		e.text(signature)
	}
	e.text(info.CA)
}

// decoder reads the primitives. Each length is checked before memory is taken for it.
type decoder struct{ *bufio.Reader }

func (d decoder) number() (uint64, error) {
	var data [8]byte
	if _, err := io.ReadFull(d, data[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(data[:]), nil
}

func (d decoder) path() (storepath.Path, error) {
	n, err := d.number()
	if err != nil {
		return storepath.Path{}, err
	}
	if n > maxPathText {
		return storepath.Path{}, fault("a path of %d bytes, where at most %d are legal", n, maxPathText)
	}
	data := make([]byte, (n+7)&^7)
	if _, err := io.ReadFull(d, data); err != nil {
		return storepath.Path{}, err
	}
	for _, b := range data[n:] {
		if b != 0 {
			return storepath.Path{}, fault("the padding of a string is not zero")
		}
	}
	p, err := storepath.Parse(string(data[:n]))
	if err != nil {
		return p, fault("%v", err)
	}
	return p, nil
}
