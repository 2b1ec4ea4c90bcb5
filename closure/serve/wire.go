package serve

import (
	"bufio"
	"encoding/binary"
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
