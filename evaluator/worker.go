package evaluator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
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

// worker is one process that evaluates several hosts. The process says what it does through builtins.trace: a line
// before each host, and one after it with the record. A random token keeps those lines apart from what modules trace.
type worker struct {
	nix      *Nix
	snapshot Snapshot
	jobs     []job
	each     func(RecordResult)
	source   string
	token    string

	// mu guards what follows: the process' output and the watching goroutine both look at it.
	mu sync.Mutex
	// current is the host that the process is at, -1 before the first one; done counts the finished ones.
	current, done int
	since         time.Time
	errs          []Message
	log           *transcript
	// held are records whose derivation was not in the store yet when they were told.
	held []held
}

type held struct {
	job    job
	record plan.Record
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

// expression folds over the hosts. The fold is strict, so the hosts are evaluated in their order, and one after the other.
func (w *worker) expression() string {
	var paths strings.Builder
	for _, j := range w.jobs {
		paths.WriteString(" [")
		for _, name := range j.path {
			paths.WriteString(" " + nixString(name))
		}
		paths.WriteString(" ]")
	}
	return `fleets: builtins.foldl' (n: path: builtins.trace "` + w.token + ` begin ${toString n}" (` +
		`let json = builtins.toJSON { inherit (builtins.foldl' (set: name: set.${name}) fleets path) system; }; ` +
		`in builtins.seq json (builtins.trace "` + w.token + ` done ${toString n} ${json}" (n + 1)))) 0 [` + paths.String() + ` ]`
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
	if what == "begin" {
		w.mu.Lock()
		w.current, w.since, w.errs, w.log = i, time.Now(), nil, &transcript{}
		w.mu.Unlock()
		w.nix.emit(plan.Event{Host: w.jobs[i].host, Step: plan.StepEvaluate, Kind: plan.EventProgress, Message: "evaluating"})
		return
	}
	record, err := plan.DecodeRecord([]byte(json))
	if err == nil && record.System != nil {
		w.complete(w.jobs[i], record)
		return
	}
	w.mu.Lock()
	w.done++
	w.mu.Unlock()
	if err == nil {
		err = errors.New("it has no system")
	}
	w.each(RecordResult{Host: w.jobs[i].host, Err: fmt.Errorf("evaluate host %q: %w", w.jobs[i].host, err)})
}

// complete delivers a record, or holds it back until the process has ended, where Nix writes derivations in the background.
func (w *worker) complete(j job, record plan.Record) {
	_, err := os.Lstat(record.System.DrvPath)
	w.mu.Lock()
	w.done++
	if err != nil {
		w.held = append(w.held, held{j, record})
	}
	w.mu.Unlock()
	if err == nil {
		w.each(RecordResult{Host: j.host, Record: record})
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
		w.each(RecordResult{Host: unfinished[0].host, Err: w.limitError(unfinished[0].host, cause)})
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
	host := w.jobs[w.current].host
	w.each(RecordResult{Host: host, Err: w.nix.evalError(host, exit, w.errs, w.log, w.source)})
	return append(left, unfinished[1:]...), nil
}

// deliverHeld delivers what was held back. Where the process failed, a derivation may really be missing: its host is returned
// to be tried once more.
func (w *worker) deliverHeld(ended bool) []job {
	var left []job
	for _, h := range w.held {
		_, err := os.Lstat(h.record.System.DrvPath)
		switch {
		case err == nil || ended:
			w.each(RecordResult{Host: h.job.host, Record: h.record})
		case h.job.again:
			w.each(RecordResult{Host: h.job.host, Err: fmt.Errorf("evaluate host %q: nix did not write its derivation: %w", h.job.host, err)})
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
