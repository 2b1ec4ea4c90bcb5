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

// openIntake makes an intake. The end of ctx ends the taking of units; what is complete is registered nevertheless, until the session ends.
func (s *session) openIntake(ctx context.Context, req proto.ImportRequest, registered func(storepath.Path)) *intake {
	in := &intake{session: s, registered: registered, begun: make(map[storepath.Path]begunPath)}
	// What was protected may not be any more: another push may have given a full store its space back, or a daemon may have died.
	_, in.unprotected = s.protect(ctx, nil)
	in.store = s.openImport(s.ctx, req, in)
	in.unpacker = pack.NewUnpacker(ctx, hostViews{s}, in, func() (pack.Spool, error) { return openSpool(s.host.Temp) })
	return in
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

// Path implements [pack.Sink]: it protects a path, and hands it to the store, which checks its NAR.
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
	return in.store.Import(info, archive)
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
	if format, ok := errors.AsType[*nar.FormatError](err); ok {
		if failed, ok := errors.AsType[*direct.PathError](err); ok {
			return damaged(failed.Path, format)
		}
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
