package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fleet/closure/storepath"
	"fleet/closure/wire"
)

// frameSize is the size of the pieces that a NAR is sent in. The daemon keeps one in memory.
const frameSize = 64 << 10

// AddOptions are the choices of [Conn.AddToStoreNar].
type AddOptions struct {
	// SkipSignatures asks the daemon not to insist on a signature. It listens only to trusted users; and without it even a
	// trusted user needs one.
	SkipSignatures bool
	// Repair replaces a path that is valid already.
	Repair bool
	// BeforeEnd is called, where it is set, when the daemon has been sent all but the last bytes of the NAR: it registers the path as soon as it has these. They
	// are sent when BeforeEnd returns; its error is like one of reading the NAR.
	BeforeEnd func() error
}

// lastBytes are too few to hold anything but the end of a NAR's tree.
const lastBytes = 16

// AddToStoreNar adds a path with the contents that its NAR gives. All paths that it refers to must be valid. The daemon checks the hash and size
// of info before it registers the path, and ignores the NAR of a path that is valid already. The path is protected from garbage collection
// until the connection is closed.
//
// Where reading the NAR fails, the daemon is given a NAR that is cut, which it refuses, and the reader's error is returned.
func (c *Conn) AddToStoreNar(ctx context.Context, info storepath.Info, nar io.Reader, opts AddOptions) error {
	pending, err := c.StartAddToStoreNar(ctx, info, nar, opts)
	if pending == nil {
		return err
	}
	return errors.Join(err, pending.Wait(ctx))
}

// Pending is a path that was sent and whose registration is under way.
type Pending struct {
	conn *Conn
	path storepath.Path
	r    *reply
	// broken is set where the NAR was sent incompletely.
	broken bool
}

// Wait returns when the path is registered, or why it is not. ctx ending earlier closes the connection.
func (p *Pending) Wait(ctx context.Context) error {
	err := p.conn.wait(ctx, p.r)
	var refused *Error
	if p.broken && errors.As(err, &refused) {
		// That the daemon refuses it is what was wanted.
		return nil
	}
	if err != nil {
		return fmt.Errorf("add path %q: %w", p.path, err)
	}
	return nil
}

// StartAddToStoreNar is [Conn.AddToStoreNar], but returns as soon as the NAR was read and sent. The daemon works through
// what it was sent in order, so a path may be sent while the paths that it refers to are pending on the same connection.
// Where the error is that of reading the NAR, the result is a Pending too.
func (c *Conn) StartAddToStoreNar(ctx context.Context, info storepath.Info, nar io.Reader, opts AddOptions) (*Pending, error) {
	p := &Pending{conn: c, path: info.Path, r: &reply{count: 1, decode: func(int, decoder) error { return nil }}}
	var readErr error
	err := c.send(ctx, p.r, func(e wire.Encoder) error {
		writeAddRequest(e, info, opts)
		readErr = writeNAR(e, info, nar, opts.BeforeEnd)
		return readErr
	})
	switch {
	case readErr != nil:
		p.broken = true
		return p, fmt.Errorf("add path %q: read its NAR: %w", info.Path, readErr)
	case err != nil:
		return nil, fmt.Errorf("add path %q: %w", info.Path, err)
	}
	return p, nil
}

func writeAddRequest(e wire.Encoder, info storepath.Info, opts AddOptions) {
	e.Number(opAddToStoreNar)
	e.Path(info.Path)
	info.References = sortedReferences(info)
	e.Info(info)
	e.Flag(opts.Repair)
	e.Flag(opts.SkipSignatures)
}

// writeNAR sends a NAR in frames. The last frame is empty; it is sent after an error too, and what the daemon has is then shorter than it must be.
func writeNAR(e wire.Encoder, info storepath.Info, nar io.Reader, beforeEnd func() error) error {
	var err error
	if beforeEnd != nil && info.NarSize > lastBytes {
		err = writeFrames(e, io.LimitReader(nar, int64(info.NarSize)-lastBytes))
		if err == nil {
			_ = e.Flush() // where the connection is gone, flushing it at the end will tell
			err = beforeEnd()
		}
	}
	if err == nil {
		err = writeFrames(e, nar)
	}
	e.Number(0)
	return err
}

// writeFrames sends what r holds in frames.
func writeFrames(e wire.Encoder, r io.Reader) error {
	frame := make([]byte, frameSize)
	for {
		n, err := io.ReadFull(r, frame)
		if n > 0 {
			e.Number(uint64(n))
			if _, err := e.Write(frame[:n]); err != nil {
				// The connection is gone, and flushing it will tell. Nothing more need be read.
				return nil
			}
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n > 0:
			err = nil
		}
		return err
	}
}
