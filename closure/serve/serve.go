// Package serve is a client of Nix's serve protocol, which `nix-store --serve --write` speaks, for its versions 2.5 (Nix 2.3) to 2.7. It adds paths to the store
// of a host where nothing of ours runs.
//
// The protocol has no errors: a server that cannot do what it was asked for says why on its standard error, which is the caller's to read, and
// ends, which is an [*EndedError] here. Every error, and a context that ends, closes the connection.
package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"fleet/closure/storepath"
	"fleet/closure/wire"
)

const (
	clientMagic = 0x390c9deb
	serverMagic = 0x5452eecb

	minVersion = 2<<8 | 5
	maxVersion = 2<<8 | 7

	cmdQueryValidPaths = 1
	cmdAddToStoreNar   = 9

	bufferSize = 128 << 10
)

// VersionError says that a server is too old, or too new, for us.
type VersionError struct {
	// Server is its version, as major<<8 | minor.
	Server uint64
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("nix-store --serve speaks version %d.%d of its protocol, at least %d.%d is needed", e.Server>>8, e.Server&0xff, minVersion>>8, minVersion&0xff)
}

// Hint says how to mend it.
func (e *VersionError) Hint() string { return "update Nix on that machine to 2.8 or newer" }

// EndedError says that the server has ended the connection.
type EndedError struct{}

func (e *EndedError) Error() string { return "nix-store --serve has ended" }

// SourceError says that the NAR of a path could not be read on our side.
type SourceError struct {
	Path storepath.Path
	Err  error
}

func (e *SourceError) Error() string { return fmt.Sprintf("read the NAR of %q: %v", e.Path, e.Err) }

func (e *SourceError) Unwrap() error { return e.Err }

// Conn is a connection to a server. Its methods are not to be called at the same time, but for Close.
type Conn struct {
	rw  io.ReadWriteCloser
	enc wire.Encoder
	dec decoder
}

// NewConn shakes hands with a server over rw, and owns it from then on: it is closed after an error, and by [Conn.Close]. Closing rw must make its Read and
// Write return. ctx bounds the handshake.
func NewConn(ctx context.Context, rw io.ReadWriteCloser) (*Conn, error) {
	c := &Conn{rw: rw, enc: wire.Encoder{Writer: bufio.NewWriterSize(rw, bufferSize)}, dec: decoder{bufio.NewReaderSize(rw, bufferSize)}}
	if err := c.during(ctx, c.handshake); err != nil {
		return nil, err
	}
	return c, nil
}

// Close closes the connection, and with it the protection of what was asked for or added. It may be called more than once.
func (c *Conn) Close() error { return c.rw.Close() }

// during does a piece of work; a context that ends meanwhile ends the connection, and so does an error.
func (c *Conn) during(ctx context.Context, work func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.rw.Close() })
	err := work()
	stop()
	if err == nil {
		return nil
	}
	_ = c.rw.Close() // the error before it counts
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Conn) handshake() error {
	c.enc.Number(clientMagic)
	c.enc.Number(maxVersion)
	if err := c.enc.Flush(); err != nil {
		return ended(err)
	}
	magic, err := c.dec.number()
	if err != nil {
		return ended(err)
	}
	if magic != serverMagic {
		return fault("what answers is no nix-store --serve")
	}
	version, err := c.dec.number()
	if err != nil {
		return ended(err)
	}
	if version < minVersion || version>>8 != maxVersion>>8 {
		return &VersionError{Server: version}
	}
	return nil
}

// ended is the error for the end of the stream, in whichever way it shows; others are as they are.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return &EndedError{}
	}
	return err
}

// QueryOptions are the choices of [Conn.QueryValidPaths].
type QueryOptions struct {
	// Lock protects all of the paths from garbage collection, also those that are not valid yet, until the connection ends.
	Lock bool
	// Substitute has the server's substituters make valid what they have, before the answer.
	Substitute bool
}

// QueryValidPaths returns those of paths that are valid, in no order.
func (c *Conn) QueryValidPaths(ctx context.Context, paths []storepath.Path, opts QueryOptions) (valid []storepath.Path, err error) {
	err = c.during(ctx, func() error {
		c.enc.Number(cmdQueryValidPaths)
		c.enc.Flag(opts.Lock)
		c.enc.Flag(opts.Substitute)
		c.enc.Paths(paths)
		if err := c.enc.Flush(); err != nil {
			return ended(err)
		}
		valid, err = c.subset(paths)
		return ended(err)
	})
	return valid, err
}

// subset reads a set of paths that were all asked for.
func (c *Conn) subset(asked []storepath.Path) ([]storepath.Path, error) {
	open := make(map[storepath.Path]bool, len(asked))
	for _, p := range asked {
		open[p] = true
	}
	n, err := c.dec.number()
	if err != nil {
		return nil, err
	}
	if n > uint64(len(open)) {
		return nil, fault("%d paths, where %d were asked for", n, len(open))
	}
	var found []storepath.Path
	for range n {
		p, err := c.dec.path()
		if err != nil {
			return nil, err
		}
		if !open[p] {
			return nil, fault("%s comes twice, or was not asked for", p)
		}
		delete(open, p)
		found = append(found, p)
	}
	return found, nil
}

// Add adds paths, each of which comes after those that it refers to, and returns when all are registered. None is waited for before the next one is sent. The server checks each
// NAR's hash and size, and reads past that of a path that is valid already.
//
// nar writes the NAR of a path; its error is a [*SourceError], and so is one of another size than announced. added is called from another goroutine for each path once
// it is registered, in order, and not after Add has returned.
func (c *Conn) Add(ctx context.Context, infos []storepath.Info, nar func(info storepath.Info, w io.Writer) error, added func(storepath.Info)) error {
	return c.during(ctx, func() error {
		replies := make(chan error, 1)
		go func() {
			err := c.replies(infos, added)
			if err != nil {
				_ = c.rw.Close() // so that writing ends too
			}
			replies <- err
		}()
		writeErr := c.send(infos, nar)
		source, broken := errors.AsType[*SourceError](writeErr)
		if broken {
			_ = c.rw.Close() // the server waits for the rest, which there is not
		}
		// A server that takes no more has still answered for what it took.
		replyErr := <-replies
		switch {
		case broken:
			return source
		case replyErr != nil:
			return ended(replyErr)
		}
		return ended(writeErr)
	})
}

// replies reads an answer for each path.
func (c *Conn) replies(infos []storepath.Info, added func(storepath.Info)) error {
	for _, info := range infos {
		answer, err := c.dec.number()
		if err != nil {
			return err
		}
		if answer != 1 {
			return fault("%d is no answer", answer)
		}
		added(info)
	}
	return nil
}

func (c *Conn) send(infos []storepath.Info, nar func(storepath.Info, io.Writer) error) error {
	for _, info := range infos {
		c.enc.Number(cmdAddToStoreNar)
		c.enc.Path(info.Path)
		c.enc.Info(info)
		w := &sizedWriter{w: c.enc, left: info.NarSize}
		err := nar(info, w)
		switch {
		case w.err != nil:
			return w.err
		case err == nil && w.left > 0:
			err = fmt.Errorf("it is %d bytes shorter than announced", w.left)
		}
		if err != nil {
			return &SourceError{Path: info.Path, Err: err}
		}
	}
	return c.enc.Flush()
}

// sizedWriter takes as much as was announced, and no more.
type sizedWriter struct {
	w    io.Writer
	left uint64
	// err is that of w.
	err error
}

func (s *sizedWriter) Write(data []byte) (int, error) {
	if uint64(len(data)) > s.left {
		return 0, errors.New("it is longer than announced")
	}
	n, err := s.w.Write(data)
	s.left -= uint64(n)
	s.err = err
	return n, err
}
