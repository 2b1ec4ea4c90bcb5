package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"fleet/closure"
	"fleet/closure/buffer"
	"fleet/closure/daemon"
	"fleet/closure/storepath"
)

// Options are the choices of [New]. The zero value imports into this machine's store.
type Options struct {
	// Daemon is the machine's own daemon. Naming another store in it is an error.
	Daemon daemon.Options
	// StateDir is where Nix keeps its database; empty means NIX_STATE_DIR, else /nix/var/nix.
	StateDir string
	// Program is nix-store; empty means nix-store from PATH.
	Program string
	// Workers is how many NARs are extracted at once; zero means as many as there are processors, at least 2 and at most 4.
	Workers int
	// Memory bounds the NARs that are held until they are extracted, in bytes; zero means 64 MiB. A NAR of more than a quarter of it is streamed.
	Memory int64
	// Protected says that the caller holds temporary roots of all paths that will be imported, and of all that they refer to. Else the importer adds them.
	Protected bool
	// LockTimeout is how long another process may hold the lock of a path that we want; zero means 10 minutes.
	LockTimeout time.Duration
	// Base returns a valid path that has much in common with one that is imported, or the zero Path. Where the file system can do it, the new path shares what is
	// equal in files of the same name; what it contains is its NAR in any case. It is called by Import. Nil stands for no such paths.
	Base func(storepath.Path) storepath.Path
	// Done is told of each path once it is registered, in that order, from one goroutine.
	Done func(storepath.Path)
}

const (
	defaultMemory      = 64 << 20
	defaultLockTimeout = 10 * time.Minute
	minWorkers         = 2
	maxWorkers         = 4
	// maxHeld bounds the locks that are held at once, each of which is an open file.
	maxHeld = 512
	// queueLength is how many NARs may wait to be extracted; their memory is bounded too.
	queueLength = 256
	// batchPaths and batchAge are when a registration begins at the latest, since it takes at least 25 ms of one processor: the first is less than maxHeld,
	// so that others go on meanwhile; the second is what is lost, at most, when we are killed, and how long others may wait for a lock.
	batchPaths = 384
	batchAge   = 400 * time.Millisecond
)

var errClosed = errors.New("the import was closed")

// Importer extracts paths into the store and registers them. It is used like a [closure.Importer], and no signature is asked for: only root can use it.
//
// Imported paths are protected from garbage collection until [Importer.Close], by us or, with Options.Protected, by the caller. [Importer.Import] is to be
// called from one goroutine, with each path after those that it refers to.
type Importer struct {
	opts    Options
	ctx     context.Context
	cancel  context.CancelCauseFunc
	memory  *semaphore.Weighted
	buffers buffer.Pool
	held    *semaphore.Weighted
	queue   chan job
	workers sync.WaitGroup
	store   store
	tasks   *tasks
	// cloneRefused is that of all cloners.
	cloneRefused atomic.Bool

	// importing is held by Import and Close. inline extracts the NARs that are streamed; it is nil until the store is open.
	importing sync.Mutex
	inline    *extractor
	closed    bool
	// ended is closed when nothing is registered any more.
	ended chan struct{}
}

// job is a NAR that is in memory.
type job struct {
	task *task
	data []byte
	// memory is what it has of the importer's, in bytes.
	memory int64
}

// New makes an Importer. It opens the store when it is first used. ctx is that of the whole import; the caller calls Close in any case.
func New(ctx context.Context, opts Options) *Importer {
	if opts.Workers <= 0 {
		opts.Workers = min(max(runtime.NumCPU(), minWorkers), maxWorkers)
	}
	if opts.Memory <= 0 {
		opts.Memory = defaultMemory
	}
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = defaultLockTimeout
	}
	if opts.Program == "" {
		opts.Program = defaultProgram
	}
	if opts.Base == nil {
		opts.Base = func(storepath.Path) storepath.Path { return storepath.Path{} }
	}
	if opts.Done == nil {
		opts.Done = func(storepath.Path) {}
	}
	im := &Importer{
		opts:   opts,
		memory: semaphore.NewWeighted(opts.Memory),
		held:   semaphore.NewWeighted(maxHeld),
		queue:  make(chan job, queueLength),
		store:  store{opts: opts, folder: -1, known: make(map[storepath.Path]struct{})},
		ended:  make(chan struct{}),
	}
	im.ctx, im.cancel = context.WithCancelCause(ctx)
	im.tasks = newTasks(im.ctx)
	return im
}

// Import reads exactly info.NarSize bytes of nar and sees to it that the path is registered. It returns when the NAR was read; the
// registration may still be under way then, and its error is that of a later Import or of [Importer.Wait]. After an error nothing more is
// imported, but what is complete is registered. A NAR that is not what info says is a [*closure.CorruptError]. The importer's context does not interrupt
// a Read of nar; whoever cancels it closes nar's source too.
func (im *Importer) Import(info closure.PathInfo, nar io.Reader) error {
	im.importing.Lock()
	defer im.importing.Unlock()
	if im.ctx.Err() != nil {
		return context.Cause(im.ctx)
	}
	if err := im.start(); err != nil {
		return im.fail(err)
	}
	t, err := im.tasks.begin(info, im.opts.Base(info.Path))
	if err != nil {
		return im.fail(err)
	}
	if info.NarSize > uint64(im.opts.Memory)/4 {
		return im.add(im.inline, t, nar)
	}
	return im.enqueue(t, nar)
}

// enqueue reads a NAR and leaves it to the workers.
func (im *Importer) enqueue(t *task, nar io.Reader) error {
	j := job{task: t, memory: min(buffer.Size(t.info.NarSize), im.opts.Memory)}
	if err := im.memory.Acquire(im.ctx, j.memory); err != nil {
		return im.complete(t, failed, context.Cause(im.ctx))
	}
	data := im.buffers.Get(t.info.NarSize)
	n, err := io.ReadFull(nar, data)
	j.data = data[:n]
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		im.free(j)
		return im.complete(t, failed, fmt.Errorf("import %q: %w", t.info.Path, err))
	}
	// Where there is less than announced, the check of the size tells.
	im.queue <- j
	return nil
}

func (im *Importer) free(j job) {
	im.buffers.Put(j.data)
	im.memory.Release(j.memory)
}

// Wait returns when all paths are registered, or the first error.
func (im *Importer) Wait() error {
	im.tasks.wait()
	return context.Cause(im.ctx)
}

// Close ends the import, and with it the protection of what was imported. It waits for what is under way, an Import too; what is complete is registered.
func (im *Importer) Close() error {
	im.cancel(errClosed)
	im.importing.Lock()
	defer im.importing.Unlock()
	if im.closed {
		return nil
	}
	im.closed = true
	close(im.queue)
	im.workers.Wait()
	im.tasks.close()
	if im.inline != nil {
		<-im.ended
	}
	return im.store.close()
}

// start opens the store and starts the goroutines, at the first Import.
func (im *Importer) start() error {
	if im.inline != nil {
		return nil
	}
	if err := im.store.open(im.ctx); err != nil {
		return err
	}
	im.cloneRefused.Store(!canClone(im.store.folder))
	im.inline = im.newExtractor()
	for range im.opts.Workers {
		im.workers.Go(im.work)
	}
	go im.registerAll()
	return nil
}

func (im *Importer) newExtractor() *extractor {
	return newExtractor(im.store.folder, &cloner{store: im.store.folder, refused: &im.cloneRefused})
}

// work extracts the NARs of the queue.
func (im *Importer) work() {
	e := im.newExtractor()
	for job := range im.queue {
		_ = im.add(e, job.task, bytes.NewReader(job.data))
		im.free(job)
	}
}

// fail makes the first error that of the whole import.
func (im *Importer) fail(err error) error {
	if err != nil {
		im.cancel(err)
		return context.Cause(im.ctx)
	}
	return nil
}

// complete says how adding a path has ended; registering it comes later, where there is something to register.
func (im *Importer) complete(t *task, state taskState, err error) error {
	err = im.fail(err)
	im.tasks.complete(t, state)
	return err
}

// add brings one path into the store, or finds it there.
func (im *Importer) add(e *extractor, t *task, nar io.Reader) error {
	state, err := im.tryAdd(e, t, nar)
	return im.complete(t, state, err)
}

func (im *Importer) tryAdd(e *extractor, t *task, nar io.Reader) (taskState, error) {
	if im.ctx.Err() != nil {
		return failed, context.Cause(im.ctx)
	}
	if t.info.CA != "" || t.info.Path.IsDerivation() {
		return im.addByDaemon(t, nar)
	}
	if err := im.store.prepare(im.ctx, t); err != nil {
		return failed, err
	}
	if err := im.claim(t); err != nil {
		return failed, err
	}
	state, err := im.fill(e, t, nar)
	if state != extracted {
		im.release(t)
	}
	return state, err
}

// claim takes the path's lock.
func (im *Importer) claim(t *task) error {
	if !im.held.TryAcquire(1) {
		// Those that are held come back with registrations.
		done := im.tasks.hurry()
		err := im.held.Acquire(im.ctx, 1)
		done()
		if err != nil {
			return context.Cause(im.ctx)
		}
	}
	lock, err := lockPath(im.ctx, im.store.folder, t.info.Path, im.opts.LockTimeout)
	if err != nil {
		im.held.Release(1)
		return err
	}
	t.lock = lock
	return nil
}

func (im *Importer) release(t *task) {
	t.lock.release()
	t.lock = nil
	im.held.Release(1)
}

// fill extracts a path that is locked, unless it is valid by now.
func (im *Importer) fill(e *extractor, t *task, nar io.Reader) (taskState, error) {
	base := t.info.Path.Base()
	found, err := exists(im.store.folder, base)
	if err != nil {
		return failed, &PathError{Path: t.info.Path, Err: err}
	}
	if found {
		isValid, err := im.store.isValid(im.ctx, t.info.Path)
		if err != nil {
			return failed, err
		}
		if isValid {
			_, err := io.Copy(io.Discard, &contextReader{ctx: im.ctx, r: closure.VerifyReader(t.info, nar)})
			return valid, err
		}
		if err := removeTree(im.store.folder, base); err != nil {
			return failed, &PathError{Path: t.info.Path, Err: err}
		}
	}
	if err := e.extract(im.ctx, t.info, t.base, nar); err != nil {
		return failed, err
	}
	return extracted, nil
}

// addByDaemon lets the daemon add a path, once all that it refers to is registered.
func (im *Importer) addByDaemon(t *task, nar io.Reader) (taskState, error) {
	done := im.tasks.hurry()
	defer done()
	for _, ref := range t.refs {
		select {
		case <-ref.over:
		case <-im.ctx.Done():
			return failed, context.Cause(im.ctx)
		}
	}
	if err := im.store.addByDaemon(im.ctx, t.info, closure.VerifyReader(t.info, nar)); err != nil {
		return failed, &closure.ImportError{Path: t.info.Path, Err: err}
	}
	return valid, nil
}

// registerAll registers what is complete, until the import is closed and all tasks are over.
func (im *Importer) registerAll() {
	defer close(im.ended)
	for {
		batch, dropped, more := im.tasks.next()
		if !more {
			return
		}
		im.commit(batch)
		im.drop(dropped)
		im.tasks.forget()
	}
}

// commit registers a batch, and releases its locks.
func (im *Importer) commit(batch []*task) {
	var infos []closure.PathInfo
	var locks []*os.File
	for _, t := range batch {
		if t.lock != nil {
			infos = append(infos, t.info)
			locks = append(locks, t.lock.file)
		}
	}
	result := registration{known: true}
	if len(infos) > 0 {
		var err error
		result, err = im.store.register(context.WithoutCancel(im.ctx), infos, locks)
		_ = im.fail(err)
	}
	for _, t := range batch {
		state := registered
		if t.lock != nil {
			state = im.settle(t, result)
		}
		im.tasks.end(t, state)
		if state == registered && !result.doubtful {
			im.opts.Done(t.info.Path)
		}
	}
}

// settle releases the lock of a path whose registration has ended somehow. Where it is not known how, the path is left as it is, as after a crash.
func (im *Importer) settle(t *task, result registration) taskState {
	defer im.release(t)
	switch {
	case !result.known:
		return failed
	case result.invalid[t.info.Path]:
		_ = removeTree(im.store.folder, t.info.Path.Base())
		return failed
	}
	return registered
}

// drop removes what was extracted and will not be registered, so that a full store has its space back.
func (im *Importer) drop(tasks []*task) {
	for _, t := range tasks {
		if t.lock != nil {
			_ = removeTree(im.store.folder, t.info.Path.Base())
			im.release(t)
		}
		im.tasks.end(t, failed)
	}
}
