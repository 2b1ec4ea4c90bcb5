package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
	"fleet/push/hostkeys"
	"fleet/secretsgen/check"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// secretsCheckOptions are the flags of secrets-check.
type secretsCheckOptions struct {
	plan, state, now string
}

// newSecretsCheck makes the command that nix flake check runs in its sandbox.
func newSecretsCheck() *cli.Command {
	return &cli.Command{
		Name:    "secrets-check",
		Summary: "Prove what can be proved of secrets without a key; run by nix flake check.",
		Help: `
Holds the state of a fleet's secrets against the plan, which has the specs of its hosts. It needs no key, network, home or git. What it finds goes to
standard error, each with the secret, the host, the reason and what mends it; the exit code is 5 where something is wrong, and 0 where there
are only warnings.`,
		Hidden: true,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &secretsCheckOptions{}
			flags.StringVar(&o.plan, "plan", "", "`FILE` with the plan, and the specs of its hosts as records in it")
			flags.StringVar(&o.state, "state", "", "the folder of the fleet's state, fleet-state/NAME; where there is no such `DIR`, there are no secrets")
			flags.StringVar(&o.now, "now", "", "the `TIME` that expiry is judged at, in RFC 3339 or as seconds since 1970; nothing or 0 leaves it unjudged")
			return o.run
		},
	}
}

func (o *secretsCheckOptions) run(_ context.Context, env *cli.Env, _ []string) error {
	if o.plan == "" || o.state == "" {
		return cli.Usagef("--plan and --state are needed")
	}
	now, err := parseTime(o.now)
	if err != nil {
		return cli.Usagef("--now %q: %w", o.now, err)
	}
	in, closeFiles, err := o.input()
	if err != nil {
		return err
	}
	defer closeFiles()
	in.Now = now
	return printFindings(env.Stderr, check.Run(in))
}

// parseTime reads a time; zero for none.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		if seconds <= 0 {
			return time.Time{}, nil
		}
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errors.New("want a time as 2026-11-01T12:00:00Z, or as seconds since 1970")
	}
	return t, nil
}

// stateError says that the state cannot be read at all.
type stateError struct{ err error }

func (e *stateError) Error() string { return e.err.Error() }
func (e *stateError) Unwrap() error { return e.err }

// ExitCode is that of secrets that need a person.
func (e *stateError) ExitCode() int { return int(deploy.ExitSecrets) }

// maxPlan bounds the plan, in bytes.
const maxPlan = 512 << 20

// input reads the plan and the state.
func (o *secretsCheckOptions) input() (in check.Input, closeFiles func(), err error) {
	f, err := os.Open(o.plan)
	if err != nil {
		return in, nil, fmt.Errorf("read plan: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	if err != nil {
		return in, nil, fmt.Errorf("read plan: %w", err)
	}
	if len(data) > maxPlan {
		return in, nil, fmt.Errorf("read plan %q: it has more than %d bytes", o.plan, maxPlan)
	}
	if in.Plan, err = plan.Decode(data); err != nil {
		return in, nil, err
	}
	if in.Tree, err = state.LoadFolder(o.state, in.Plan.Fleet); err != nil {
		return in, nil, &stateError{err}
	}
	if in.Pins, in.PinErrors, err = hostkeys.ReadFolder(o.state); err != nil {
		return in, nil, &stateError{err}
	}
	root, err := os.OpenRoot(o.state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return in, func() {}, nil
	case err != nil:
		return in, nil, fmt.Errorf("read state: %w", err)
	}
	in.Files = root.FS()
	return in, func() { _ = root.Close() }, nil
}

// printFindings prints what was found, and returns the error that the exit code is made from.
func printFindings(w io.Writer, findings []check.Finding) error {
	var b strings.Builder
	errs := 0
	for _, f := range findings {
		word := "warning"
		if !f.Warning {
			word = "error"
			errs++
		}
		var about []string
		if f.ID != (secret.ID{}) {
			about = append(about, "secret "+f.ID.String())
		}
		if f.Host != "" {
			about = append(about, "host "+f.Host)
		}
		if len(about) == 0 {
			about = append(about, "the state")
		}
		fmt.Fprintf(&b, "%s: %s: %s\n  hint: %s\n", word, strings.Join(about, ", "), text.Line(f.Reason), text.Line(f.Mend))
	}
	if len(findings) > 0 {
		fmt.Fprintf(&b, "secrets: %s, %s\n", count(errs, "error"), count(len(findings)-errs, "warning"))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	if errs > 0 {
		return cli.Status(int(deploy.ExitSecrets))
	}
	return nil
}

func count(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}
