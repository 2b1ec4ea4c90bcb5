package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/secretsgen/public"
)

// Leaks looks for private keys in what systems add to the stores of hosts, where every user of a host can read them. What comes from
// NixOS' own binary cache is left out: it is nobody's configuration, and has keys of tests in it; so is what a host has already, which was looked into when
// it came. It is safe for concurrent use; every store path is looked into once, for the first host that gets it.
type Leaks struct {
	// Source is this machine's store.
	Source LeakSource

	mu   sync.Mutex
	seen map[storepath.Path]bool
}

// LeakSource is where systems are looked into; [closure.LocalStore] is one, and documents the methods.
type LeakSource interface {
	Closure(ctx context.Context, roots ...storepath.Path) (*closure.Graph, error)
	Files(ctx context.Context, path storepath.Path, visit func(name string, size uint64, contents io.Reader) error) error
}

// Leak is a private key in a store.
type Leak struct {
	// File is in the store, Kind is what it holds, such as "a private key in PEM".
	File, Kind string
}

// The bounds of what is looked into, in bytes: configuration is small, and so are keys. Copies of folders, as of a whole flake, may be large.
const (
	maxLeakPath = 16 << 20
	maxLeakFile = 1 << 20
	// ownCache begins the signatures of what NixOS' own binary cache serves.
	ownCache = "cache.nixos.org-"
)

// Find looks into the closure of root, but for the closures of those in there, which the host has. A root that is not in this machine's store, as where a host
// builds for itself, is not looked into.
func (l *Leaks) Find(ctx context.Context, root storepath.Path, there ...storepath.Path) ([]Leak, error) {
	graph, err := l.closure(ctx, root)
	if err != nil || graph == nil {
		return nil, err
	}
	known := map[storepath.Path]bool{}
	for _, toplevel := range there {
		old, err := l.closure(ctx, toplevel)
		if err != nil {
			return nil, err
		}
		if old != nil {
			for _, path := range old.Paths() {
				known[path] = true
			}
		}
	}
	var leaks []Leak
	for _, path := range graph.Paths() {
		info, _ := graph.Info(path)
		if known[path] || !isConfiguration(info) || !l.claim(path) {
			continue
		}
		found, err := l.look(ctx, path)
		if err != nil {
			return leaks, fmt.Errorf("look for private keys in %q: %w", path, err)
		}
		leaks = append(leaks, found...)
	}
	return leaks, nil
}

// closure is the graph of what a path needs, nil where it is not in this machine's store.
func (l *Leaks) closure(ctx context.Context, root storepath.Path) (*closure.Graph, error) {
	graph, err := l.Source.Closure(ctx, root)
	var invalid *daemon.InvalidPathError
	switch {
	case errors.As(err, &invalid):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for private keys in %q: %w", root, err)
	}
	return graph, nil
}

// isConfiguration says whether a path may be somebody's configuration.
func isConfiguration(info closure.PathInfo) bool {
	for _, signature := range info.Signatures {
		if strings.HasPrefix(signature, ownCache) {
			return false
		}
	}
	return info.NarSize <= maxLeakPath || info.CA != ""
}

// claim says whether nobody has looked into a path yet.
func (l *Leaks) claim(path storepath.Path) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[storepath.Path]bool{}
	}
	first := !l.seen[path]
	l.seen[path] = true
	return first
}

// look reads one path.
func (l *Leaks) look(ctx context.Context, root storepath.Path) ([]Leak, error) {
	var leaks []Leak
	var data []byte
	defer func() { clear(data) }()
	err := l.Source.Files(ctx, root, func(name string, size uint64, contents io.Reader) error {
		if size > maxLeakFile {
			return nil
		}
		data = slices.Grow(data[:0], int(size))[:size]
		if _, err := io.ReadFull(contents, data); err != nil {
			return err
		}
		if kind := public.WholePrivateKey(data); kind != "" {
			leaks = append(leaks, Leak{File: path.Join(root.String(), name), Kind: kind})
		}
		return nil
	})
	return leaks, err
}

// lookForLeaks begins to look for private keys that the host's system would have every user of the host read. What it returns waits for that to end, and warns of
// what was found. It stops nothing: a key may be one for a test.
func (h *hostRun) lookForLeaks() (warn func()) {
	if h.Leaks == nil {
		return func() {}
	}
	var leaks []Leak
	var err error
	done := make(chan struct{})
	there := push.Toplevels(h.info.Current, h.info.Profile, h.info.Booted)
	go func() {
		defer close(done)
		leaks, err = h.Leaks.Find(h.work, h.toplevel, there...)
	}()
	return func() {
		<-done
		h.warnOfLeaks(leaks, err)
	}
}

func (h *hostRun) warnOfLeaks(leaks []Leak, err error) {
	if err != nil && h.work.Err() == nil {
		h.emit(plan.Event{Kind: plan.EventWarning, Message: err.Error()})
	}
	for _, leak := range leaks {
		h.emit(plan.Event{
			Kind: plan.EventWarning, Message: fmt.Sprintf("%s holds %s: it is in the system, and every user of the host can read the store", leak.File, leak.Kind),
			Hint: "declare it as a secret, and use its path or a template; then make another key, since this one stays where it was",
		})
	}
}
