package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fleet/closure"
	"fleet/closure/direct"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// importMemory bounds the NARs that wait for a daemon, in bytes: an agent shares a host of 512 MB with what it is there for.
	importMemory = 32 << 20
	// importConnections is how many daemons import at once. Each is busy with one path after the other, mostly with waiting for the disk.
	importConnections = 4
	// directBytes is from how much on the daemon is done without, where that is allowed, in bytes of NARs.
	directBytes = 16 << 20
)

// pathImporter takes paths, references first, as [closure.Importer] does. What is not the fault of the NAR is a [*storeError].
type pathImporter interface {
	Import(info storepath.Info, archive io.Reader) error
	Wait() error
	Close() error
}

// storeError marks what is not the fault of what was sent.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// stored marks what the store has said; nil stays nil.
func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

// openImport chooses who imports. Without the daemon it is faster by as much as is imported, and begins later. The session protects the paths in any case.
func (s *session) openImport(ctx context.Context, req proto.ImportRequest, in *intake) pathImporter {
	if req.Bytes >= directBytes && s.host.StoreRoot == "" && s.mayImportDirectly(ctx) {
		return directImporter{direct.New(ctx, direct.Options{Memory: importMemory, Protected: true, Base: in.base, Done: in.done})}
	}
	return daemonImporter{closure.NewImporter(ctx, closure.ImportOptions{
		Open: in.connect, Release: s.giveBack, SkipSignatures: true, Connections: importConnections, Memory: importMemory, Done: in.done,
	})}
}

// mayImportDirectly looks once whether the host allows it.
func (s *session) mayImportDirectly(ctx context.Context) bool {
	s.looking.Lock()
	defer s.looking.Unlock()
	if !s.directKnown {
		s.direct, s.directKnown = direct.Possible(ctx, direct.Options{}) == nil, ctx.Err() == nil
	}
	return s.direct
}

// directImporter imports without the daemon. It checks NARs as it extracts them.
type directImporter struct{ *direct.Importer }

// Import implements [pathImporter].
func (d directImporter) Import(info storepath.Info, archive io.Reader) error {
	return stored(d.Importer.Import(info, archive))
}

// daemonImporter imports through daemons. These check the hash of a NAR before they register it; but they believe what it says of a file's size, and would make
// room for exabytes. So that is checked before.
type daemonImporter struct{ *closure.Importer }

// Import implements [pathImporter].
func (d daemonImporter) Import(info storepath.Info, archive io.Reader) error {
	if whole, ok := archive.(io.ReadSeeker); ok {
		return d.small(info, whole)
	}
	return d.large(info, archive)
}

// small takes a NAR that is in memory.
func (d daemonImporter) small(info storepath.Info, archive io.ReadSeeker) error {
	if err := nar.Parse(archive, &sizes{left: info.NarSize}); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return d.give(info, archive)
}

var errNotWanted = errors.New("the store does not want the rest")

// large lets a NAR flow through.
func (d daemonImporter) large(info storepath.Info, archive io.Reader) error {
	r, w := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := copyGuarded(w, info, archive)
		w.CloseWithError(err)
		checked <- err
	}()
	err := d.give(info, r)
	r.CloseWithError(errNotWanted)
	// What is wrong with the NAR explains what the store says of it.
	if checkErr := <-checked; checkErr != nil && !errors.Is(checkErr, errNotWanted) {
		return checkErr
	}
	return err
}

func (d daemonImporter) give(info storepath.Info, archive io.Reader) error {
	return stored(d.Importer.Import(info, archive))
}

// copyGuarded copies a NAR and ends in an error where it is none, or has files that are larger than it says itself to be.
func copyGuarded(w io.Writer, info storepath.Info, archive io.Reader) error {
	guard := sizeGuard{Writer: nar.NewWriter(w), limit: info.NarSize}
	if err := nar.Parse(archive, guard); err != nil {
		return err
	}
	return guard.Close()
}

// sizeGuard refuses a file that is larger than the rest of its NAR.
type sizeGuard struct {
	*nar.Writer
	limit uint64
}

func (g sizeGuard) File(path string, executable bool, size uint64, contents io.Reader) error {
	if g.Size() > g.limit || size > g.limit-g.Size() {
		return fmt.Errorf("file %q has %d bytes in a NAR of %d", path, size, g.limit)
	}
	return g.Writer.File(path, executable, size, contents)
}

// sizes checks that the files of a NAR are not larger than what is left of it.
type sizes struct{ left uint64 }

func (s *sizes) Directory(string) error       { return nil }
func (s *sizes) Symlink(string, string) error { return nil }

func (s *sizes) File(path string, _ bool, size uint64, _ io.Reader) error {
	if size > s.left {
		return fmt.Errorf("file %q has %d bytes in a NAR of no more than %d", path, size, s.left)
	}
	s.left -= size
	return nil
}
