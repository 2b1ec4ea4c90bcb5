package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// maxSwitchLog bounds a transaction's log, in bytes: it lies on a tmpfs.
const maxSwitchLog = 8 << 20

// worker runs one transaction.
type worker struct {
	host *Host
	req  request
	st   proto.TxnStatus
	log  *switchWriter
	// target is the system that is to run: the toplevel, or the specialisation.
	toplevel, target storepath.Path
	// undone are the steps that have to be done although the host looks as if they were.
	undone []string
	// failedBefore are the units that had failed before anything was done.
	failedBefore []string
}

// stepError is why a transaction failed.
type stepError struct {
	step   string
	code   int
	reason string
	units  []proto.FailedUnit
}

func (e *stepError) Error() string { return fmt.Sprintf("step %q: %s", e.step, e.reason) }

// RunWorker runs the transaction in dir to its end. The result is in the transaction's status; the error is for what kept
// it from being written there. The host's lock is held for as long as RunWorker runs, and freed by the kernel where the process is killed.
func RunWorker(ctx context.Context, host *Host, dir string) error {
	w := &worker{host: host}
	if err := readJSON(filepath.Join(dir, requestName), &w.req); err != nil {
		return err
	}
	if host.txnDir(w.req.Txn) != filepath.Clean(dir) || !txnForm().MatchString(w.req.Txn) {
		return fmt.Errorf("run worker: %q is not the folder of transaction %.60q", dir, w.req.Txn)
	}
	alive, err := lockNow(filepath.Join(dir, aliveName), os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("run worker: take %q: %w", dir, err)
	}
	defer alive.Close()
	log, err := os.OpenFile(filepath.Join(dir, switchLog), os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if w.req.Detach {
		if err := detach(log.Name()); err != nil {
			return err
		}
	}
	if err := readJSON(filepath.Join(dir, statusName), &w.st); err != nil {
		return err
	}
	if w.st.State != proto.TxnPrepared {
		return fmt.Errorf("run worker: transaction %s was run already, it is %q", w.req.Txn, w.st.State)
	}
	w.log = newSwitchWriter(log, maxSwitchLog)
	return w.run(ctx)
}

// run takes the lock, does the steps, and writes the result while the lock is held, so that the next worker finds it.
func (w *worker) run(ctx context.Context) error {
	w.st.Step = stepLock
	lock, err := w.host.acquireLock(ctx, proto.LockHolder{Owner: w.req.Owner, Txn: w.req.Txn, Since: w.req.Since})
	if err != nil {
		return w.finish(w.lockFailure(err))
	}
	defer lock.Close()
	return w.finish(w.locked(ctx))
}

func (w *worker) lockFailure(err error) error {
	if !errors.Is(err, errHeld) {
		return &stepError{step: stepLock, reason: "take the host's lock: " + err.Error()}
	}
	holder, err := w.host.LockHolder()
	if err != nil || holder == nil {
		holder = &proto.LockHolder{Owner: unknownOwner}
	}
	w.st.Lock = holder
	return &stepError{step: stepLock, reason: lockedError(holder).Message}
}

func (w *worker) locked(ctx context.Context) error {
	if err := w.resolve(); err != nil {
		return &stepError{step: stepLock, reason: err.Error()}
	}
	decision, err := w.host.decide(w.req.Txn, decisionRun)
	if err != nil {
		return err
	}
	if decision != decisionRun {
		return &stepError{step: stepLock, reason: "aborted before it began; nothing was changed"}
	}
	return w.steps(ctx)
}

func (w *worker) resolve() error {
	var err error
	if w.toplevel, err = storepath.Parse(w.req.Toplevel); err != nil {
		return err
	}
	if err := checkSystem(w.req.BeginRequest); err != nil {
		return err
	}
	w.target = toplevelAt(activePath(w.req.BeginRequest))
	if w.target.IsZero() {
		return fmt.Errorf("%q does not lead to a store path", activePath(w.req.BeginRequest))
	}
	return nil
}

// enter records that a step begins.
func (w *worker) enter(state proto.TxnState, step string) error {
	w.st.State, w.st.Step = state, step
	return w.save()
}

func (w *worker) save() error {
	return writeJSON(filepath.Join(w.host.txnDir(w.req.Txn), statusName), w.st)
}

// finish writes the result, and drops what was only needed meanwhile.
func (w *worker) finish(err error) error {
	defer os.Remove(filepath.Join(w.host.rootsDir(), rootPrefix+w.req.Txn)) // pruned later where this fails
	failure, ok := errors.AsType[*stepError](err)
	switch {
	case err == nil:
		w.log.say("done")
		w.st.State, w.st.Step = proto.TxnCommitted, ""
	case ok:
		w.log.say("failed in step %q: %s", failure.step, failure.reason)
		w.st.State, w.st.Step, w.st.Reason = proto.TxnFailed, failure.step, clip(failure.reason)
		w.st.ExitCode, w.st.FailedUnits = failure.code, failure.units
	default:
		return err
	}
	w.host.describe(&w.st)
	return w.save()
}

// program runs a program of a step with the log as its output.
func (w *worker) program(ctx context.Context, argv ...string) error {
	limit := switchTimeout(w.req.BeginRequest)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %s", limit))
	defer cancel()
	defer w.log.flush()
	return w.host.Runner.Run(ctx, run.Cmd{
		Argv: argv, Dir: "/", Env: w.environment(), ClearEnv: true, Stdout: w.log, Stderr: w.log, Grace: 20 * time.Second,
	})
}

// environment leaves out all NIXOS_ variables: none that the agent may have got shall skip a check.
func (w *worker) environment() []string {
	env := w.host.environment()
	archive := filepath.Join(w.host.Run, "current-system", "sw", "lib", "locale", "locale-archive")
	if _, err := os.Stat(archive); err == nil {
		env = append(env, "LOCALE_ARCHIVE="+archive)
	}
	return env
}

// switchWriter writes lines without escape codes to the transaction's log, up to a limit.
type switchWriter struct {
	lines *run.LineWriter
	file  *os.File
	left  int
}

func newSwitchWriter(file *os.File, limit int) *switchWriter {
	w := &switchWriter{file: file, left: limit}
	w.lines = run.NewLineWriter(w.line)
	return w
}

func (w *switchWriter) Write(p []byte) (int, error) { return w.lines.Write(p) }

func (w *switchWriter) flush() { w.lines.Flush() }

func (w *switchWriter) say(format string, args ...any) {
	w.flush()
	w.line("fleet: " + fmt.Sprintf(format, args...))
}

// line never fails: an activation must not stop because its log cannot be written.
func (w *switchWriter) line(text string) {
	if w.left <= 0 {
		return
	}
	w.left -= len(text) + 1
	if w.left <= 0 {
		text = "fleet: the log is full, the rest of the output is dropped"
	}
	_, _ = w.file.WriteString(text + "\n")
}
