package closure

import (
	"context"
	"maps"

	"fleet/closure/daemon"
	"fleet/closure/storepath"
)

// question is one that is under way. infos is set before answered is closed, nil where there was no answer.
type question struct {
	answered chan struct{}
	infos    map[storepath.Path]PathInfo
}

// infos returns the infos of paths. Where that is allowed they come from memory, or from the answer to who has asked for the same a moment ago.
func (s *LocalStore) infos(ctx context.Context, paths []storepath.Path, useKnown bool) (map[storepath.Path]PathInfo, error) {
	if !useKnown {
		return s.ask(ctx, paths)
	}
	result := make(map[storepath.Path]PathInfo, len(paths))
	for left := paths; len(left) > 0; {
		ours, mine, others := s.divide(left, result)
		if err := s.answer(ctx, mine, ours, result); err != nil {
			return nil, err
		}
		left = nil
		for path, other := range others {
			select {
			case <-other.answered:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if info, ok := other.infos[path]; ok {
				result[path] = info
			} else if other.infos == nil {
				left = append(left, path) // whoever has asked was interrupted
			}
		}
	}
	return result, nil
}

// divide adds what is known to result, and says for the rest what is to be asked, as a question of ours, and who has asked for it already.
func (s *LocalStore) divide(paths []storepath.Path, result map[storepath.Path]PathInfo) (ours []storepath.Path, mine *question, others map[storepath.Path]*question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine, others = &question{answered: make(chan struct{})}, make(map[storepath.Path]*question)
	for _, path := range paths {
		if info, ok := s.known[path]; ok {
			result[path] = info
		} else if other := s.asking[path]; other != nil {
			others[path] = other
		} else {
			s.asking[path] = mine
			ours = append(ours, path)
		}
	}
	return ours, mine, others
}

// answer asks a question of ours, adds the answer to result, and tells it to those who wait for it.
func (s *LocalStore) answer(ctx context.Context, mine *question, paths []storepath.Path, result map[storepath.Path]PathInfo) error {
	infos, err := s.ask(ctx, paths)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		delete(s.asking, path)
	}
	mine.infos = infos
	close(mine.answered)
	maps.Copy(result, infos)
	return err
}

// ask asks the daemon, over several connections where that is worth it, and remembers the answers. They are nil after an error.
func (s *LocalStore) ask(ctx context.Context, paths []storepath.Path) (map[storepath.Path]PathInfo, error) {
	infos, err := daemon.QueryShares(ctx, paths, len(s.queries), queryShare, func(ctx context.Context, share int, paths []storepath.Path) (infos map[storepath.Path]PathInfo, err error) {
		err = s.queries[share].use(ctx, func(c *daemon.Conn) error {
			infos, err = c.QueryPathInfos(ctx, paths)
			return err
		})
		return infos, err
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) > maxKnown {
		clear(s.known)
	}
	maps.Copy(s.known, infos)
	return infos, nil
}
