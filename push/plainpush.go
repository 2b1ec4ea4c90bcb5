package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/serve"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// Push makes the closures of the request's roots valid on the host, as [Session.Push] does, and goes on with what is missing after a broken connection, or where a program of Nix has
// ended there. The result's notices say what is not as it is with the helper.
func (p *Plain) Push(ctx context.Context, request PushRequest) (PushResult, error) {
	graph, err := p.s.c.Source.Closure(ctx, request.Roots...)
	if err != nil {
		return PushResult{}, err
	}
	if request.Step == "" {
		request.Step = plan.StepPush
	}
	t := &plainTransfer{p: p, request: request, graph: graph, progress: newProgress(p.s, request.Step)}
	err = t.explain(t.repeat(ctx))
	t.progress.flush()
	paths, bytes := t.progress.counts()
	t.notices = append(t.notices, "pushed without the helper, which cannot run there: "+oneLine(p.cause.Error()))
	return PushResult{Paths: paths, NarBytes: bytes, WireBytes: t.progress.wire(), Notices: t.notices}, err
}

// plainTransfer is one push across connections.
type plainTransfer struct {
	p        *Plain
	request  PushRequest
	graph    *closure.Graph
	progress *progress
	notices  []string

	// asked says that what is missing was asked for; missing is how many paths that were when it was asked last, and need their size at first, in bytes.
	asked   bool
	missing int
	need    uint64
	// next is the path that the host works on, as far as is known.
	next storepath.Path
}

// repeat does the push over as many connections as it takes.
func (t *plainTransfer) repeat(ctx context.Context) error {
	fruitless := 0
	for {
		if err := t.p.connected(ctx); err != nil {
			return err
		}
		asked, missing := t.asked, t.missing
		err := t.attempt(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		progress := t.asked && (!asked || t.missing < missing)
		_, ended := errors.AsType[*plainEndedError](err)
		switch {
		case isLost(err):
			_ = t.p.Close() // a half-open connection would not be noticed again
			if fruitless++; progress {
				fruitless = 1
			}
			if fruitless >= maxFruitless {
				return &LostError{Host: t.p.s.spec.Target.Host, Tries: fruitless, Err: err}
			}
			t.p.s.warn(t.request.Step, "connection lost, connecting again: "+oneLine(err.Error()))
		case ended && progress && t.mayMend(err):
			t.p.s.warn(t.request.Step, oneLine(err.Error())+"; going on with what is missing")
		default:
			return err
		}
	}
}

// connected sees to it that there is a connection, by the same rules as a session.
func (p *Plain) connected(ctx context.Context) error {
	if p.conn != nil {
		return nil
	}
	tries, err := p.s.c.Retry.do(ctx, func(ctx context.Context) (err error) {
		p.conn, err = p.s.dial(ctx)
		return err
	}, func(err error) bool { return ctx.Err() == nil && isTransient(err) })
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case err != nil && isTransient(err):
		return &LostError{Host: p.s.spec.Target.Host, Tries: tries, Err: err}
	}
	return err
}

// attempt does what is left of the push with one run of Nix's programs.
func (t *plainTransfer) attempt(ctx context.Context) error {
	if t.p.imports {
		return t.byImport(ctx)
	}
	server, ch, err := t.p.serve(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	watched, cancel := t.watch(ctx)
	defer cancel()
	infos, err := t.ask(ctx, func() ([]storepath.Path, error) {
		paths := t.graph.Paths()
		within := watched
		if t.request.Substitute {
			within = ctx // downloads take their time
		}
		valid, err := server.QueryValidPaths(within, paths, serve.QueryOptions{Lock: true, Substitute: t.request.Substitute})
		return subtract(paths, valid), ch.explain(err)
	})
	if err != nil {
		return err
	}
	nar := func(info closure.PathInfo, w io.Writer) error { return t.nar(watched, info, w) }
	err = server.Add(watched, infos, nar, t.added(infos))
	if source, ours := errors.AsType[*serve.SourceError](err); ours {
		return source.Err
	}
	if err := ch.explain(err); err != nil {
		return err
	}
	// Until the server ends, what was pushed cannot be collected.
	return t.root(ctx)
}

// watch returns a context that ends where nothing has moved for as long as an answer may take.
func (t *plainTransfer) watch(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	limit := t.p.s.c.Timeouts.withDefaults().Answer
	go func() {
		for moved := t.p.s.wire.Load(); ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(limit):
			}
			now := t.p.s.wire.Load()
			if now == moved {
				cancel(t.p.silent())
			}
			moved = now
		}
	}()
	return ctx, func() { cancel(nil) }
}

// ask finds out what is missing, in the order in which it is sent.
func (t *plainTransfer) ask(ctx context.Context, query func() ([]storepath.Path, error)) ([]closure.PathInfo, error) {
	missing, err := query()
	if err != nil {
		return nil, err
	}
	lacks := make(map[storepath.Path]bool, len(missing))
	for _, path := range missing {
		lacks[path] = true
	}
	var infos []closure.PathInfo
	var size uint64
	for _, path := range t.graph.Topological() {
		if !lacks[path] {
			continue
		}
		info, _ := t.graph.Info(path)
		if t.request.Signer != nil {
			// The graph shares its slices with other pushes.
			info.Signatures = append(slices.Clone(info.Signatures), t.request.Signer.Sign(info))
		}
		infos, size = append(infos, info), size+info.NarSize
	}
	if !t.asked {
		t.need = size
	}
	t.asked, t.missing = true, len(infos)
	if len(infos) > 0 {
		t.next = infos[0].Path
	}
	t.progress.expect(uint64(len(infos)), size)
	return infos, context.Cause(ctx)
}

// added counts paths that the host has acknowledged.
func (t *plainTransfer) added(infos []closure.PathInfo) func(closure.PathInfo) {
	done := 0
	return func(info closure.PathInfo) {
		t.progress.path(info.NarSize)
		if done++; done < len(infos) {
			t.next = infos[done].Path
		}
		t.missing--
	}
}

// nar writes a path's NAR, and checks that it is the path's.
func (t *plainTransfer) nar(ctx context.Context, info closure.PathInfo, w io.Writer) error {
	check := closure.NewVerifier()
	if err := t.p.s.c.Source.NAR(ctx, info.Path, io.MultiWriter(check, w, ticking{t.progress})); err != nil {
		return err
	}
	return t.corrupt(check.Check(info))
}

// corrupt makes an error of our own store one that says so.
func (t *plainTransfer) corrupt(err error) error {
	if corrupt, ok := errors.AsType[*closure.CorruptError](err); ok {
		return &CorruptError{Path: corrupt.Path, Reason: corrupt.Error()}
	}
	return err
}

// ticking reports progress as something is written.
type ticking struct{ *progress }

func (t ticking) Write(p []byte) (int, error) {
	t.tick()
	return len(p), nil
}

// byImport pushes to nix-store --import. Its stream carries neither hashes nor signatures, and it says nothing before its end.
func (t *plainTransfer) byImport(ctx context.Context) error {
	infos, err := t.ask(ctx, func() ([]storepath.Path, error) { return t.p.invalid(ctx, t.graph.Paths()) })
	if err != nil {
		return err
	}
	if len(infos) > 0 {
		if err := t.sendExport(ctx, infos); err != nil {
			return err
		}
		added := t.added(infos)
		for _, info := range infos {
			added(info)
		}
	}
	return t.root(ctx)
}

func (t *plainTransfer) sendExport(ctx context.Context, infos []closure.PathInfo) error {
	sent := make(map[storepath.Path]bool, len(infos))
	for _, info := range infos {
		sent[info.Path] = true
	}
	ctx, cancel := t.watch(ctx)
	defer cancel()
	ch, err := t.p.start(ctx, "import")
	if err != nil {
		return err
	}
	defer ch.Close() // its error says nothing that its end did not
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	sink := &sinkWriter{w: io.MultiWriter(ch, ticking{t.progress})}
	err = closure.WriteExport(ctx, sink, t.p.s.c.Source, t.graph.Without(func(path storepath.Path) bool { return !sent[path] }))
	if err != nil && sink.err == nil {
		return t.corrupt(err)
	}
	_ = ch.CloseWrite() // where it takes no more, it says why
	_, _ = io.Copy(io.Discard, ch)
	err = ch.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && sink.err != nil {
		err = &serve.EndedError{}
	}
	return ch.explain(err)
}

// sinkWriter keeps the error of what it writes to.
type sinkWriter struct {
	w   io.Writer
	err error
}

func (s *sinkWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// root protects what was pushed until the next push. Where that is not possible, the push has worked all the same.
func (t *plainTransfer) root(ctx context.Context) error {
	var failed []string
	for _, root := range t.request.roots() {
		if t.p.restricted {
			failed = append(failed, "the login runs no other command than nix-store --serve")
			break
		}
		_, err := t.p.run(ctx, strings.NewReader(""), maxProbe, "root", root.Name, root.Path)
		if err != nil && (ctx.Err() != nil || isLost(err)) {
			return err
		}
		if err != nil {
			failed = append(failed, oneLine(err.Error()))
		}
	}
	if len(failed) > 0 {
		notice := "nothing protects what was pushed from garbage collection there: " + strings.Join(failed, "; ")
		t.notices = append(t.notices, notice)
		t.p.s.warn(t.request.Step, notice)
	}
	return nil
}

// reason is what a program on the host has ended for, as far as it says.
func (t *plainTransfer) reason(err error) daemon.Reason {
	ended, ok := errors.AsType[*plainEndedError](err)
	if !ok {
		return daemon.ReasonOther
	}
	return nixReason(ended.output)
}

// mayMend says whether the rest may go through although a program on the host has ended: it may have been killed, or a path was collected that another one refers to.
func (t *plainTransfer) mayMend(err error) bool {
	reason := t.reason(err)
	return reason != daemon.ReasonUntrusted && reason != daemon.ReasonNoSpace
}

// explain makes what a program on the host said into the type that says what to do.
func (t *plainTransfer) explain(err error) error {
	ended, ok := errors.AsType[*plainEndedError](err)
	if !ok {
		return err
	}
	host := t.p.s.spec.Target.Host
	switch t.reason(err) {
	case daemon.ReasonUntrusted:
		e := &NotTrustedError{Host: host, Path: t.next, Count: t.missing}
		if t.p.conn != nil {
			e.User = t.p.conn.User()
		}
		if t.request.Signer != nil && !t.p.imports {
			e.Key = t.request.Signer.PublicKey().String()
		}
		return e
	case daemon.ReasonNoSpace:
		return &StoreFullError{Host: host, Need: t.need, Reason: ended.output}
	case daemon.ReasonCorrupt:
		return &CorruptError{Host: host, Path: t.next, Reason: ended.output}
	}
	return fmt.Errorf("import %q: %w", t.next, err)
}

// subtract returns those of paths that are not in some of them.
func subtract(paths, some []storepath.Path) []storepath.Path {
	drop := make(map[storepath.Path]bool, len(some))
	for _, path := range some {
		drop[path] = true
	}
	return slices.DeleteFunc(slices.Clone(paths), func(path storepath.Path) bool { return drop[path] })
}
