package push

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/user"
	"slices"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// Store is the operator's store as what receives; [closure.LocalStore] is one.
type Store interface {
	// Protect keeps paths, valid or not, from being garbage collected until the store is closed.
	Protect(ctx context.Context, paths ...storepath.Path) error
	// Valid returns those of paths that are valid.
	Valid(ctx context.Context, paths ...storepath.Path) ([]storepath.Path, error)
}

// Fetch brings the closures of paths from the host into the operator's store, as the connector's Store and Import say. The paths are protected from
// garbage collection there until that store is closed: root what has to stay. It goes on with what is missing after a broken connection.
func (s *Session) Fetch(ctx context.Context, roots []storepath.Path) error {
	if s.c.Store == nil {
		return errors.New("fetch: no store is configured to receive")
	}
	f := &fetching{s: s, roots: roots, progress: newProgress(s, plan.StepBuild), damaged: map[storepath.Path]bool{}}
	for {
		err := s.resume(ctx, f.round)
		corrupt, ok := errors.AsType[*closure.CorruptError](err)
		if !ok {
			return f.explain(err)
		}
		if f.damaged[corrupt.Path] || len(f.damaged) >= maxCorrupt {
			return &CorruptError{Host: s.spec.Target.Host, Path: corrupt.Path, Reason: corrupt.Error()}
		}
		f.damaged[corrupt.Path] = true
		s.warn(plan.StepBuild, fmt.Sprintf("%s arrived damaged, asking for it again", corrupt.Path))
	}
}

// fetching is one Fetch across connections.
type fetching struct {
	s        *Session
	roots    []storepath.Path
	progress *progress
	damaged  map[storepath.Path]bool
}

// round fetches what is left over one connection.
func (f *fetching) round(ctx context.Context, l *link) (progress bool, err error) {
	before, _ := f.progress.counts()
	defer func() { now, _ := f.progress.counts(); progress = now > before }()
	graph, err := f.closure(ctx, l)
	if err != nil {
		return false, err
	}
	rest, err := f.missing(ctx, graph)
	if err != nil || rest.Len() == 0 {
		return false, err
	}
	f.progress.expect(uint64(rest.Len()), rest.Sizes().NAR)
	return false, f.receive(ctx, l, rest)
}

// closure asks what the roots need, and checks that the answer is a whole graph.
func (f *fetching) closure(ctx context.Context, l *link) (*closure.Graph, error) {
	var result proto.ClosureResult
	if err := l.ask(ctx, proto.MethodClosure, proto.ClosureRequest{Roots: pathStrings(f.roots)}, &result); err != nil {
		return nil, err
	}
	infos := make([]closure.PathInfo, 0, len(result.Paths))
	for _, wire := range result.Paths {
		info, err := parseInfo(wire)
		if err != nil {
			return nil, fmt.Errorf("fetch from %q: %w", f.s.spec.Target.Host, err)
		}
		infos = append(infos, info)
	}
	graph, err := closure.NewGraph(f.roots, infos)
	if err != nil {
		return nil, fmt.Errorf("fetch from %q: %w", f.s.spec.Target.Host, err)
	}
	return graph, nil
}

// missing returns the part of the graph that the operator's store lacks, after protecting all of it.
func (f *fetching) missing(ctx context.Context, graph *closure.Graph) (*closure.Graph, error) {
	paths := graph.Paths()
	if err := f.s.c.Store.Protect(ctx, paths...); err != nil {
		return nil, err
	}
	valid, err := f.s.c.Store.Valid(ctx, paths...)
	if err != nil {
		return nil, err
	}
	have := make(map[storepath.Path]bool, len(valid))
	for _, path := range valid {
		have[path] = true
	}
	return graph.Without(func(path storepath.Path) bool { return have[path] }), nil
}

// receive imports what the host sends.
func (f *fetching) receive(ctx context.Context, l *link, rest *closure.Graph) (err error) {
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	stream, err := client.Open(ctx, proto.MethodExport, proto.ExportRequest{Paths: pathStrings(rest.Topological())})
	if err != nil {
		return err
	}
	defer stream.Cancel()
	if err := stream.CloseWrite(); err != nil && !errors.Is(err, proto.ErrEnded) {
		return err
	}
	options := f.s.c.Import
	options.Done = func(path storepath.Path) {
		info, _ := rest.Info(path)
		f.progress.path(info.NarSize)
	}
	importer := closure.NewImporter(ctx, options)
	// What it protects, Store protects too.
	defer func() { err = errors.Join(err, importer.Close()) }()
	if err := f.importAll(stream, importer, rest); err != nil {
		return err
	}
	if err := importer.Wait(); err != nil {
		return err
	}
	f.progress.flush()
	return stream.Result(nil)
}

// importAll reads the stream and checks that it holds what was asked for, each path once and as it was announced.
func (f *fetching) importAll(stream io.Reader, importer *closure.Importer, rest *closure.Graph) error {
	reader, err := proto.NewImportReader(stream)
	if err != nil {
		return err
	}
	defer reader.Close()
	came := make(map[storepath.Path]bool, rest.Len())
	for {
		wire, nar, err := reader.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		info, err := parseInfo(wire)
		if err != nil {
			return fmt.Errorf("fetch from %q: %w", f.s.spec.Target.Host, err)
		}
		want, asked := rest.Info(info.Path)
		switch {
		case !asked || came[info.Path]:
			return fmt.Errorf("fetch from %q: it sends %q, which was not asked for", f.s.spec.Target.Host, info.Path)
		case info.NarHash != want.NarHash || info.NarSize != want.NarSize || !slices.Equal(info.References, want.References):
			return fmt.Errorf("fetch from %q: it sends another %q than it announced", f.s.spec.Target.Host, info.Path)
		}
		came[info.Path] = true
		if err := importer.Import(info, nar); err != nil {
			return err
		}
	}
	if len(came) < rest.Len() {
		return fmt.Errorf("fetch from %q: it left out %d paths", f.s.spec.Target.Host, rest.Len()-len(came))
	}
	return nil
}

// explain makes the refusal of our own Nix into an error that says what to configure.
func (f *fetching) explain(err error) error {
	if refused, ok := errors.AsType[*daemon.Error](err); ok && refused.Reason() == daemon.ReasonUntrusted {
		e := &NotTrustedError{Host: "this machine", Count: 1}
		if me, err := user.Current(); err == nil {
			e.User = me.Username
		}
		if len(f.roots) > 0 {
			e.Path = f.roots[0]
		}
		return e
	}
	return f.s.answer(proto.MethodExport, err)
}

// parseInfo checks what came over the wire.
func parseInfo(wire proto.PathInfo) (closure.PathInfo, error) {
	info := closure.PathInfo{NarSize: wire.NarSize, Signatures: wire.Signatures, CA: wire.CA}
	if err := info.Path.UnmarshalText([]byte(wire.Path)); err != nil || info.Path.IsZero() {
		return info, fmt.Errorf("parse info of %q: it is no store path", oneLine(wire.Path))
	}
	if err := info.Deriver.UnmarshalText([]byte(wire.Deriver)); err != nil {
		return info, fmt.Errorf("parse info of %q: deriver: %w", info.Path, err)
	}
	for _, text := range wire.References {
		ref, err := storepath.Parse(text)
		if err != nil {
			return info, fmt.Errorf("parse info of %q: reference: %w", info.Path, err)
		}
		info.References = append(info.References, ref)
	}
	storepath.Sort(info.References)
	hash, err := hex.DecodeString(wire.NarHash)
	if err != nil || len(hash) != len(info.NarHash) {
		return info, fmt.Errorf("parse info of %q: its NAR hash is no SHA-256", info.Path)
	}
	copy(info.NarHash[:], hash)
	return info, nil
}
