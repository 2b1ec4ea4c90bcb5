package closure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
)

// ImportOptions are the choices of [NewImporter]. The zero value imports into this machine's store, with signatures.
type ImportOptions struct {
	Daemon daemon.Options
	// Open, where it is set, makes the connections in place of Daemon, and Release takes those that are not needed any more in place of closing them.
	Open    func(context.Context) (*daemon.Conn, error)
	Release func(*daemon.Conn)
	// SkipSignatures imports without signatures, for users that the daemon trusts.
	SkipSignatures bool
	// Connections is how many daemons work at once; zero means as many as there are processors, at most 4.
	Connections int
	// Memory bounds the NARs that are held until a daemon takes them, in bytes; zero means 64 MiB. A larger NAR is streamed.
	Memory int64
	// Done is told of each path once it is registered. It is called from several goroutines.
	Done func(storepath.Path)
}

// ImportError says which path could not be imported.
type ImportError struct {
	Path storepath.Path
	Err  error
}

func (e *ImportError) Error() string { return fmt.Sprintf("import %q: %v", e.Path, e.Err) }

func (e *ImportError) Unwrap() error { return e.Err }

const (
	defaultImportMemory = 64 << 20
	maxConnections      = 4
)

// Importer registers paths in a store through one or several daemons at once. Each NAR is checked here before a daemon sees its end,
// and by the daemon before it registers the path.
//
// Imported paths are protected from garbage collection until [Importer.Close]. [Importer.Import] is to be
// called from one goroutine, with each path after those that it refers to.
type Importer struct {
	opts   ImportOptions
	ctx    context.Context
	cancel context.CancelCauseFunc
	memory *semaphore.Weighted
	// conns holds the connections that are not in use; nil stands for one that was not made yet.
	conns chan *daemon.Conn
	tasks map[storepath.Path]*importTask
	group sync.WaitGroup
	// turn is held by the path that is being registered: daemons that write to the store's database at once wait for each other for milliseconds.
	turn chan struct{}

	mu sync.Mutex
	// err is the first error.
	err error
}

// importTask is a path whose registration is under way or done.
type importTask struct {
	done chan struct{}
	err  error
}

// NewImporter makes an Importer. It connects when it is first used. ctx is that of the whole import; the
// caller calls Close in any case.
func NewImporter(ctx context.Context, opts ImportOptions) *Importer {
	if opts.Connections <= 0 {
		opts.Connections = min(runtime.NumCPU(), maxConnections)
	}
	if opts.Memory <= 0 {
		opts.Memory = defaultImportMemory
	}
	if opts.Open == nil {
		opts.Open = func(ctx context.Context) (*daemon.Conn, error) { return daemon.Open(ctx, opts.Daemon) }
		opts.Release = nil
	}
	if opts.Done == nil {
		opts.Done = func(storepath.Path) {}
	}
	im := &Importer{
		opts:   opts,
		memory: semaphore.NewWeighted(opts.Memory),
		conns:  make(chan *daemon.Conn, opts.Connections),
		tasks:  make(map[storepath.Path]*importTask),
		turn:   make(chan struct{}, 1),
	}
	im.ctx, im.cancel = context.WithCancelCause(ctx)
	for range opts.Connections {
		im.conns <- nil
	}
	return im
}

// Import reads exactly info.NarSize bytes of nar and sees to it that the path is registered. It returns when the NAR was read; the
// registration may still be under way then, and its error is that of a later Import or of [Importer.Wait]. After an error nothing more is taken; what is under way
// goes on, but for what needs the path that failed.
// A NAR that is not what info says is a [*CorruptError]. The importer's context does not interrupt a Read of nar; whoever cancels it closes nar's source too.
func (im *Importer) Import(info PathInfo, nar io.Reader) error {
	if err := im.failure(); err != nil {
		return err
	}
	if _, twice := im.tasks[info.Path]; twice {
		return im.fail(&ImportError{info.Path, errors.New("the path came before")})
	}
	var before []*importTask
	for _, ref := range info.References {
		if task := im.tasks[ref]; task != nil {
			before = append(before, task)
		}
	}
	task := &importTask{done: make(chan struct{})}
	im.tasks[info.Path] = task
	if info.NarSize > uint64(im.opts.Memory)/4 {
		im.finish(task, info, im.stream(info, before, nar))
		return im.fail(task.err)
	}
	if err := im.memory.Acquire(im.ctx, int64(info.NarSize)); err != nil {
		im.finish(task, info, context.Cause(im.ctx))
		return im.fail(task.err)
	}
	data := make([]byte, info.NarSize)
	n, err := io.ReadFull(nar, data)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		im.memory.Release(int64(info.NarSize))
		im.finish(task, info, &ImportError{info.Path, err})
		return im.fail(task.err)
	}
	im.group.Go(func() {
		defer im.memory.Release(int64(info.NarSize))
		// Where there is less than announced, the check of the size tells.
		im.finish(task, info, im.registerWhole(info, before, data[:n]))
		_ = im.fail(task.err)
	})
	return nil
}

// Wait returns when nothing is under way any more: all paths are registered, or it returns the first error.
func (im *Importer) Wait() error {
	im.group.Wait()
	return im.failure()
}

// Close ends the import, and with it the protection of what was imported. It waits for what is under way.
func (im *Importer) Close() error {
	im.cancel(errors.New("the import was closed"))
	im.group.Wait()
	var errs []error
	for range im.opts.Connections {
		switch conn := <-im.conns; {
		case conn == nil:
		case im.opts.Release != nil:
			im.opts.Release(conn)
		default:
			errs = append(errs, conn.Close())
		}
	}
	// A second Close finds no connections.
	im.opts.Connections = 0
	return errors.Join(errs...)
}

// fail makes the first error that of the whole import.
func (im *Importer) fail(err error) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.err == nil {
		im.err = err
	}
	return im.err
}

// failure is why nothing more is imported.
func (im *Importer) failure() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.err == nil {
		return context.Cause(im.ctx)
	}
	return im.err
}

func (im *Importer) finish(task *importTask, info PathInfo, err error) {
	task.err = err
	if err == nil {
		im.opts.Done(info.Path)
	}
	close(task.done)
}

// stream registers a path while its NAR is read, and stops reading when another path fails.
func (im *Importer) stream(info PathInfo, before []*importTask, nar io.Reader) error {
	if err := im.await(before); err != nil {
		return err
	}
	slot, err := im.acquire()
	if err != nil {
		return err
	}
	defer im.release(slot)
	// A daemon that has died meanwhile would be seen too late: the NAR is read once.
	if slot.conn != nil {
		if _, err := slot.conn.QueryValidPaths(im.ctx, nil, daemon.ValidPathsOptions{}); err != nil {
			slot.drop()
		}
	}
	return im.register(slot, info, VerifyReader(info, failingReader{im, nar}))
}

// failingReader ends with the importer's first error.
type failingReader struct {
	im  *Importer
	nar io.Reader
}

func (r failingReader) Read(p []byte) (int, error) {
	if err := r.im.failure(); err != nil {
		return 0, err
	}
	return r.nar.Read(p)
}

// registerWhole registers a path whose NAR is in memory. Where the daemon dies meanwhile, another one is tried: once, since it may be the path that kills it.
func (im *Importer) registerWhole(info PathInfo, before []*importTask, data []byte) error {
	check := NewVerifier()
	_, _ = check.Write(data)
	if err := check.Check(info); err != nil {
		return &ImportError{info.Path, err}
	}
	if err := im.await(before); err != nil {
		return err
	}
	slot, err := im.acquire()
	if err != nil {
		return err
	}
	defer im.release(slot)
	err = im.register(slot, info, bytes.NewReader(data))
	if err != nil && slot.lost && im.ctx.Err() == nil {
		err = im.register(slot, info, bytes.NewReader(data))
	}
	return err
}

// await waits until paths are registered.
func (im *Importer) await(tasks []*importTask) error {
	for _, task := range tasks {
		select {
		case <-task.done:
		case <-im.ctx.Done():
			return context.Cause(im.ctx)
		}
		if task.err != nil {
			return task.err
		}
	}
	return nil
}

// slot is the right to use a daemon.
type slot struct {
	// conn is nil where there is no connection yet, or none any more; lost says that there was one.
	conn *daemon.Conn
	lost bool
}

func (s *slot) drop() {
	_ = s.conn.Close() // it was lost, and whoever used it knows
	s.conn, s.lost = nil, true
}

// acquire waits for a daemon that is free.
func (im *Importer) acquire() (*slot, error) {
	select {
	case conn := <-im.conns:
		return &slot{conn: conn}, nil
	case <-im.ctx.Done():
		return nil, context.Cause(im.ctx)
	}
}

func (im *Importer) release(s *slot) { im.conns <- s.conn }

// register sends a path to a daemon.
func (im *Importer) register(s *slot, info PathInfo, nar io.Reader) (err error) {
	if s.conn == nil {
		if s.conn, err = im.opts.Open(im.ctx); err != nil {
			return err
		}
	}
	s.lost = false
	info.References = slices.Clone(info.References)
	ours := false
	err = s.conn.AddToStoreNar(im.ctx, info, nar, daemon.AddOptions{SkipSignatures: im.opts.SkipSignatures, BeforeEnd: func() error {
		select {
		case im.turn <- struct{}{}:
			ours = true
			return nil
		case <-im.ctx.Done():
			return context.Cause(im.ctx)
		}
	}})
	if ours {
		<-im.turn
	}
	if s.conn.Err() != nil {
		s.drop()
	}
	if err != nil {
		return &ImportError{info.Path, err}
	}
	return nil
}
