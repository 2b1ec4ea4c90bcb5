package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/delta"
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
	// exportLevel is zstd's level for what goes back to the operator.
	exportLevel = 3
	// flushEvery is how many bytes of NAR are exported between two flushes.
	flushEvery = 1 << 20
	// wholeNAR is how large a NAR may be that is in memory as a whole, and checked, before the daemon hears of it, in bytes.
	wholeNAR = 4 << 20
)

// importPaths reads paths in the import format, lets daemons register them, references first, and acknowledges each one once it
// is registered. Paths that were acknowledged stay when a later one fails.
func (s *session) importPaths(ctx context.Context, req proto.ImportRequest, stream io.ReadWriter) (proto.ImportResult, error) {
	reader, err := proto.NewImportReader(stream)
	if err != nil {
		return proto.ImportResult{}, err
	}
	defer reader.Close()
	decoder, err := delta.NewDecoder(delta.Limits{})
	if err != nil {
		return proto.ImportResult{}, err
	}
	im := &importer{session: s, acks: json.NewEncoder(stream), decoder: decoder, begun: map[storepath.Path]uint64{}}
	im.store = s.openImport(ctx, req, im.registered)
	err = im.receive(ctx, reader)
	// What has arrived stays, whatever came after it.
	if waitErr := im.store.Wait(); err == nil {
		err = waitErr
	}
	closeErr := im.store.Close()
	err = errors.Join(im.explain(err), im.ackErr, closeErr)
	if proto.CodeOf(err) == proto.CodeStoreFull {
		s.clearUnfinished(ctx, slices.Collect(maps.Keys(im.begun)))
	}
	return im.result, err
}

// pathImporter takes paths, references first: [closure.Importer] or [direct.Importer].
type pathImporter interface {
	Import(info storepath.Info, nar io.Reader) error
	Wait() error
	Close() error
}

// openImport chooses who imports. Without the daemon it is faster by as much as is imported, and begins later. The session protects the paths in any case.
func (s *session) openImport(ctx context.Context, req proto.ImportRequest, done func(storepath.Path)) pathImporter {
	if req.Bytes >= directBytes && s.host.StoreRoot == "" && s.mayImportDirectly(ctx) {
		return direct.New(ctx, direct.Options{Memory: importMemory, Protected: true, Done: done})
	}
	return closure.NewImporter(ctx, closure.ImportOptions{
		Open: s.borrow, Release: s.giveBack, SkipSignatures: true, Connections: importConnections, Memory: importMemory, Done: done,
	})
}

// mayImportDirectly looks once whether the host allows it.
func (s *session) mayImportDirectly(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.directKnown {
		s.direct, s.directKnown = direct.Possible(ctx, direct.Options{}) == nil, ctx.Err() == nil
	}
	return s.direct
}

// importer is one import.
type importer struct {
	session *session
	store   pathImporter
	decoder *delta.Decoder

	mu   sync.Mutex
	acks *json.Encoder
	// begun are the sizes of the paths that were given to the daemons and are not registered yet.
	begun  map[storepath.Path]uint64
	result proto.ImportResult
	ackErr error
}

// receive reads paths to the stream's end and gives them to the daemons.
func (im *importer) receive(ctx context.Context, reader *proto.ImportReader) error {
	for {
		entry, body, err := reader.Next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return proto.Errorf(proto.CodeCorrupt, "the stream of paths was cut: %v", err)
		case err != nil:
			return streamError(err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		info, err := fromWire(entry.PathInfo)
		if err != nil {
			return proto.Errorf(proto.CodeCorrupt, "metadata of %.200q: %v", entry.Path, err)
		}
		if err := im.session.protectNew(ctx, info.Path); err != nil {
			return err
		}
		im.mu.Lock()
		im.begun[info.Path] = info.NarSize
		im.mu.Unlock()
		if err := im.add(info, entry, body); err != nil {
			return err
		}
	}
}

// streamError is the code of what could not be read: the stream's own error, or contents that are not in the format.
func streamError(err error) error {
	if _, ok := errors.AsType[*proto.Error](err); ok || errors.Is(err, proto.ErrLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return proto.Errorf(proto.CodeCorrupt, "%v", err)
}

// add gives a path to the daemons, which have not yet registered it then.
func (im *importer) add(info storepath.Info, entry proto.ImportEntry, body io.Reader) error {
	produce := func(w io.Writer) error { _, err := io.Copy(w, body); return err }
	if entry.Base != "" {
		base, err := im.open(info, entry)
		if err != nil {
			return damaged(info, err)
		}
		defer base.Close()
		produce = func(w io.Writer) error { return im.decode(w, info, base, body) }
	}
	if info.NarSize > wholeNAR {
		return im.addLarge(info, produce)
	}
	whole := bytes.NewBuffer(make([]byte, 0, info.NarSize))
	if err := produce(whole); err != nil {
		return damaged(info, err)
	}
	return im.store.Import(info, whole)
}

// addLarge lets the NAR flow through. The daemon checks its hash before it registers the path; but it believes what a NAR says of a file's size, and would make
// room for exabytes.
func (im *importer) addLarge(info storepath.Info, produce func(io.Writer) error) error {
	raw, rawWriter := io.Pipe()
	checked, checkedWriter := io.Pipe()
	var stages sync.WaitGroup
	var produceErr, checkErr error
	stages.Go(func() {
		produceErr = produce(rawWriter)
		rawWriter.CloseWithError(produceErr)
	})
	stages.Go(func() {
		checkErr = copyGuarded(checkedWriter, info, raw)
		raw.CloseWithError(errNotWanted) // nothing more is read of a NAR that is none
		checkedWriter.CloseWithError(checkErr)
	})
	err := im.store.Import(info, checked)
	checked.CloseWithError(errNotWanted)
	stages.Wait()
	// What has gone wrong first explains the rest.
	for _, first := range []error{produceErr, checkErr} {
		if first != nil && !errors.Is(first, errNotWanted) {
			return damaged(info, first)
		}
	}
	return err
}

var errNotWanted = errors.New("the daemon does not want the rest")

// basis is what a path is made from.
type basis struct {
	*nar.View
	refs  *delta.Refs
	entry proto.ImportEntry
}

// open opens what a path's delta was made against: one of the paths that the host has said it has.
func (im *importer) open(info storepath.Info, entry proto.ImportEntry) (*basis, error) {
	path, err := storepath.Parse(entry.Base)
	if err != nil {
		return nil, err
	}
	base, accepted := im.session.base(path)
	if !accepted {
		return nil, fmt.Errorf("its delta is made against %s, which was not agreed on", path)
	}
	refs, err := delta.NewRefs(proto.ReferenceMap(path.Hash(), info.Path.Hash(), entry.Was, hashes(info.References)))
	if err != nil {
		return nil, err
	}
	view, err := nar.OpenView(filepath.Join("/", im.session.host.StoreRoot, path.String()))
	if err != nil {
		return nil, err
	}
	if uint64(view.Size()) != base.NarSize {
		return nil, errors.Join(fmt.Errorf("the host's %s has changed: its NAR has %d bytes, not %d", path, view.Size(), base.NarSize), view.Close())
	}
	return &basis{view, refs, entry}, nil
}

func hashes(paths []storepath.Path) []string {
	texts := make([]string, len(paths))
	for i, path := range paths {
		texts[i] = path.Hash()
	}
	return texts
}

// decode writes the NAR that the delta makes of the base.
func (im *importer) decode(w io.Writer, info storepath.Info, base *basis, body io.Reader) error {
	return im.decoder.Decode(w, delta.Patch{Base: base, Refs: base.refs, Delta: body, Size: int64(info.NarSize)})
}

// damaged is the error for a NAR that did not arrive as it was announced.
func damaged(info storepath.Info, err error) error {
	if _, ok := errors.AsType[*proto.Error](err); ok || errors.Is(err, proto.ErrLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return pathError(proto.CodeCorrupt, info.Path.String(), "the NAR of %s was damaged on its way: %v", info.Path, err)
}

// explain gives an importer's error its code.
func (im *importer) explain(err error) error {
	if corrupt, ok := errors.AsType[*closure.CorruptError](err); ok {
		return damaged(storepath.Info{Path: corrupt.Path}, corrupt)
	}
	if lacks, ok := errors.AsType[*direct.ReferenceError](err); ok {
		return pathError(proto.CodeNotFound, lacks.Path.String(), "%v", lacks)
	}
	failed, ok := errors.AsType[*closure.ImportError](err)
	if !ok && err != nil && direct.IsFull(err) {
		return fullStore("", err.Error())
	}
	if !ok {
		return err
	}
	if _, ours := errors.AsType[*proto.Error](err); ours {
		return err
	}
	if refused, ok := errors.AsType[*daemon.Error](err); ok {
		return im.session.explainStore(failed.Path.String(), refused)
	}
	if closed, ok := errors.AsType[*daemon.ClosedError](err); ok {
		return closed
	}
	return damaged(storepath.Info{Path: failed.Path}, failed.Err)
}

// copyGuarded copies a NAR and ends in an error where it is none, or has another size than the announced one.
func copyGuarded(w io.Writer, info storepath.Info, body io.Reader) error {
	guard := sizeGuard{Writer: nar.NewWriter(w), limit: info.NarSize}
	if err := nar.Parse(body, guard); err != nil {
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

// registered tells the client of a path that is registered.
func (im *importer) registered(path storepath.Path) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.result.Paths++
	im.result.Bytes += im.begun[path]
	delete(im.begun, path)
	if err := im.acks.Encode(proto.ImportAck{Path: path.String()}); err != nil && im.ackErr == nil {
		im.ackErr = err
	}
}

// export sends paths in the import format, references first, whatever their order in the request.
func (s *session) export(ctx context.Context, req proto.ExportRequest, w io.Writer) (result proto.ImportResult, err error) {
	infos, err := s.pathInfos(ctx, req.Paths)
	if err != nil {
		return result, err
	}
	conn, err := s.borrow(ctx)
	if err != nil {
		return result, err
	}
	defer s.giveBack(conn)
	writer, err := proto.NewImportWriter(w, exportLevel)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	var unflushed uint64
	for _, info := range infos {
		nar, err := writer.Begin(toWire(info))
		if err != nil {
			return result, err
		}
		if err := conn.NarFromPath(ctx, info.Path, nar); err != nil {
			return result, fmt.Errorf("read %s: %w", info.Path, err)
		}
		if unflushed += info.NarSize; unflushed >= flushEvery {
			if err := writer.Flush(); err != nil {
				return result, err
			}
			unflushed = 0
		}
		result.Paths++
		result.Bytes += info.NarSize
	}
	return result, nil
}

// pathInfos returns the infos of paths that must all be valid.
func (s *session) pathInfos(ctx context.Context, texts []string) ([]storepath.Info, error) {
	paths, err := parsePaths(texts)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	conn, err := s.protect(ctx, paths)
	if err != nil {
		return nil, err
	}
	byPath, err := conn.QueryPathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	infos := make([]storepath.Info, 0, len(byPath))
	for _, path := range paths {
		info, ok := byPath[path]
		if !ok {
			return nil, pathError(proto.CodeNotFound, path.String(), "path %s is not valid on the host", path)
		}
		infos = append(infos, info)
		delete(byPath, path)
	}
	return referencesFirst(infos), nil
}
