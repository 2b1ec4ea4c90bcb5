package evaluator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// NixOptions configure the nix backend. All fields have usable zero values.
type NixOptions struct {
	// Fleet is the name below fleetConfigurations; empty means "default".
	Fleet string
	// Flake is a flake reference as nix takes it, without a fragment; empty means the nearest flake.nix at or above Dir.
	Flake string
	// Dir is the working directory, for finding the flake and for relative references; empty means ours.
	Dir string
	// AppSource is the store path of the flake that the running program came from. Where it is set
	// and Flake is not, the flake around Dir must be the same one.
	AppSource string

	// Workers bounds the evaluating processes; zero means one a core, as far as memory allows.
	Workers int
	// Memory bounds each of them, in MiB; zero means 4096. A worker that reaches it is replaced, and the host
	// that it was at is tried once more in a fresh one.
	Memory int
	// HostTimeout bounds the evaluation of one host; zero means one hour.
	HostTimeout time.Duration
	// Builds bounds the builds that run at a time; zero means 4. Each is a nix-store process, which has max-jobs of its own.
	Builds int

	// StateDir holds logs and garbage collector roots; empty means [DefaultStateDir].
	StateDir string
	// System is the operator's system, as Nix names it; empty means that of this program.
	System string

	ShowTrace bool
	Impure    bool
	// Settings are passed on as --option.
	Settings []Setting
	// Overrides are passed on as --override-input.
	Overrides []Override
	Reporter  Reporter
}

// Setting is a Nix setting for this run.
type Setting struct{ Name, Value string }

// Override replaces an input of the flake for this run.
type Override struct{ Input, Ref string }

// Nix is the backend that drives nix processes on a flake.
type Nix struct {
	opts    NixOptions
	logs    *logDir
	pool    pool
	workers *semaphore.Weighted
	builds  *semaphore.Weighted
	helpers singleflight.Group

	mu sync.Mutex
	// version is nil until nix was asked.
	version *nixVersion
	// sources holds the store path of each snapshot, by its reference.
	sources map[string]string
	// built holds the helpers that were built, by reference and system.
	built map[string]storepath.Path
	// warned holds the warnings of nix that were passed on; it repeats them in every process.
	warned map[string]bool
}

var _ Backend = (*Nix)(nil)

// NewNix makes the backend. It starts no process yet.
func NewNix(opts NixOptions) (*Nix, error) {
	if opts.Fleet == "" {
		opts.Fleet = "default"
	}
	if opts.Reporter == nil {
		opts.Reporter = silent{}
	}
	if opts.HostTimeout <= 0 {
		opts.HostTimeout = time.Hour
	}
	if opts.Builds <= 0 {
		opts.Builds = 4
	}
	size := sizePool(opts.Workers, opts.Memory, runtime.NumCPU(), availableMemory())
	if opts.System == "" {
		opts.System = nixSystem(runtime.GOOS, runtime.GOARCH)
	}
	var err error
	if opts.StateDir == "" {
		if opts.StateDir, err = DefaultStateDir(); err != nil {
			return nil, err
		}
	}
	if opts.Dir == "" {
		if opts.Dir, err = os.Getwd(); err != nil {
			return nil, fmt.Errorf("find working directory: %w", err)
		}
	}
	logs, err := openLogDir(filepath.Join(opts.StateDir, "logs"))
	if err != nil {
		return nil, err
	}
	return &Nix{
		opts: opts, logs: logs, pool: size,
		workers: semaphore.NewWeighted(int64(size.workers)), builds: semaphore.NewWeighted(int64(opts.Builds)),
		sources: map[string]string{}, built: map[string]storepath.Path{}, warned: map[string]bool{},
	}, nil
}

// nixSystem names a platform as Nix does.
func nixSystem(goos, goarch string) string {
	cpu, ok := map[string]string{
		"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l", "ppc64le": "powerpc64le",
	}[goarch]
	if !ok {
		cpu = goarch
	}
	return cpu + "-" + goos
}

// common are the arguments that every call of the new command line gets.
func (n *Nix) common() []string {
	args := []string{
		"--extra-experimental-features", "nix-command flakes",
		"--log-format", "internal-json",
	}
	return append(args, n.settings()...)
}

func (n *Nix) settings() []string {
	var args []string
	for _, s := range n.opts.Settings {
		args = append(args, "--option", s.Name, s.Value)
	}
	return args
}

// flakeArgs are for the calls that look at the flake. The lock file is the user's to change, never ours.
func (n *Nix) flakeArgs() []string {
	args := []string{"--no-write-lock-file"}
	for _, o := range n.opts.Overrides {
		args = append(args, "--override-input", o.Input, o.Ref)
	}
	return args
}

// evalArgs are for the calls that evaluate. The evaluation cache would only help to repeat the very same call, makes parallel processes
// wait for one database, and answers a repeated failure with "cached failure" in place of the reason.
func (n *Nix) evalArgs() []string {
	args := append([]string{"eval", "--json", "--option", "eval-cache", "false"}, n.common()...)
	args = append(args, n.flakeArgs()...)
	if n.opts.ShowTrace {
		args = append(args, "--show-trace")
	}
	if n.opts.Impure {
		args = append(args, "--impure")
	}
	return args
}

// call is one nix process whose output is wanted.
type call struct {
	host string
	step plan.Step
	argv []string
	// source is the store path of the snapshot, empty before there is one.
	source string
}

// maxAnswer bounds what a nix process may print: a plan of some thousand hosts has a few MiB.
const maxAnswer = 256 << 20

// output runs nix and returns what it printed. An error of nix is an [*EvalError].
func (n *Nix) output(ctx context.Context, c call) ([]byte, error) {
	var errs []Message
	log := &transcript{}
	messages := &messageWriter{each: func(m Message) {
		log.add(m)
		if isError(m) {
			errs = append(errs, m)
			return
		}
		n.pass(c.host, c.step, m)
	}}
	out, err := run.Output(ctx, run.Cmd{
		Argv: c.argv, Dir: n.opts.Dir, Stderr: messages, MaxOutput: maxAnswer, NewSession: true,
	})
	messages.flush()
	if err == nil {
		return out, nil
	}
	var exit *run.ExitError
	if ctx.Err() != nil || !errors.As(err, &exit) {
		return nil, err
	}
	return nil, n.evalError(c.host, exit, errs, log, c.source)
}

// evalError makes the error of a nix process that failed.
func (n *Nix) evalError(host string, exit *run.ExitError, errs []Message, log *transcript, source string) *EvalError {
	e := &EvalError{Host: host, Summary: summarise(errs, source), Traced: n.opts.ShowTrace}
	if len(errs) == 0 {
		e.Summary = []string{exitText(exit)}
		e.Remedy = exitRemedy(exit)
	}
	if e.Remedy == "" {
		e.Remedy = evalRemedy(errs, source)
	}
	e.LogFile = n.logs.write(host, "eval", log.String())
	return e
}

// pass hands on what nix said beside its errors: its own warnings once, traces of modules always.
func (n *Nix) pass(host string, step plan.Step, m Message) {
	kind, text, repeated := classify(m)
	if kind == "" {
		return
	}
	if repeated {
		n.mu.Lock()
		known := n.warned[text]
		n.warned[text] = true
		n.mu.Unlock()
		if known {
			return
		}
		host = ""
	}
	n.emit(plan.Event{Host: host, Step: step, Kind: kind, Message: oneLine(text)})
}

func (n *Nix) emit(e plan.Event) {
	e.Time = time.Now()
	n.opts.Reporter.Emit(e)
}

func (n *Nix) sourceOf(s Snapshot) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sources[s.Ref]
}
