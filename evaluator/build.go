package evaluator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// Build realises a host's toplevel on this machine. On success the host's garbage collector root, a link in the state folder that
// needs no root rights, points to it; until then, and where the build fails, it keeps the one before. Derivations that several builds
// need at a time are built once: nix locks them. An error of nix is a [*BuildError].
func (n *Nix) Build(ctx context.Context, request BuildRequest) error {
	root, err := n.root(request.Fleet, request.Host)
	if err != nil {
		return err
	}
	if err := n.builds.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer n.builds.Release(1)
	return n.realise(ctx, realisation{
		host: request.Host, step: plan.StepBuild, drv: request.System.DrvPath, out: request.System.OutPath, root: root,
	})
}

// realisation is a derivation that is to be built, and the link that is to protect its output.
type realisation struct {
	host string
	step plan.Step
	drv  string
	out  string
	root string
}

// root is where a garbage collector root is kept; its folder is made.
func (n *Nix) root(fleet, name string) (string, error) {
	for _, part := range []string{fleet, name} {
		if part == "" || strings.ContainsAny(part, "/\x00") || !filepath.IsLocal(part) {
			return "", fmt.Errorf("root build: %q cannot be a file's name", part)
		}
	}
	dir := filepath.Join(n.opts.StateDir, "gcroots", fleet)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("root build: %w", err)
	}
	return filepath.Join(dir, name), nil
}

// realise runs nix-store, whose arguments and output are the same in all versions, which those of nix build are not.
func (n *Nix) realise(ctx context.Context, r realisation) error {
	if p, err := storepath.Parse(r.drv); err != nil || !p.IsDerivation() {
		return fmt.Errorf("build %q: %q is no derivation", r.host, r.drv)
	}
	if err := n.runRealise(ctx, r, []string{r.drv}); err != nil {
		return err
	}
	return checkRoot(r)
}

// runRealise realises derivations in one process.
func (n *Nix) runRealise(ctx context.Context, r realisation, drvs []string) error {
	full := &lazyLog{dir: n.logs, subject: r.host, step: "build"}
	log := &BuildLog{Line: full.line, Emit: func(e plan.Event) {
		e.Host, e.Step = r.host, r.step
		n.emit(e)
	}}
	argv := append([]string{"nix-store", "--realise"}, drvs...)
	argv = append(argv,
		"--add-root", r.root, "--log-format", "internal-json", "--extra-experimental-features", "nix-command flakes",
		// Of two builds that need the same derivation, one polls the other's lock, every 5 s by default.
		"--option", "build-poll-interval", "1",
	)
	err := run.Run(ctx, run.Cmd{
		Argv: append(argv, n.settings()...), Dir: n.opts.Dir, Stderr: log, Grace: 10 * time.Second, NewSession: true,
	})
	log.Close()
	var exit *run.ExitError
	if err == nil || ctx.Err() != nil || !errors.As(err, &exit) {
		full.close(false)
		return err
	}
	failed := log.Failure(r.host, r.drv)
	if len(failed.Summary) == 0 {
		failed.Summary = []string{exitText(exit)}
	}
	failed.LogFile = full.close(true)
	return failed
}

// checkRoot makes sure that what was built is what was evaluated.
func checkRoot(r realisation) error {
	target, err := os.Readlink(r.root)
	if err != nil {
		return fmt.Errorf("root build of %q: %w", r.host, err)
	}
	if target != r.out {
		return fmt.Errorf("build %q: nix built %q where the evaluation said %q", r.host, target, r.out)
	}
	return nil
}
