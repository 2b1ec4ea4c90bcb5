package closure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/storepath"
)

// LocalOptions are the choices of [NewLocalStore]. The zero value is this machine's store.
type LocalOptions struct {
	Daemon daemon.Options
	// Root is the folder below which /nix/store/… really is. Empty means Daemon.Store where that is a folder, else "/".
	Root string
}

// LocalStore is this machine's store as a [Source]: metadata comes from the Nix daemon, contents from the file system. It
// connects when it is first used, and again when a connection was lost. It is safe for concurrent use.
//
// What it has learned of a path stays in memory, since many hosts share most of their closures.
type LocalStore struct {
	opts LocalOptions

	queries [queryConnections]*connection
	roots   *connection

	mu    sync.Mutex
	known map[storepath.Path]PathInfo
	// asking are the questions under way, by what they ask for: many hosts are deployed to at once, and want to know the same.
	asking map[storepath.Path]*question
	// protected names the connection that holds each root.
	protected map[storepath.Path]*daemon.Conn
}

var _ Source = (*LocalStore)(nil)

const (
	// maxKnown bounds the infos that are kept, each of which takes about 1 KiB.
	maxKnown = 200_000
	// queryConnections is how many daemons are asked at once, and queryShare the least that each is asked for: a daemon has one thread, and looks a path
	// up in some 50 µs.
	queryConnections = 4
	queryShare       = 64
	// protectTimeout bounds adding roots. The daemon makes us wait while a collection deletes one of the paths.
	protectTimeout = 5 * time.Minute
)

// NewLocalStore makes a LocalStore. The caller closes it.
func NewLocalStore(opts LocalOptions) *LocalStore {
	if opts.Root == "" && filepath.IsAbs(opts.Daemon.Store) {
		opts.Root = opts.Daemon.Store
	}
	s := &LocalStore{
		opts:      opts,
		roots:     &connection{opts: opts.Daemon},
		known:     make(map[storepath.Path]PathInfo),
		asking:    make(map[storepath.Path]*question),
		protected: make(map[storepath.Path]*daemon.Conn),
	}
	for i := range s.queries {
		s.queries[i] = &connection{opts: opts.Daemon}
	}
	return s
}

// Closure returns the graph of everything that roots need. The roots' validity is asked of the daemon in any case; an invalid one
// is an [*daemon.InvalidPathError].
func (s *LocalStore) Closure(ctx context.Context, roots ...storepath.Path) (*Graph, error) {
	first := true
	infos, err := daemon.Closure(ctx, roots, func(ctx context.Context, level []storepath.Path) (map[storepath.Path]PathInfo, error) {
		useKnown := !first
		first = false
		return s.infos(ctx, level, useKnown)
	})
	if err != nil {
		return nil, fmt.Errorf("query closure: %w", err)
	}
	return NewGraph(roots, infos)
}

// Valid returns those of paths that are valid in the store, sorted.
func (s *LocalStore) Valid(ctx context.Context, paths ...storepath.Path) (valid []storepath.Path, err error) {
	err = s.queries[0].use(ctx, func(c *daemon.Conn) error {
		valid, err = c.QueryValidPaths(ctx, paths, daemon.ValidPathsOptions{})
		return err
	})
	return valid, err
}

// NAR writes the path's NAR to w, straight from the file system.
func (s *LocalStore) NAR(ctx context.Context, path storepath.Path, w io.Writer) error {
	err := nar.Dump(contextWriter{ctx: ctx, w: w}, filepath.Join("/", s.opts.Root, path.String()))
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	return nil
}

// Files visits the path's files, as [nar.Files] does.
func (s *LocalStore) Files(ctx context.Context, path storepath.Path, visit func(name string, size uint64, contents io.Reader) error) error {
	err := nar.Files(filepath.Join("/", s.opts.Root, path.String()), func(name string, size uint64, contents io.Reader) error {
		return errors.Join(context.Cause(ctx), visit(name, size, contents))
	})
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	return nil
}

// View opens the path's NAR, straight from the file system.
func (s *LocalStore) View(_ context.Context, path storepath.Path) (View, error) {
	return nar.OpenView(filepath.Join("/", s.opts.Root, path.String()))
}

// Warm has the operating system read the path into memory, up to so many bytes of its files; see [nar.Warm].
func (s *LocalStore) Warm(path storepath.Path, limit uint64) {
	nar.Warm(filepath.Join("/", s.opts.Root, path.String()), limit)
}

// Protect keeps paths from being garbage collected until the store is closed, or this process has ended. They need not be valid.
func (s *LocalStore) Protect(ctx context.Context, paths ...storepath.Path) error {
	return s.roots.use(ctx, func(c *daemon.Conn) error {
		add := s.unprotected(c, paths)
		// Roots live as long as their connection, which a caller that gives up must not take from the others.
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), protectTimeout)
		result := make(chan error, 1)
		go func() {
			defer cancel()
			result <- c.AddTempRoots(detached, add)
		}()
		select {
		case err := <-result:
			if err == nil {
				s.markProtected(c, add)
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// unprotected returns what has to be added to c: the paths that are new, and all of them where c is a new connection.
func (s *LocalStore) unprotected(c *daemon.Conn, paths []storepath.Path) []storepath.Path {
	s.mu.Lock()
	defer s.mu.Unlock()
	var add []storepath.Path
	for _, path := range paths {
		if _, ok := s.protected[path]; !ok {
			s.protected[path] = nil
		}
	}
	for path, by := range s.protected {
		if by != c {
			add = append(add, path)
		}
	}
	return add
}

func (s *LocalStore) markProtected(c *daemon.Conn, paths []storepath.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		s.protected[path] = c
	}
}

// Close closes the connections to the daemon.
func (s *LocalStore) Close() error {
	err := s.roots.close()
	for _, c := range s.queries {
		err = errors.Join(err, c.close())
	}
	return err
}

// connection is a connection to the daemon that is made when it is needed.
type connection struct {
	opts daemon.Options

	mu     sync.Mutex
	conn   *daemon.Conn
	closed bool
}

// use calls do with a connection. Where the connection turns out to be closed, because another user's context has ended or the daemon was
// restarted, it tries again with new ones; do must allow that.
func (c *connection) use(ctx context.Context, do func(*daemon.Conn) error) error {
	const attempts = 4
	for attempt := 1; ; attempt++ {
		conn, err := c.get(ctx)
		if err != nil {
			return err
		}
		err = do(conn)
		var closed *daemon.ClosedError
		if !errors.As(err, &closed) || ctx.Err() != nil || attempt == attempts {
			return err
		}
	}
}

func (c *connection) get(ctx context.Context) (*daemon.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the store is closed")
	}
	if c.conn != nil && c.conn.Err() == nil {
		return c.conn, nil
	}
	if c.conn != nil {
		_ = c.conn.Close()
	}
	conn, err := daemon.Open(ctx, c.opts)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	return conn, nil
}

func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// contextWriter makes a long copy end with its context.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(data []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(data)
}
