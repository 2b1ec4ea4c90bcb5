package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"fleet/cmd/fleet-helper/internal/cli"
)

// errNobodyReads says that who read our output has gone. It counts as an interruption.
var errNobodyReads = fmt.Errorf("%w: nobody reads the output any more", context.Canceled)

// endWithReaders makes a run end in order, as a hangup does, when who reads its output has gone: "deploy 2>&1 | head". By default
// the runtime ends the process there and then, with builds and sessions still under way. Call stop at the end.
func endWithReaders(ctx context.Context, env *cli.Env) (context.Context, *cli.Env, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	// Caught and dropped: the write then fails with EPIPE. Ignoring the signal would be inherited by all children.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, syscall.SIGPIPE)
	wrapped := *env
	wrapped.Stdout = readerWatch{env.Stdout, cancel}
	wrapped.Stderr = readerWatch{env.Stderr, cancel}
	return ctx, &wrapped, func() { signal.Stop(dropped); cancel(nil) }
}

// readerWatch notices that nobody reads what is written.
type readerWatch struct {
	io.Writer
	gone context.CancelCauseFunc
}

func (w readerWatch) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.gone(errNobodyReads)
	}
	return n, err
}
