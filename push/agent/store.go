package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/closure/warm"
	"fleet/push/proto"
)

// fullBelow is how many free bytes make us take an unexplained failure for a full store.
const fullBelow = 4 << 20

// pathError is an error about one store path.
func pathError(code proto.ErrorCode, path, format string, args ...any) *proto.Error {
	e := proto.Errorf(code, format, args...)
	if data, err := json.Marshal(proto.PathData{Path: path}); err == nil {
		e.Data = data
	}
	return e
}

// missing protects the paths from garbage collection first, so that what is valid now stays so.
func (s *session) missing(ctx context.Context, req proto.MissingRequest) (proto.MissingResult, error) {
	paths, err := parseBases(req.Paths)
	if err != nil {
		return proto.MissingResult{}, err
	}
	known, err := parsePaths(req.Known)
	if err != nil {
		return proto.MissingResult{}, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	conn, err := s.protect(ctx, slices.Concat(known, paths))
	if err != nil {
		return proto.MissingResult{}, err
	}
	absent, err := invalid(ctx, conn, slices.Concat(known, paths))
	if err != nil {
		return proto.MissingResult{}, err
	}
	result := proto.MissingResult{Missing: []int{}}
	for _, path := range known {
		result.Unknown = result.Unknown || absent[path]
	}
	for i, path := range paths {
		if absent[path] {
			result.Missing = append(result.Missing, i)
		}
	}
	if len(result.Missing) == 0 && !result.Unknown {
		return s.rootAll(ctx, req.Roots)
	}
	result.Refused, err = s.acceptBases(ctx, req.Bases)
	return result, err
}

// rootAll ends a push of nothing.
func (s *session) rootAll(ctx context.Context, roots []proto.RootRequest) (proto.MissingResult, error) {
	for _, root := range roots {
		if _, err := s.root(ctx, root); err != nil {
			return proto.MissingResult{}, err
		}
	}
	return proto.MissingResult{Missing: []int{}, Rooted: true}, nil
}

// acceptBases keeps the bases that the host has with the stated contents, and returns the places of the others.
func (s *session) acceptBases(ctx context.Context, lines proto.Lines) (refused []int, err error) {
	if len(lines) == 0 {
		return nil, nil
	}
	bases, sums, err := cutBases(lines)
	if err != nil {
		return nil, err
	}
	infos, err := s.protectedInfos(ctx, bases)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var accepted []storepath.Info
	for i, base := range bases {
		info, valid := infos[base]
		if valid && hex.EncodeToString(info.NarHash[:])[:proto.BaseSumLength] == sums[i] {
			s.bases[base] = info
			accepted = append(accepted, info)
		} else {
			refused = append(refused, i)
		}
	}
	s.readAhead(accepted)
	return refused, nil
}

// maxAheadRuns is how many lists of bases are read ahead at once: those of one push, which names some once it knows what is missing.
const maxAheadRuns = 2

// warmPlace is where a base is among what is read ahead.
type warmPlace struct {
	run  *warm.Run
	item int
}

// readAhead has bases read into memory before units come that are made against them, which is in that order, more or less. The lock is held.
func (s *session) readAhead(bases []storepath.Info) {
	if len(s.ahead) == maxAheadRuns {
		s.ahead[0].Close()
		s.ahead = s.ahead[1:]
	}
	items := make([]warm.Item, len(bases))
	for i, base := range bases {
		file := s.host.file(base.Path)
		items[i] = warm.Item{Size: min(base.NarSize, warm.MaxPath), Warm: func() { nar.Warm(file, warm.MaxPath) }}
	}
	run := warm.Start(s.ctx, items)
	s.ahead = append(s.ahead, run)
	for i, base := range bases {
		s.warmed[base.Path] = warmPlace{run, i}
	}
}

// cutBases parses lines of a base each, without the store's folder, and returns what follows them.
func cutBases(lines proto.Lines) (bases []storepath.Path, rests []string, err error) {
	names := make([]string, len(lines))
	rests = make([]string, len(lines))
	for i, line := range lines {
		names[i], rests[i], _ = strings.Cut(line, " ")
	}
	bases, err = parseBases(names)
	return bases, rests, err
}

// protectedInfos protects paths and returns what the store knows of those that are valid.
func (s *session) protectedInfos(ctx context.Context, paths []storepath.Path) (map[storepath.Path]storepath.Info, error) {
	if _, err := s.protect(ctx, paths); err != nil {
		return nil, err
	}
	return s.infosOf(ctx, paths)
}

const (
	// queryConnections is how many daemons are asked at once, and queryShare the least that each is asked for: a daemon has one thread.
	queryConnections = 4
	queryShare       = 128
)

// infosOf asks for what the store knows of paths, over several connections where that is worth it.
func (s *session) infosOf(ctx context.Context, paths []storepath.Path) (map[storepath.Path]storepath.Info, error) {
	most := min(queryConnections, runtime.NumCPU())
	return daemon.QueryShares(ctx, paths, most, queryShare, func(ctx context.Context, _ int, paths []storepath.Path) (map[storepath.Path]storepath.Info, error) {
		conn, err := s.borrow(ctx)
		if err != nil {
			return nil, err
		}
		defer s.giveBack(conn)
		return conn.QueryPathInfos(ctx, paths)
	})
}

// base is what the host knows of a base that it has accepted.
func (s *session) base(path storepath.Path) (storepath.Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.bases[path]
	return info, ok
}

// reading says that a base is about to be read.
func (s *session) reading(path storepath.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place, warmed := s.warmed[path]; warmed {
		place.run.Reached(place.item)
	}
}

// parseBases parses store paths without the store's folder.
func parseBases(names []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(names))
	for i, name := range names {
		path, err := storepath.ParseBase(name)
		if err != nil {
			return nil, proto.Errorf(proto.CodeUsage, "%v", err)
		}
		paths[i] = path
	}
	return paths, nil
}

// invalid returns those of the paths that are not valid.
func invalid(ctx context.Context, conn *daemon.Conn, paths []storepath.Path) (map[storepath.Path]bool, error) {
	valid, err := conn.QueryValidPaths(ctx, paths, daemon.ValidPathsOptions{})
	if err != nil {
		return nil, err
	}
	absent := make(map[storepath.Path]bool, len(paths))
	for _, path := range paths {
		absent[path] = true
	}
	for _, path := range valid {
		delete(absent, path)
	}
	return absent, nil
}

// closure returns the infos of what roots need, references first.
func (s *session) closure(ctx context.Context, req proto.ClosureRequest) (proto.ClosureResult, error) {
	infos, err := s.closureInfos(ctx, req.Roots)
	result := proto.ClosureResult{Paths: make([]proto.PathInfo, 0, len(infos))}
	for _, info := range infos {
		result.Paths = append(result.Paths, toWire(info))
	}
	return result, err
}

func (s *session) closureInfos(ctx context.Context, texts []string) ([]storepath.Info, error) {
	roots, err := parsePaths(texts)
	if err != nil {
		return nil, proto.Errorf(proto.CodeUsage, "%v", err)
	}
	conn, err := s.protect(ctx, roots)
	if err != nil {
		return nil, err
	}
	infos, err := conn.QueryClosure(ctx, roots)
	if e, ok := errors.AsType[*daemon.InvalidPathError](err); ok {
		return nil, pathError(proto.CodeNotFound, e.Path.String(), "path %s is not valid on the host", e.Path)
	}
	return referencesFirst(infos), err
}

// referencesFirst orders infos so that every path comes after the paths that it refers to.
func referencesFirst(infos []storepath.Info) []storepath.Info {
	slices.SortFunc(infos, func(a, b storepath.Info) int { return a.Path.Compare(b.Path) })
	index := make(map[storepath.Path]int, len(infos))
	for i, info := range infos {
		index[info.Path] = i
	}
	ordered := make([]storepath.Info, 0, len(infos))
	seen := make([]bool, len(infos))
	// The depth of the references is bounded by nothing, so the stack is ours.
	type frame struct{ node, next int }
	for start := range infos {
		stack := []frame{{start, 0}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			info := infos[top.node]
			if top.next == 0 && seen[top.node] {
				stack = stack[:len(stack)-1]
				continue
			}
			seen[top.node] = true
			if top.next == len(info.References) {
				ordered = append(ordered, info)
				stack = stack[:len(stack)-1]
				continue
			}
			ref, known := index[info.References[top.next]]
			top.next++
			if known && !seen[ref] {
				stack = append(stack, frame{ref, 0})
			}
		}
	}
	return ordered
}

// explainStore gives a failure of the daemon a code and a remedy.
func (s *session) explainStore(path string, err error) error {
	refused, ok := errors.AsType[*daemon.Error](err)
	if !ok {
		return err
	}
	reason := refused.Reason()
	free, freeErr := storeFree()
	if reason == daemon.ReasonOther && freeErr == nil && free < fullBelow {
		reason = daemon.ReasonNoSpace
	}
	switch reason {
	case daemon.ReasonNoSpace:
		return fullStore(path, refused.Message)
	case daemon.ReasonUntrusted:
		return s.notTrusted(path)
	case daemon.ReasonCorrupt:
		return pathError(proto.CodeCorrupt, path, "%s", oneLine(refused.Message))
	case daemon.ReasonInvalidPath:
		return pathError(proto.CodeNotFound, path, "add %s: %s", path, oneLine(refused.Message))
	}
	return pathError(proto.CodeInternal, path, "add %s: %s", path, oneLine(refused.Message))
}

// fullStore says that a path does not fit; path is empty where nobody knows which one it was.
func fullStore(path, reason string) *proto.Error {
	what := "import"
	if path != "" {
		what = "add " + path
	}
	free, err := storeFree()
	if err != nil {
		free = 0
	}
	e := pathError(proto.CodeStoreFull, path, "the host's store is full (%d MiB are free): %s: %s", free>>20, what, oneLine(reason))
	e.Remedy = "make room on the host, for example with: nix-collect-garbage --delete-older-than 30d"
	return e
}

// notTrusted says exactly what would make the daemon accept the path.
func (s *session) notTrusted(path string) *proto.Error {
	name := strconv.Itoa(s.host.UID)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	e := pathError(proto.CodeNotTrusted, path, "the host's Nix daemon does not trust %s, and %s has no signature by a key that it trusts", oneLine(name), path)
	e.Remedy = fmt.Sprintf("on the host, set nix.settings.trusted-users = [ %q ] (nix.conf: trusted-users = root %s), "+
		"or add the public half of your signing key to nix.settings.trusted-public-keys and deploy with that key, "+
		"or let the user become root: deploy.elevation", oneLine(name), oneLine(name))
	return e
}

// storeFree returns what is free on the store's file system, in bytes.
func storeFree() (uint64, error) {
	free, _, err := freeIn(storepath.StoreDir)
	return free, err
}

// freeIn is what is free for everybody on a folder's file system, in bytes, and the file system's type.
func freeIn(dir string) (free uint64, kind uint32, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look at %q: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), uint32(st.Type), nil
}
