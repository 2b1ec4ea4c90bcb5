package pack

import (
	"errors"
	"fmt"
	"io"

	"fleet/closure/storepath"
)

const (
	// MaxKept bounds the NARs of one push that its receiver keeps for later units, in bytes together, and MaxKeptPaths their number.
	MaxKept      = 2 << 30
	MaxKeptPaths = 1 << 12
	// SelfDistance is how far behind its original a copy within one path lies at least, in bytes: who makes it holds up to 64 KiB back that are not written
	// yet, and reads up to 64 KiB ahead.
	SelfDistance = 256 << 10
)

// Spool is where a receiver keeps NARs: a file on disk, for there may be [MaxKept] bytes of them. What is read was written before. The [Unpacker] closes it.
type Spool interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// SpoolError says that what was to be kept of a push could not be written, or read again. Nothing is wrong with the push: it can be made
// without keeping anything.
type SpoolError struct{ Err error }

func (e *SpoolError) Error() string {
	return fmt.Sprintf("keep what later paths are made of: %v", e.Err)
}

// Unwrap returns the cause.
func (e *SpoolError) Unwrap() error { return e.Err }

var (
	errNotCome = errors.New("a unit copies what has not come before it")
	errNoSpool = errors.New("there is no place for it")
)

// keeper has the NARs of a push that later units may copy from, one behind the other in a spool.
type keeper struct {
	// open opens the spool, when the first NAR comes.
	open  func() (Spool, error)
	spool Spool
	paths map[storepath.Path]*keptPath
	// size is that of all paths, also of those that have not come as a whole.
	size uint64
	// err is why nothing is kept any more. Who needs it has this error; who does not is not held up.
	err error
}

// announce makes room for a path.
func (k *keeper) announce(info storepath.Info) error {
	if len(k.paths) == MaxKeptPaths || info.NarSize > MaxKept-k.size {
		return formatError("%q, of %d bytes, is to be kept beside %d paths of %d bytes, more than the format allows", info.Path, info.NarSize, len(k.paths), k.size)
	}
	if k.paths == nil {
		k.paths = make(map[storepath.Path]*keptPath)
	}
	k.paths[info.Path] = &keptPath{keeper: k, at: int64(k.size), size: int64(info.NarSize)}
	k.size += info.NarSize
	return nil
}

// add keeps the next bytes of a path, if it is one that is kept.
func (k *keeper) add(path storepath.Path, data []byte) {
	p := k.paths[path]
	if p == nil {
		return
	}
	if k.spool == nil && k.err == nil {
		k.spool, k.err = k.open()
	}
	if k.err == nil {
		if _, err := k.spool.WriteAt(data, p.at+p.come); err != nil {
			// What is there is of no use any more, and the disk may be full.
			k.err = errors.Join(err, k.spool.Close())
		}
	}
	p.come += int64(len(data))
}

// close gives the spool up.
func (k *keeper) close() {
	if k.spool != nil && k.err == nil {
		_ = k.spool.Close() // nobody needs what is in it
	}
	k.paths, k.err = nil, errClosed
}

// keptPath is the NAR of a path that is kept, as far as it has come. It is a [View]; closing it does nothing.
type keptPath struct {
	keeper *keeper
	// at is where it begins in the spool, come how much of it is there.
	at, size, come int64
}

func (p *keptPath) Size() int64 { return p.size }

func (p *keptPath) Close() error { return nil }

// ReadAt reads what has come. It never reads less.
func (p *keptPath) ReadAt(data []byte, off int64) (int, error) {
	if off < 0 || off > p.come-int64(len(data)) {
		return 0, errNotCome
	}
	if p.keeper.err != nil {
		return 0, &SpoolError{p.keeper.err}
	}
	n, err := p.keeper.spool.ReadAt(data, p.at+off)
	if n < len(data) {
		return n, &SpoolError{err}
	}
	return n, nil
}

// ownView is the NAR of the path that is being made, as far as it has come: the base of a path that names itself. It holds for one unit.
type ownView struct {
	unpacker *Unpacker
	// earlier has the segments before, where they are kept.
	earlier *keptPath
	// size is that of the NAR. Behind off, its bytes are those of the unit from begin on.
	size, off int64
	begin     int
}

func (v ownView) Size() int64 { return v.size }

func (v ownView) Close() error { return nil }

// ReadAt reads what has come. It never reads less.
func (v ownView) ReadAt(data []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNotCome
	}
	before := int(max(0, min(v.off-off, int64(len(data)))))
	if before > 0 {
		if v.earlier == nil {
			return 0, errNotCome
		}
		if n, err := v.earlier.ReadAt(data[:before], off); err != nil || before == len(data) {
			return n, err
		}
	}
	come := v.unpacker.nar[v.begin:]
	from := off + int64(before) - v.off
	if from > int64(len(come)-len(data)+before) {
		return before, errNotCome
	}
	copy(data[before:], come[from:])
	return len(data), nil
}

// openBase opens the base of a path whose NAR goes on at off: the path itself, one that the push has kept, or one of the receiver's.
func (u *Unpacker) openBase(e entry, off int64) (baseView, error) {
	kept := u.kept.paths[e.base]
	switch {
	case e.base == e.info.Path:
		return e.see(ownView{u, kept, int64(e.info.NarSize), off, len(u.nar)})
	case kept != nil:
		return e.see(kept)
	}
	return openBase(u.views, e)
}

// hostBase is a path's base where that is one of the receiver's own.
func (u *Unpacker) hostBase(e entry) storepath.Path {
	if e.base == e.info.Path || u.kept.paths[e.base] != nil {
		return storepath.Path{}
	}
	return e.base
}
