package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/closure/warm"
	"fleet/push/guard"
	"fleet/push/proto"
)

// session is what all clients of one agent share.
type session struct {
	host    *Host
	dir     string
	methods map[string]method
	// owner is the login user.
	owner int
	// born is when the agent's process began.
	born guard.Boottime
	// ending tells the listener that the session is over when its last client leaves.
	ending func()
	// ctx is that of what outlives its client's connection, stop ends it, and work is what is under way. close is the end of all three.
	ctx  context.Context
	stop context.CancelCauseFunc
	work sync.WaitGroup
	// patience is how long a transfer waits for a unit that nobody can bring.
	patience time.Duration

	// direct says whether paths may be imported without the daemon, where directKnown says that this was looked at. Looking takes a while.
	looking             sync.Mutex
	direct, directKnown bool

	// doors are the listeners of offers, by the port that was asked for.
	doorsMu sync.Mutex
	doors   map[int]*door

	mu sync.Mutex
	// idle are connections to the daemon that nobody uses. None is closed before the session ends, since what was added over it is
	// protected from garbage collection for only as long.
	idle []*daemon.Conn
	// roots holds temporary roots for the whole session, and rooted is what it holds, for the case that the daemon is restarted.
	roots  *daemon.Conn
	rooted map[storepath.Path]struct{}
	// bases are the paths that deltas may be made against. ahead reads those that were accepted lately, and warmed are their places there.
	bases  map[storepath.Path]storepath.Info
	ahead  []*warm.Run
	warmed map[storepath.Path]warmPlace
	builds int
	// transfer is the one that was opened last.
	transfer *transfer
	// substitution is the one that was begun last.
	substitution *substitution
}

type method func(ctx context.Context, req *proto.Request) (any, error)

// newSession makes a session of the login user owner, whose own files lie in dir.
func newSession(host *Host, dir string, owner int) *session {
	s := &session{
		host: host, dir: dir, owner: owner, rooted: make(map[storepath.Path]struct{}), bases: make(map[storepath.Path]storepath.Info),
		warmed: make(map[storepath.Path]warmPlace),
		ending: func() {}, patience: unitPatience,
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	if self, err := processOf(os.Getpid()); err == nil {
		s.born = self.started
	}
	s.methods = map[string]method{
		proto.MethodInfo:         func(ctx context.Context, _ *proto.Request) (any, error) { return s.info(ctx) },
		proto.MethodMissing:      with(s.missing),
		proto.MethodSubstitute:   with(s.substitute),
		proto.MethodSubstituted:  with(s.substituted),
		proto.MethodImport:       withBoth(s.importUnits),
		proto.MethodHoldings:     with(s.holdings),
		proto.MethodSignatures:   withStream(s.signatures),
		proto.MethodExport:       withStream(s.export),
		proto.MethodOffer:        withBoth(s.offer),
		proto.MethodTake:         func(ctx context.Context, req *proto.Request) (any, error) { return s.take(ctx, req.Stream) },
		proto.MethodClosure:      with(s.closure),
		proto.MethodRoot:         with(s.root),
		proto.MethodBuild:        withStream(s.build),
		proto.MethodBegin:        with(s.begin),
		proto.MethodAttach:       withStream(s.follow),
		proto.MethodConfirm:      withTxn(s.confirm),
		proto.MethodAbort:        with(s.abort),
		proto.MethodNonce:        with(s.nonce),
		proto.MethodCheck:        with(s.check),
		proto.MethodTransactions: func(context.Context, *proto.Request) (any, error) { return s.listTransactions() },
		proto.MethodGenerations:  func(context.Context, *proto.Request) (any, error) { return s.listGenerations() },
		proto.MethodStatus: withTxn(func(_ context.Context, txn string) (proto.TxnStatus, error) {
			return s.transaction(txn)
		}),
		proto.MethodSecretsRun:       withStream(s.secretsRun),
		proto.MethodSecretsRewrap:    with(s.secretsRewrap),
		proto.MethodSecretsOpen:      with(s.secretsOpen),
		proto.MethodSecretsVerify:    with(s.secretsVerify),
		proto.MethodSecretsPreflight: with(s.secretsPreflight),
		proto.MethodEnd:              func(context.Context, *proto.Request) (any, error) { s.ending(); return nil, nil },
	}
	return s
}

// with makes a method of a function with parameters and a result.
func with[P, R any](f func(context.Context, P) (R, error)) method {
	return func(ctx context.Context, req *proto.Request) (any, error) {
		var params P
		if err := req.Decode(&params); err != nil {
			return nil, err
		}
		return f(ctx, params)
	}
}

// withStream makes a method of a function that also sends data.
func withStream[P, R any](f func(context.Context, P, io.Writer) (R, error)) method {
	return withBoth(func(ctx context.Context, params P, stream *proto.Stream) (R, error) { return f(ctx, params, stream) })
}

// withBoth makes a method of a function that sends and takes data.
func withBoth[P, R any](f func(context.Context, P, *proto.Stream) (R, error)) method {
	return func(ctx context.Context, req *proto.Request) (any, error) {
		var params P
		if err := req.Decode(&params); err != nil {
			return nil, err
		}
		return f(ctx, params, req.Stream)
	}
}

func withTxn(f func(context.Context, string) (proto.TxnStatus, error)) method {
	return with(func(ctx context.Context, req proto.TxnRequest) (proto.TxnStatus, error) { return f(ctx, req.Txn) })
}

// Handle answers one request.
func (s *session) Handle(ctx context.Context, req *proto.Request) (any, error) {
	m, ok := s.methods[req.Method]
	if !ok {
		return nil, proto.Errorf(proto.CodeUsage, "unknown method %.60q", req.Method)
	}
	result, err := m(ctx, req)
	return result, withRemedy(err)
}

// withRemedy carries a hint of an error below us over the wire.
func withRemedy(err error) error {
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if _, known := errors.AsType[*proto.Error](err); known || !ok || hint.Hint() == "" {
		return err
	}
	return &proto.Error{Code: proto.CodeInternal, Message: err.Error(), Remedy: hint.Hint()}
}

var errSessionOver = proto.Errorf(proto.CodeCancelled, "the session is over")

// close ends what is under way, and gives the protection of paths up.
func (s *session) close() {
	s.stop(errSessionOver) // before the lock, which may be held by who waits for a daemon
	s.awaitOthers()
	s.work.Wait()
	s.disconnect()
}

// awaitOthers returns when nobody holds the lock who has begun before it was called: whoever comes after the session's end adds no work.
func (s *session) awaitOthers() {
	s.mu.Lock()
	defer s.mu.Unlock()
}

// disconnect closes the connections to the daemon that nobody uses.
func (s *session) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range s.ahead {
		run.Close()
	}
	for _, conn := range s.idle {
		_ = conn.Close() // nothing is under way
	}
	s.idle = nil
	if s.roots != nil {
		_ = s.roots.Close()
	}
	s.roots = nil
}

// borrow returns a connection to the daemon, to be given back with giveBack.
func (s *session) borrow(ctx context.Context) (*daemon.Conn, error) {
	for {
		conn := s.takeIdle()
		if conn == nil {
			return s.host.OpenStore(ctx)
		}
		// That a daemon has died is seen only by whoever asks it something.
		if _, err := conn.QueryValidPaths(ctx, nil, daemon.ValidPathsOptions{}); err == nil {
			return conn, nil
		}
		_ = conn.Close() // it was lost while idle
	}
}

// takeIdle returns a connection that nobody uses, nil where there is none.
func (s *session) takeIdle() *daemon.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) == 0 {
		return nil
	}
	conn := s.idle[len(s.idle)-1]
	s.idle = s.idle[:len(s.idle)-1]
	return conn
}

func (s *session) giveBack(conn *daemon.Conn) {
	if conn.Err() != nil {
		_ = conn.Close() // whoever used it has its error
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, conn)
}

// protect adds temporary roots that last as long as the session. Where the connection that holds them was lost, another one holds all of them anew.
func (s *session) protect(ctx context.Context, paths []storepath.Path) (*daemon.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		s.rooted[path] = struct{}{}
	}
	if s.roots != nil {
		err := s.addRoots(ctx, paths)
		if err == nil || s.roots.Err() == nil || ctx.Err() != nil {
			return s.roots, err
		}
		_ = s.roots.Close() // it was lost
	}
	conn, err := s.host.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]storepath.Path, 0, len(s.rooted))
	for path := range s.rooted {
		all = append(all, path)
	}
	s.roots = conn
	return conn, conn.AddTempRoots(ctx, all)
}

// addRoots adds temporary roots over the connection that holds the others. That this was lost is seen only by who asks it something, so it is asked in any case.
func (s *session) addRoots(ctx context.Context, paths []storepath.Path) error {
	if len(paths) > 0 {
		return s.roots.AddTempRoots(ctx, paths)
	}
	_, err := s.roots.QueryValidPaths(ctx, nil, daemon.ValidPathsOptions{})
	return err
}

// protectNew protects a path unless the session does so already.
func (s *session) protectNew(ctx context.Context, path storepath.Path) error {
	s.mu.Lock()
	_, known := s.rooted[path]
	known = known && s.roots != nil && s.roots.Err() == nil
	s.mu.Unlock()
	if known {
		return nil
	}
	_, err := s.protect(ctx, []storepath.Path{path})
	return err
}

// valid says whether a path is valid, after protecting it.
func (s *session) valid(ctx context.Context, path storepath.Path) (bool, error) {
	conn, err := s.protect(ctx, []storepath.Path{path})
	if err != nil {
		return false, err
	}
	valid, err := conn.QueryValidPaths(ctx, []storepath.Path{path}, daemon.ValidPathsOptions{})
	return len(valid) == 1, err
}
