package serve

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"fleet/closure/storepath"
	"fleet/closure/wire"
)

// maxPathText bounds a store path's text, in bytes. It is far above what a real one has.
const maxPathText = 4096

// FaultError says that what the other side sends is not the protocol.
type FaultError struct{ Reason string }

func (e *FaultError) Error() string { return "nix-store --serve: protocol fault: " + e.Reason }

func fault(format string, args ...any) error {
	return &FaultError{Reason: fmt.Sprintf(format, args...)}
}

// writeAdd writes the request to add a path, without its NAR, which follows.
func writeAdd(e wire.Encoder, info storepath.Info) {
	e.Number(cmdAddToStoreNar)
	e.Text(info.Path.String())
	e.Text(info.Deriver.String())
	e.Text(hex.EncodeToString(info.NarHash[:]))
	e.Paths(info.References)
	// Registered now, and not built there.
	e.Number(0)
	e.Number(info.NarSize)
	e.Flag(false)
	e.Texts(info.Signatures)
	e.Text(info.CA)
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
