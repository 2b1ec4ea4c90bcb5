// Command fleet-helper deploys fleets of NixOS hosts, and is its own agent on those hosts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"fleet/cmd/fleet-helper/internal/cli"
)

// version is set by the linker: -X main.version=….
var version = "dev"

func main() { os.Exit(realMain()) }

// realMain is main without the exit, so that everything deferred is done.
func realMain() int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// The first signal ends things in order; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, cli.OSEnv(version), rootFor(os.Args[0]))
}
