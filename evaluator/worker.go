package evaluator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"fleet/closure/run"
	"fleet/evaluator/plan"
)

// Reasons for ending a worker's process.
var (
	// errFull says that the process has grown so much that the next host should get a fresh one.
	errFull    = errors.New("the evaluation takes much memory")
	errMemory  = errors.New("the evaluation takes too much memory")
	errTimeout = errors.New("the evaluation takes too long")
)

// watchInterval is how often a process' memory and time are looked at.
const watchInterval = 100 * time.Millisecond

// worker is one process that does several jobs. The process says what it does through builtins.trace: a line
// before each job, one with its first answer, and one after it with the rest. A random token keeps those lines apart from what modules trace.
type worker struct {
	nix      *Nix
	snapshot Snapshot
	jobs     []job
	each     func(jobResult)
	source   string
	token    string

	// mu guards what follows: the process' output and the watching goroutine both look at it.
	mu sync.Mutex
	// current is the job that the process is at, -1 before the first one; done counts the finished ones.
	current, done int
	// first is the first answer of the current job.
	first []byte
	since time.Time
	errs  []Message
	log   *transcript
	// held are results whose derivations were not in the store yet when they were told.
	held []jobResult
}

// run evaluates jobs and returns those that are left for another process.
func (w *worker) run(ctx context.Context) ([]job, error) {
	w.token = rand.Text()
	w.since, w.log = time.Now(), &transcript{}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	messages := &messageWriter{each: func(m Message) { w.message(m, stop) }}
	argv := append([]string{"nix"}, w.nix.evalArgs()...)
	argv = append(argv, "--apply", w.expression(), "--", w.snapshot.Ref+"#fleetConfigurations")
	process, err := run.Start(ctx, run.Cmd{
		Argv: argv, Dir: w.nix.opts.Dir, Stderr: messages, Grace: 500 * time.Millisecond, NewSession: true,
	})
	if err != nil {
		return nil, err
	}
	var watch sync.WaitGroup
	watch.Go(func() { w.watch(ctx, process, stop) })
	err = process.Wait()
	cause := context.Cause(ctx)
	stop(nil)
	watch.Wait()
	messages.flush()
	return w.finish(err, cause)
}

// expression folds over the jobs. The fold is strict, so they are done in their order, and one after the other.
func (w *worker) expression() string {
	var asks strings.Builder
	for _, j := range w.jobs {
		asks.WriteString(" (" + j.ask + ")")
	}
	return `fleets: builtins.foldl' (n: ask: builtins.trace "` + w.token + ` begin ${toString n}" (` +
		`let answer = ask fleets; first = builtins.toJSON answer.first; rest = builtins.toJSON answer.rest; ` +
		`in builtins.seq first (builtins.trace "` + w.token + ` first ${toString n} ${first}" ` +
		`(builtins.seq rest (builtins.trace "` + w.token + ` done ${toString n} ${rest}" (n + 1)))))) 0 [` + asks.String() + ` ]`
}

// message handles one line of the process.
func (w *worker) message(m Message, stop context.CancelCauseFunc) {
	if mark, ok := strings.CutPrefix(m.Text, "trace: "+w.token+" "); ok {
		w.mark(mark, stop)
		return
	}
	w.mu.Lock()
	w.log.add(m)
	host := w.host()
	failed := isError(m)
	if failed {
		w.errs = append(w.errs, m)
	}
	w.mu.Unlock()
	if !failed {
		w.nix.pass(host, plan.StepEvaluate, m)
	}
}

// host is where the process is, empty before the first host.
func (w *worker) host() string {
	if w.current < 0 {
		return ""
	}
	return w.jobs[w.current].host
}

// mark handles a line of our own.
func (w *worker) mark(text string, stop context.CancelCauseFunc) {
	what, rest, _ := strings.Cut(text, " ")
	number, json, _ := strings.Cut(rest, " ")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(w.jobs) {
		stop(fmt.Errorf("evaluate hosts: nix printed a line that makes no sense: %.200q", text))
		return
	}
	switch what {
	case "begin":
		w.mu.Lock()
		w.current, w.since, w.first, w.errs, w.log = i, time.Now(), nil, nil, &transcript{}
		w.mu.Unlock()
		w.nix.emit(plan.Event{Host: w.jobs[i].host, Step: plan.StepEvaluate, Kind: plan.EventProgress, Message: "evaluating"})
	case "first":
		w.mu.Lock()
		w.first = []byte(json)
		w.mu.Unlock()
	default:
		w.complete(w.jobs[i], []byte(json))
	}
}

// complete delivers a result, or holds it back until the process has ended, where Nix writes derivations in the background.
func (w *worker) complete(j job, rest []byte) {
	w.mu.Lock()
	first := w.first
	w.mu.Unlock()
	result := j.result(first, rest)
	missing := result.missing()
	w.mu.Lock()
	w.done++
	if missing != nil {
		w.held = append(w.held, result)
	}
	w.mu.Unlock()
	if missing == nil {
		w.each(result)
	}
}

// watch ends a process that takes too much. A process that has evaluated something and
// has grown is replaced as it begins with the next host: Nix hardly ever gives memory back.
func (w *worker) watch(ctx context.Context, process *run.Process, stop context.CancelCauseFunc) {
	limit, recycle := uint64(w.nix.pool.memory)<<20, uint64(w.nix.pool.recycle)<<20
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-process.Done():
			return
		case <-ticker.C:
		}
		used := residentMemory(process.PID)
		w.mu.Lock()
		fresh, late := w.done > 0 && w.current == w.done && time.Since(w.since) < 2*watchInterval, time.Since(w.since) > w.nix.opts.HostTimeout
		w.mu.Unlock()
		switch {
		case used > limit:
			stop(errMemory)
		case used > recycle && fresh:
			stop(errFull)
		case late:
			stop(errTimeout)
		}
	}
}

// finish judges how the process ended. All goroutines of the worker have ended by then.
func (w *worker) finish(err, cause error) ([]job, error) {
	left := w.deliverHeld(err == nil)
	unfinished := w.jobs[w.done:]
	switch {
	case err == nil:
		return left, w.checkComplete()
	case errors.Is(cause, errFull):
		return append(left, unfinished...), nil
	case errors.Is(cause, errMemory) && w.done > 0:
		return append(left, unfinished...), nil
	case len(unfinished) == 0:
		// It failed after its last host; every host has its result, or is tried again.
		return left, nil
	case errors.Is(cause, errMemory), errors.Is(cause, errTimeout):
		w.each(unfinished[0].failed(w.first, w.limitError(unfinished[0].host, cause)))
		return append(left, unfinished[1:]...), nil
	case cause != nil:
		return nil, cause
	}
	var exit *run.ExitError
	if !errors.As(err, &exit) {
		return nil, err
	}
	if w.current < 0 {
		return nil, w.nix.evalError("", exit, w.errs, w.log, w.source)
	}
	j := w.jobs[w.current]
	failed := w.nix.evalError(j.host, exit, w.errs, w.log, w.source)
	w.each(j.failed(w.first, orMissingPublic(failed, w.errs)))
	return append(left, unfinished[1:]...), nil
}

// deliverHeld delivers what was held back. Where the process failed, a derivation may really be missing: its job is returned
// to be tried once more.
func (w *worker) deliverHeld(ended bool) []job {
	var left []job
	for _, h := range w.held {
		missing := h.missing()
		switch {
		case missing == nil || ended:
			w.each(h)
		case h.job.again:
			h.err = fmt.Errorf("evaluate host %q: nix did not write its derivation: %w", h.job.host, missing)
			w.each(h)
		default:
			h.job.again = true
			left = append(left, h.job)
		}
	}
	w.held = nil
	return left
}

func (w *worker) checkComplete() error {
	if w.done < len(w.jobs) {
		return fmt.Errorf("evaluate hosts: nix ended well after %d of %d hosts", w.done, len(w.jobs))
	}
	return nil
}

func (w *worker) limitError(host string, cause error) *EvalError {
	e := &EvalError{Host: host, Traced: w.nix.opts.ShowTrace, LogFile: w.nix.logs.write(host, "eval", w.log.String())}
	if errors.Is(cause, errMemory) {
		e.Summary = []string{fmt.Sprintf("it takes more than %d MiB of memory", w.nix.pool.memory)}
		e.Remedy = "give it more with --eval-memory MIB; if that does not help, look for an option that depends on itself"
		return e
	}
	e.Summary = []string{fmt.Sprintf("it did not end within %s", w.nix.opts.HostTimeout)}
	e.Remedy = "look for an option that depends on itself"
	return e
}
