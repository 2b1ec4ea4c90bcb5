//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
)

// errNoHost says that this machine can deploy, but not be deployed to.
var errNoHost = errors.New("hosts run Linux; this machine can only be an operator's")

func newAgent(*globals) *cli.Command { return noHost("agent") }

func newActivate(*globals) *cli.Command { return noHost("activate") }

func newGuard(*globals) []*cli.Command {
	return []*cli.Command{noHost("guard"), noHost("guard-worker"), noHost("guard-reboot"), noHost("boot-guard"), noHost("may-bless")}
}

func attachSocket(context.Context, *cli.Env, string) error { return errNoHost }

func attachGuard(context.Context, *cli.Env, string) error { return errNoHost }

func noHost(name string) *cli.Command {
	return &cli.Command{
		Name: name, Summary: "The host's side; it is there on Linux alone.", Help: "Not available on this machine.", Hidden: true,
		New: func(*pflag.FlagSet) cli.RunFunc {
			return func(context.Context, *cli.Env, []string) error { return errNoHost }
		},
	}
}
