package daemon

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"

	"fleet/closure/storepath"
)

// The bounds of what a daemon may send. They are far above what a real one sends, and keep a broken one from taking our memory.
const (
	maxPathText  = 4096
	maxShortText = 64 << 10
	// maxLogText bounds one message of the log or of an error; builds print lines of any length.
	maxLogText = 16 << 20
	maxPaths   = 1 << 20
	maxList    = 1 << 12
)

// FaultError says that what came over the connection is not the protocol. The connection is closed then.
type FaultError struct {
	Reason string
}

func (e *FaultError) Error() string { return "nix daemon: protocol fault: " + e.Reason }

func fault(format string, args ...any) error {
	return &FaultError{Reason: fmt.Sprintf(format, args...)}
}

// decoder reads the primitives. Each length is checked before memory is taken for it.
type decoder struct{ r *bufio.Reader }

func (d decoder) number() (uint64, error) {
	var data [8]byte
	if _, err := io.ReadFull(d.r, data[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(data[:]), nil
}

func (d decoder) flag() (bool, error) {
	value, err := d.number()
	if err == nil && value > 1 {
		return false, fault("%d is no boolean", value)
	}
	return value == 1, err
}

// count reads the length of a list.
func (d decoder) count(limit uint64) (int, error) {
	n, err := d.number()
	if err == nil && n > limit {
		return 0, fault("a list of %d items, where at most %d are legal", n, limit)
	}
	return int(n), err
}

func (d decoder) text(limit uint64) (string, error) {
	n, err := d.number()
	if err != nil {
		return "", err
	}
	if n > limit || n > math.MaxInt32 {
		return "", fault("a string of %d bytes, where at most %d are legal", n, limit)
	}
	size := int64(n)
	padded := (size + 7) &^ 7
	// The buffer grows with what has really arrived.
	var data bytes.Buffer
	data.Grow(int(min(padded, maxShortText)))
	if _, err := io.CopyN(&data, d.r, padded); err != nil {
		return "", err
	}
	for _, b := range data.Bytes()[size:] {
		if b != 0 {
			return "", fault("the padding of a string is not zero")
		}
	}
	return string(data.Bytes()[:size]), nil
}

func (d decoder) texts() ([]string, error) {
	n, err := d.count(maxList)
	if err != nil {
		return nil, err
	}
	var values []string
	for range n {
		value, err := d.text(maxShortText)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

// optionalPath reads a store path, or the empty string for none.
func (d decoder) optionalPath() (storepath.Path, error) {
	text, err := d.text(maxPathText)
	if err != nil || text == "" {
		return storepath.Path{}, err
	}
	p, err := storepath.Parse(text)
	if err != nil {
		return p, fault("%v", err)
	}
	return p, nil
}

// paths reads a set of paths, and returns it sorted.
func (d decoder) paths() ([]storepath.Path, error) {
	n, err := d.count(maxPaths)
	if err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for range n {
		p, err := d.optionalPath()
		if err != nil {
			return nil, err
		}
		if p.IsZero() {
			return nil, fault("an empty path in a set")
		}
		paths = append(paths, p)
	}
	storepath.Sort(paths)
	return slices.Compact(paths), nil
}

// info reads what op QueryPathInfo returns after the path's validity.
func (d decoder) info(p storepath.Path) (storepath.Info, error) {
	info := storepath.Info{Path: p}
	var err error
	if info.Deriver, err = d.optionalPath(); err != nil {
		return info, err
	}
	hash, err := d.text(maxShortText)
	if err != nil {
		return info, err
	}
	if n, err := hex.Decode(info.NarHash[:], []byte(hash[:min(len(hash), 2*len(info.NarHash))])); err != nil || 2*n != len(hash) || n != len(info.NarHash) {
		return info, fault("%q is no SHA-256", hash)
	}
	if info.References, err = d.paths(); err != nil {
		return info, err
	}
	// The time of registration says nothing to us.
	if _, err = d.number(); err != nil {
		return info, err
	}
	if info.NarSize, err = d.number(); err != nil {
		return info, err
	}
	// "ultimate": whether the path was built there.
	if _, err = d.flag(); err != nil {
		return info, err
	}
	if info.Signatures, err = d.texts(); err != nil {
		return info, err
	}
	info.CA, err = d.text(maxShortText)
	return info, err
}
