//go:build !linux

package step

import (
	"context"
	"errors"
	"fmt"
	"io"
)

func runStep(_ context.Context, req Request, _ Options) (Result, error) {
	return Result{}, &Error{
		ID: req.ID, Err: fmt.Errorf("run a generator on this machine: %w: there is no file system in memory that nobody else sees", errors.ErrUnsupported),
		Remedy: "name a host that runs it: generator = … with impureOn, or run this command on Linux",
	}
}

// Child is there on Linux alone.
func Child(context.Context, io.Reader, io.Writer) error { return errors.ErrUnsupported }
