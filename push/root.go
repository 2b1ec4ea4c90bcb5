package push

import (
	"context"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// Root protects a path that is valid on the host already, such as one that was built there, from garbage collection, as
// [PushRequest.RootName] does for what is pushed.
func (s *Session) Root(ctx context.Context, name string, path storepath.Path) error {
	return s.call(ctx, proto.MethodRoot, proto.RootRequest{Name: name, Path: path.String()}, nil)
}
