package step

import (
	"context"
	"errors"
	"io"
)

func runStep(_ context.Context, req Request, _ Options) (Result, error) {
	return Result{}, &Error{ID: req.ID, Err: errors.ErrUnsupported}
}

// Child is what the hidden command [ChildCommand] runs inside of the new namespaces: it reads what [Run] sends from stdin, sets the private folder up, runs the
// generator in it, and writes its report to stdout. It expects to be the only thing that its process does.
func Child(_ context.Context, _ io.Reader, _ io.Writer) error { return errors.ErrUnsupported }
