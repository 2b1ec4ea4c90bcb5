package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push/deploy"
	"fleet/secretsgen/install"
)

// newSecretsInstall makes the command that a host's units run.
func newSecretsInstall() *cli.Command {
	return &cli.Command{
		Name:    "secrets-install",
		Summary: "Put this host's secrets in place; run by its units, not by people.",
		Help: `
Decrypts the secrets of a manifest in memory, verifies them, writes them into a file system in memory, and swaps them in by one rename. A secret
that cannot be read takes no other along; the exit code is 5 then, and the message names it. A run that finds everything in place changes nothing.`,
		Hidden: true,
		New:    newSecretsInstallRun,
	}
}

func newSecretsInstallRun(flags *pflag.FlagSet) cli.RunFunc {
	manifest := flags.String("manifest", "", "`FILE` that says which secrets there are")
	phase := flags.String("phase", string(install.PhaseMain), "`PHASE` of the boot: users, before users are made, or main")
	validate := flags.Bool("validate", false, "only check that the manifest is one; needs no key")
	preflight := flags.Bool("preflight", false, "only decrypt and verify, in memory; changes nothing")
	return func(ctx context.Context, env *cli.Env, _ []string) error {
		if *manifest == "" {
			return cli.Usagef("--manifest is missing")
		}
		if *phase != string(install.PhaseMain) && *phase != string(install.PhaseUsers) {
			return cli.Usagef("--phase %q: want users or main", *phase)
		}
		m, err := install.LoadManifest(*manifest)
		if err != nil || *validate {
			return err
		}
		// The process holds plaintext: neither a core file nor another process of the user may have its memory.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("install secrets: keep the memory private: %w", err)
		}
		run := install.Install
		if *preflight {
			run = install.Check
		}
		report, err := run(ctx, m, install.Options{
			Phase: install.Phase(*phase), Mount: true,
			Log: func(line string) { fmt.Fprintln(env.Stderr, line) },
		})
		if failed := report.Err(); failed != nil {
			err = errors.Join(&secretsError{failed}, err)
		}
		return err
	}
}

// secretsError gives an error the exit code of secrets that need action.
type secretsError struct{ err error }

func (e *secretsError) Error() string { return e.err.Error() }
func (e *secretsError) Unwrap() error { return e.err }

// ExitCode is the code.
func (e *secretsError) ExitCode() int { return int(deploy.ExitSecrets) }
