package main

import (
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"fleet/cmd/fleet-helper/internal/cli"
)

// secretsMode says whether a deployment makes secrets that its hosts miss.
type secretsMode struct {
	sync  string
	never bool
}

// The modes.
const (
	secretsAuto   = "auto"
	secretsAlways = "always"
	secretsNever  = "never"
)

func (m *secretsMode) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&m.sync, "secrets-sync", secretsAuto, "make secrets that the hosts miss: `WHEN` is auto (where there is a terminal, since somebody has to commit them), always or never")
	flags.BoolVar(&m.never, "no-secrets-sync", false, "the same as --secrets-sync=never: hosts that miss secrets are left out, with exit code 5")
}

func (m *secretsMode) validate() error {
	switch m.sync {
	case secretsAuto, secretsNever:
	case secretsAlways:
		if m.never {
			return cli.Usagef("--no-secrets-sync and --secrets-sync=always exclude each other")
		}
	default:
		return cli.Usagef("--secrets-sync %q: want auto, always or never", m.sync)
	}
	return nil
}

// forbidden says why this run makes no secrets, empty where it does. What is made has to be committed, so it takes a work tree, and somebody who
// reads the report.
func (m *secretsMode) forbidden(op *operation, o *fleetOptions) string {
	switch {
	case m.never || m.sync == secretsNever:
		return "the command line forbids it"
	case len(o.planFiles) > 0:
		return "a plan says nothing of generators"
	case op.state == nil || strings.Contains(o.flake, "?rev=") || strings.Contains(o.flake, "&rev=") || strings.Contains(o.flake, "?ref=") || strings.Contains(o.flake, "&ref="):
		return "the flake is no work tree"
	case unix.Access(op.state.Dir(), unix.W_OK) != nil:
		return "the flake's work tree cannot be written"
	case m.sync == secretsAuto && !op.canAsk():
		return "there is no terminal, so nobody would commit it"
	}
	return ""
}
