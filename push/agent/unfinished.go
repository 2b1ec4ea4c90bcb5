package agent

import (
	"context"
	"errors"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
)

const (
	// clearTries and clearPause bound the wait for daemon processes to end: until then their temporary roots protect what we delete.
	clearTries = 40
	clearPause = 50 * time.Millisecond
)

// clearUnfinished removes what paths that did not fit have left in the store. Their contents are not registered, but fill the
// store until somebody collects garbage, so that not even a smaller system would fit. What was registered stays.
//
// It closes all connections to the daemon, and with them the session's temporary roots: the next request roots them anew.
func (s *session) clearUnfinished(ctx context.Context, paths []storepath.Path) {
	s.mu.Lock()
	for _, path := range paths {
		delete(s.rooted, path)
	}
	s.mu.Unlock()
	s.disconnect()
	conn, err := s.host.OpenStore(ctx)
	if err != nil {
		return // the full store is the error that counts
	}
	defer conn.Close()
	for _, path := range paths {
		if valid, err := conn.QueryValidPaths(ctx, []storepath.Path{path}, daemon.ValidPathsOptions{}); err != nil || len(valid) > 0 {
			continue
		}
		deletePath(ctx, conn, path)
	}
}

// deletePath deletes as soon as no process of the daemon protects the path any more.
func deletePath(ctx context.Context, conn *daemon.Conn, path storepath.Path) {
	for range clearTries {
		_, err := conn.DeletePath(ctx, path)
		if _, inUse := errors.AsType[*daemon.Error](err); !inUse {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(clearPause):
		}
	}
}
