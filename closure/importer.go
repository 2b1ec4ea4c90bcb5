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
	size := int64(min(info.NarSize, uint64(im.opts.Memory)))
	if err := im.memory.Acquire(im.ctx, size); err != nil {
		im.finish(task, info, context.Cause(im.ctx))
		return im.fail(task.err)
	}
	if info.NarSize > uint64(im.opts.Memory)/4 {
		defer im.memory.Release(size)
		im.finish(task, info, im.register(info, before, VerifyReader(info, nar)))
		return im.fail(task.err)
	}
	data := make([]byte, info.NarSize)
	if _, err := io.ReadFull(VerifyReader(info, nar), data); err != nil {
		im.memory.Release(size)
		im.finish(task, info, &ImportError{info.Path, err})
		return im.fail(task.err)
	}
	im.group.Go(func() {
		defer im.memory.Release(size)
		im.finish(task, info, im.register(info, before, bytes.NewReader(data)))
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

// register sends a path to a daemon once all that it refers to is registered.
func (im *Importer) register(info PathInfo, before []*importTask, nar io.Reader) error {
	for _, task := range before {
		select {
		case <-task.done:
		case <-im.ctx.Done():
			return context.Cause(im.ctx)
		}
		if task.err != nil {
			return task.err
		}
	}
	var conn *daemon.Conn
	select {
	case conn = <-im.conns:
	case <-im.ctx.Done():
		return context.Cause(im.ctx)
	}
	defer func() { im.conns <- conn }()
	if conn == nil {
		opened, err := im.opts.Open(im.ctx)
		if err != nil {
			return err
		}
		conn = opened
	}
	info.References = slices.Clone(info.References)
	if err := conn.AddToStoreNar(im.ctx, info, nar, daemon.AddOptions{SkipSignatures: im.opts.SkipSignatures}); err != nil {
		return &ImportError{info.Path, err}
	}
	return nil
}
