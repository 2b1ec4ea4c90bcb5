package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/direct"
	"fleet/closure/nar"
	"fleet/closure/pack"
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

// intake makes paths of the units of one transfer, and has them registered.
type intake struct {
	session    *session
	store      pathImporter
	unpacker   *pack.Unpacker
	registered func(storepath.Path)
	// unprotected is why the session's paths cannot be protected, nil where they are.
	unprotected error

	mu sync.Mutex
	// begun are the paths that were given to the store and are not registered yet.
	begun  map[storepath.Path]begunPath
	result proto.ImportResult
}

// begunPath is what is known of a path while it is imported: its size, and the base that was agreed on, or the zero Path.
type begunPath struct {
	size uint64
	base storepath.Path
}

// pathImporter takes paths, references first: [closure.Importer] or [direct.Importer].
type pathImporter interface {
	Import(info storepath.Info, nar io.Reader) error
	Wait() error
	Close() error
}

// openIntake makes an intake. The end of ctx ends the taking of units; what is complete is registered nevertheless, until the session ends.
func (s *session) openIntake(ctx context.Context, req proto.ImportRequest, registered func(storepath.Path)) *intake {
	in := &intake{session: s, registered: registered, begun: make(map[storepath.Path]begunPath)}
	// What was protected may not be any more: another push may have given a full store its space back, or a daemon may have died.
	_, in.unprotected = s.protect(ctx, nil)
	in.store = s.openImport(s.ctx, req, in)
	in.unpacker = pack.NewUnpacker(ctx, hostViews{s}, in, func() (pack.Spool, error) { return openSpool(s.host.Temp) })
	return in
}

// openImport chooses who imports. Without the daemon it is faster by as much as is imported, and begins later. The session protects the paths in any case.
func (s *session) openImport(ctx context.Context, req proto.ImportRequest, in *intake) pathImporter {
	if req.Bytes >= directBytes && s.host.StoreRoot == "" && s.mayImportDirectly(ctx) {
		return direct.New(ctx, direct.Options{Memory: importMemory, Protected: true, Base: in.base, Done: in.done})
	}
	return closure.NewImporter(ctx, closure.ImportOptions{
		Open: in.connect, Release: s.giveBack, SkipSignatures: true, Connections: importConnections, Memory: importMemory, Done: in.done,
	})
}

// connect opens a connection for the importer, which does so again where one was lost: so we look whether that which protects the paths is still there.
func (in *intake) connect(ctx context.Context) (*daemon.Conn, error) {
	if _, err := in.session.protect(ctx, in.underWay()); err != nil {
		return nil, err
	}
	return in.session.borrow(ctx)
}

// underWay are the paths that were given to the store and are not registered yet.
func (in *intake) underWay() []storepath.Path {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Collect(maps.Keys(in.begun))
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

// close waits for what is under way, and says what has become of the transfer; err is why it ended early. It gives a full store its space back.
func (in *intake) close(ctx context.Context, err error) (proto.ImportResult, error) {
	in.unpacker.Close()
	// What has arrived stays, whatever came after it. A unit that cannot be read may be so because the paths before it were damaged, which the store knows.
	_, unreadable := errors.AsType[*pack.FormatError](err)
	if waitErr := in.store.Wait(); err == nil || unreadable {
		err = errors.Join(err, waitErr)
	}
	err = in.session.explainImport(errors.Join(err, in.store.Close()))
	if proto.CodeOf(err) == proto.CodeStoreFull {
		in.session.clearUnfinished(ctx, in.underWay())
	}
	return in.result, err
}

// hostViews opens what deltas are made against: the paths that the host has said it has, as it has them.
type hostViews struct{ session *session }

// Open implements [pack.Views].
func (v hostViews) Open(path storepath.Path) (pack.View, error) {
	base, accepted := v.session.base(path)
	if !accepted {
		return nil, fmt.Errorf("%s was not agreed on as a base", path)
	}
	v.session.reading(path)
	view, err := nar.OpenView(v.session.host.file(path))
	if err != nil {
		return nil, err
	}
	if uint64(view.Size()) != base.NarSize {
		return nil, errors.Join(fmt.Errorf("the host's %s has changed: its NAR has %d bytes, not %d", path, view.Size(), base.NarSize), view.Close())
	}
	return view, nil
}

var errNotWanted = errors.New("the store does not want the rest")

// storeError marks what is not the fault of what was sent.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// Path implements [pack.Sink]: it protects a path, checks the form of its NAR, and hands it to the store, which checks its hash.
func (in *intake) Path(ctx context.Context, info storepath.Info, base storepath.Path, archive io.Reader) error {
	if in.unprotected != nil {
		return &storeError{in.unprotected}
	}
	if err := in.session.protectNew(ctx, info.Path); err != nil {
		return &storeError{err}
	}
	if err := in.session.awaitSubstituted(ctx, info.References); err != nil {
		return &storeError{err}
	}
	if _, accepted := in.session.base(base); !accepted {
		base = storepath.Path{}
	}
	in.mu.Lock()
	in.begun[info.Path] = begunPath{info.NarSize, base}
	in.mu.Unlock()
	if whole, ok := archive.(io.ReadSeeker); ok {
		return in.small(info, whole)
	}
	return in.large(info, archive)
}

// small takes a NAR that is in memory.
func (in *intake) small(info storepath.Info, archive io.ReadSeeker) error {
	if err := nar.Parse(archive, &sizes{left: info.NarSize}); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return in.give(info, archive)
}

// large lets a NAR flow through. The daemon checks its hash before it registers the path; but it believes what a NAR says of a file's size, and would make
// room for exabytes.
func (in *intake) large(info storepath.Info, archive io.Reader) error {
	r, w := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := copyGuarded(w, info, archive)
		w.CloseWithError(err)
		checked <- err
	}()
	err := in.give(info, r)
	r.CloseWithError(errNotWanted)
	// What is wrong with the NAR explains what the store says of it.
	if checkErr := <-checked; checkErr != nil && !errors.Is(checkErr, errNotWanted) {
		return checkErr
	}
	return err
}

func (in *intake) give(info storepath.Info, archive io.Reader) error {
	if err := in.store.Import(info, archive); err != nil {
		return &storeError{err}
	}
	return nil
}

// base is the base of a path that was given to the store.
func (in *intake) base(path storepath.Path) storepath.Path {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.begun[path].base
}

// done notes a path that is registered.
func (in *intake) done(path storepath.Path) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.result.Paths++
	in.result.Bytes += in.begun[path].size
	delete(in.begun, path)
	in.registered(path)
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

// explainImport gives an error of an intake its code.
func (s *session) explainImport(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*proto.Error](err); ok {
		return err
	}
	if corrupt, ok := errors.AsType[*closure.CorruptError](err); ok {
		return damaged(corrupt.Path, corrupt)
	}
	if failed, ok := errors.AsType[*storeError](err); ok {
		return s.explainStored(failed.err)
	}
	if failed, ok := errors.AsType[*pack.SpoolError](err); ok {
		return proto.Errorf(proto.CodeNoSpool, "%v", failed)
	}
	if failed, ok := errors.AsType[*pack.PathError](err); ok {
		return damaged(failed.Path, failed.Err)
	}
	if _, ok := errors.AsType[*pack.FormatError](err); ok {
		return proto.Errorf(proto.CodeCorrupt, "%v", err)
	}
	return s.explainStored(err)
}

// explainStored gives an error of who imports its code.
func (s *session) explainStored(err error) error {
	failed, named := errors.AsType[*closure.ImportError](err)
	refused, answered := errors.AsType[*daemon.Error](err)
	switch {
	case named && answered:
		return s.explainStore(failed.Path.String(), refused)
	case answered:
		return s.explainStore("", refused)
	case direct.IsFull(err):
		return fullStore("", err.Error())
	}
	if lacks, ok := errors.AsType[*direct.ReferenceError](err); ok {
		return pathError(proto.CodeNotFound, lacks.Path.String(), "%v", lacks)
	}
	return err
}

// damaged is the error for a NAR that did not arrive as it was announced.
func damaged(path storepath.Path, err error) error {
	if _, ok := errors.AsType[*proto.Error](err); ok || errors.Is(err, proto.ErrLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return pathError(proto.CodeCorrupt, path.String(), "the NAR of %s was damaged on its way: %v", path, err)
}
