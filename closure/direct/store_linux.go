package direct

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

const (
	defaultProgram  = "nix-store"
	defaultStateDir = "/nix/var/nix"
	// daemonTimeout bounds what is asked of the daemon. It makes us wait for a root while a collection deletes the path.
	daemonTimeout = 5 * time.Minute
	// registerTimeout bounds a registration, which waits for other writers of the database.
	registerTimeout = 10 * time.Minute
	// signers is how many signatures are on their way to the daemon at once.
	signers = 32
)

// ReferenceError says that a path cannot be imported, because a path that it refers to is not valid.
type ReferenceError struct {
	Path, Reference storepath.Path
}

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("import %q: it refers to %q, which is not valid in the store; import that path first", e.Path, e.Reference)
}

// RegistrationError says that the store knows something else of a path than what was to be registered.
type RegistrationError struct {
	Path storepath.Path
	// Reason is what is wrong.
	Reason string
}

func (e *RegistrationError) Error() string { return fmt.Sprintf("register %q: %s", e.Path, e.Reason) }

// IsFull says whether an error of an import means that the store's file system, or that of its database, is full.
func IsFull(err error) bool {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return true
	}
	if refused, ok := errors.AsType[*daemon.Error](err); ok {
		return refused.Reason() == daemon.ReasonNoSpace
	}
	exit, ok := errors.AsType[*run.ExitError](err)
	return ok && (&daemon.Error{Message: exit.StderrTail}).Reason() == daemon.ReasonNoSpace
}

// store is the machine's store: its folder, its daemon, and its database through nix-store.
type store struct {
	opts   Options
	folder int

	// conn is asked, and holds roots; it must never be asked for the info of an invalid path, whose absence the daemon would remember. adder adds
	// paths that are not for us.
	conn  *daemon.Conn
	mu    sync.Mutex
	adder *daemon.Conn
	// known are valid paths outside of the import.
	known map[storepath.Path]struct{}
}

func (s *store) open(ctx context.Context) error {
	if s.opts.Daemon.Store != "" {
		return &UnavailableError{Reason: fmt.Sprintf("the store is %q, not the machine's own", s.opts.Daemon.Store)}
	}
	fd, err := openFolder(storepath.StoreDir)
	if err != nil {
		return err
	}
	conn, err := daemon.Open(ctx, s.opts.Daemon)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	s.folder, s.conn = fd, conn
	return nil
}

func (s *store) close() error {
	var errs []error
	for _, conn := range []*daemon.Conn{s.conn, s.adder} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	if s.folder >= 0 {
		errs = append(errs, unix.Close(s.folder))
	}
	s.conn, s.adder, s.folder = nil, nil, -1
	return errors.Join(errs...)
}

// ask does something with the daemon whose end ctx does not wait for: a context that ends would close the connection, and take the roots with it.
func ask(ctx context.Context, do func(context.Context) error) error {
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), daemonTimeout)
	result := make(chan error, 1)
	go func() {
		defer cancel()
		result <- do(detached)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prepare protects a path and what it refers to, and makes sure that the latter is valid or part of the import.
func (s *store) prepare(ctx context.Context, t *task) error {
	outside := s.outside(t)
	if !s.opts.Protected {
		roots := append([]storepath.Path{t.info.Path}, outside...)
		if err := ask(ctx, func(ctx context.Context) error { return s.conn.AddTempRoots(ctx, roots) }); err != nil {
			return err
		}
	}
	if len(outside) == 0 {
		return nil
	}
	valid, err := s.valid(ctx, outside)
	if err != nil {
		return err
	}
	for _, ref := range outside {
		if !slices.Contains(valid, ref) {
			return &ReferenceError{Path: t.info.Path, Reference: ref}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range valid {
		s.known[ref] = struct{}{}
	}
	return nil
}

// outside are the references that are not part of the import, and of which nothing is known yet.
func (s *store) outside(t *task) []storepath.Path {
	inside := map[storepath.Path]bool{t.info.Path: true}
	for _, ref := range t.refs {
		inside[ref.info.Path] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var outside []storepath.Path
	for _, ref := range t.info.References {
		if _, known := s.known[ref]; !known && !inside[ref] {
			outside = append(outside, ref)
		}
	}
	return outside
}

func (s *store) valid(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	result := make(chan []storepath.Path, 1)
	err := ask(ctx, func(ctx context.Context) error {
		valid, err := s.conn.QueryValidPaths(ctx, paths, daemon.ValidPathsOptions{})
		result <- valid
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

func (s *store) isValid(ctx context.Context, path storepath.Path) (bool, error) {
	valid, err := s.valid(ctx, []storepath.Path{path})
	return len(valid) > 0, err
}

// addByDaemon adds a path over a connection of its own, which keeps it from being collected.
func (s *store) addByDaemon(ctx context.Context, info closure.PathInfo, nar io.Reader) error {
	s.mu.Lock()
	if s.adder == nil {
		conn, err := daemon.Open(ctx, s.opts.Daemon)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		s.adder = conn
	}
	conn := s.adder
	s.mu.Unlock()
	return conn.AddToStoreNar(ctx, info, nar, daemon.AddOptions{SkipSignatures: true})
}

// registration is what has become of paths that were to be registered.
type registration struct {
	// known says whether the daemon could tell which of them are not valid; doubtful, that something is amiss with those that are.
	known, doubtful bool
	invalid         map[storepath.Path]bool
}

// register registers paths that are in their places and locked.
//
// The locks are given to the process that registers too: should we be killed, it goes on with what it was told, and nobody else may touch the paths
// until it has ended.
func (s *store) register(ctx context.Context, infos []closure.PathInfo, locks []*os.File) (registration, error) {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	loadErr := run.Run(ctx, run.Cmd{
		Argv:       []string{s.opts.Program, "--store", "local", "--load-db"},
		Env:        environment(s.opts.StateDir),
		Stdin:      bytes.NewReader(validity(infos)),
		ExtraFiles: locks,
	})
	if loadErr != nil {
		loadErr = fmt.Errorf("register %d paths, the first of which is %q: %w", len(infos), infos[0].Path, loadErr)
	}
	stored, err := s.conn.QueryPathInfos(ctx, paths(infos))
	if err != nil {
		return registration{doubtful: true}, errors.Join(loadErr, err)
	}
	result := registration{known: true, doubtful: true, invalid: make(map[storepath.Path]bool)}
	for _, info := range infos {
		if _, ok := stored[info.Path]; !ok {
			result.invalid[info.Path] = true
		}
	}
	if loadErr != nil {
		return result, loadErr
	}
	for _, info := range infos {
		if err := compare(info, stored); err != nil {
			return result, err
		}
	}
	err = s.sign(ctx, infos)
	result.doubtful = err != nil
	return result, err
}

// sign adds the signatures, since --load-db knows none.
func (s *store) sign(ctx context.Context, infos []closure.PathInfo) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(signers)
	for _, info := range infos {
		if len(info.Signatures) > 0 {
			group.Go(func() error { return s.conn.AddSignatures(ctx, info.Path, info.Signatures) })
		}
	}
	return group.Wait()
}

func paths(infos []closure.PathInfo) []storepath.Path {
	result := make([]storepath.Path, len(infos))
	for i, info := range infos {
		result[i] = info.Path
	}
	return result
}

// environment is that of nix-store: the caller's, with nothing in it that leads to another store.
func environment(stateDir string) []string {
	env := []string{"NIX_REMOTE="}
	if stateDir != "" {
		env = append(env, "NIX_STATE_DIR="+stateDir)
	}
	return env
}

// validity is the input of `nix-store --load-db` (libstore/store-api.cc, decodeValidPathInfo): for each path its name, hash, size, deriver or nothing, the number of
// its references, and those. References may come later in it.
func validity(infos []closure.PathInfo) []byte {
	var text bytes.Buffer
	for _, info := range infos {
		refs := slices.Clone(info.References)
		storepath.Sort(refs)
		refs = slices.Compact(refs)
		fmt.Fprintf(&text, "%s\n%s\n%d\n%s\n%d\n", info.Path, hex.EncodeToString(info.NarHash[:]), info.NarSize, info.Deriver, len(refs))
		for _, ref := range refs {
			fmt.Fprintln(&text, ref)
		}
	}
	return text.Bytes()
}

// compare compares what the store knows of a path with what was to be registered.
func compare(want closure.PathInfo, stored map[storepath.Path]closure.PathInfo) error {
	got, ok := stored[want.Path]
	refs := slices.Clone(want.References)
	storepath.Sort(refs)
	different := func(what string) error {
		return &RegistrationError{Path: want.Path, Reason: "the store has another " + what + " of it than it was given"}
	}
	switch {
	case !ok:
		return &RegistrationError{Path: want.Path, Reason: "the daemon does not know it; nix-store and the daemon seem to use different databases"}
	case got.NarHash != want.NarHash:
		return different("hash")
	case got.NarSize != want.NarSize:
		return different("size")
	case got.Deriver != want.Deriver:
		return different("deriver")
	case got.CA != "":
		return different("content address")
	case !slices.Equal(got.References, slices.Compact(refs)):
		return different("set of references")
	}
	return nil
}
