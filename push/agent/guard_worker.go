package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/push/guard"
)

const (
	// stageWorker is the number of the worker that writes boot entries for a staged system. The state machine counts its own from 1.
	stageWorker = 0
	// workerExtra is what a worker's unit may take longer than its guard gives it: the guard ends it first, as long as there is one.
	workerExtra = time.Minute
	// workerGrace is how long switch-to-configuration has to end by itself once it is asked to.
	workerGrace = 5 * time.Second
	// killPatience is how long killed processes may take to be gone.
	killPatience = 30 * time.Second
	// workersBack is how many earlier workers are made sure to be gone before another one is started.
	workersBack = 3
	// A worker's result is looked for often at first, since most activations are short, and less often later.
	quickLook, slowLook, slowAfter = 10 * time.Millisecond, 100 * time.Millisecond, 5 * time.Second
	// unitLook is how often a worker's unit is looked at.
	unitLook = time.Second
)

// program is what a worker runs: switch-to-configuration of a system.
type program struct {
	System string     `json:"system"`
	Verb   guard.Verb `json:"verb"`
	// NoCheck leaves out the checks before the switch: they may forbid the way back.
	NoCheck bool `json:"noCheck,omitempty"`
	// Online says that somebody deploys: see online.go.
	Online bool `json:"online,omitempty"`
}

// ending is what a worker leaves.
type ending struct {
	Exit   int    `json:"exit"`
	Detail string `json:"detail,omitempty"`
}

func workerUnit(txn string, number int) string {
	return fmt.Sprintf("fleet-switch-%s-%d.service", txn, number)
}

func (h *Host) workerFile(txn, what string, number int) string {
	return filepath.Join(h.txnDir(txn), fmt.Sprintf("%s-%d", what, number))
}

const (
	workerOrder  = "worker"
	workerAlive  = "alive"
	workerEnding = "result"
)

// runWorker runs the program of an effect to its end.
func (g *guardian) runWorker(ctx context.Context, e guard.Effect, s guard.State) (guard.Event, bool) {
	for number := max(0, e.Worker-workersBack); number < e.Worker; number++ {
		if err := g.host.killWorker(ctx, g.txn(), number); err != nil {
			g.say("end worker %d: %v", number, err)
		}
	}
	// Somebody else's switch-to-configuration would make ours fail at once.
	if lock, err := g.host.lockSwitch(ctx, switchLockPatience); err == nil {
		_ = lock.Close()
	}
	back := s.Phase == guard.RollingBack
	exit, detail := g.runProgram(ctx, program{System: e.System, Verb: e.Verb, NoCheck: back, Online: e.Verb == guard.VerbTest && !back}, e.Worker, s.Policy)
	return guard.Event{Kind: guard.WorkerEnded, Worker: e.Worker, Exit: exit, Detail: detail}, ctx.Err() == nil
}

// runProgram starts a worker and waits for its end. A worker that was not started, or was killed, has -1.
func (g *guardian) runProgram(ctx context.Context, p program, number int, policy guard.Policy) (int, string) {
	h, txn := g.host, g.txn()
	if number == stageWorker {
		if err := h.killWorker(ctx, txn, number); err != nil {
			return -1, oneLine(err.Error())
		}
		_ = os.Remove(h.workerFile(txn, workerEnding, number))
	}
	if err := writeJSON(h.workerFile(txn, workerOrder, number), p); err != nil {
		return -1, oneLine(err.Error())
	}
	if p.Verb == guard.VerbBoot {
		if err := h.clearLeftovers(); err != nil {
			g.say("clear up after an interrupted installation of the boot loader: %v", err)
		}
	}
	limit := max(policy.Switch, policy.Rollback) + workerExtra
	err := h.Units.Start(ctx, Unit{
		Name: workerUnit(txn, number), Description: fmt.Sprintf("switch-to-configuration %s of transaction %s", p.Verb, txn),
		Argv: []string{g.opening().Helper, "guard-worker", "--txn", txn, "--number", strconv.Itoa(number)}, Env: h.environment(),
		Log: filepath.Join(h.txnDir(txn), guardLog), MaxRuntime: limit, Standalone: true, StopTimeout: 2 * workerGrace,
	})
	faultPoint(h, "worker started")
	if err != nil && !h.workerRuns(ctx, txn, number) {
		return -1, oneLine(err.Error())
	}
	e, _ := g.awaitWorker(ctx, number)
	if ctx.Err() != nil && number == stageWorker {
		// Nobody else would end it.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
		defer cancel()
		_ = h.killWorker(stop, txn, number)
	}
	return e.Exit, e.Detail
}

// awaitWorker waits until the worker has ended.
func (g *guardian) awaitWorker(ctx context.Context, number int) (guard.Event, bool) {
	e := guard.Event{Kind: guard.WorkerEnded, Worker: number, Exit: -1}
	begun, looked := time.Now(), time.Now()
	for {
		var ended bool
		if e.Exit, e.Detail, ended = g.host.ending(g.txn(), number); ended {
			return e, true
		}
		if time.Since(looked) > unitLook {
			looked = time.Now()
			if !g.host.workerRuns(ctx, g.txn(), number) && ctx.Err() == nil {
				// Its last word may have come between the two looks.
				e.Exit, e.Detail, _ = g.host.ending(g.txn(), number)
				return e, true
			}
		}
		pause := quickLook
		if time.Since(begun) > slowAfter {
			pause = slowLook
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return e, false
		}
	}
}

// ending reads what a worker has left.
func (h *Host) ending(txn string, number int) (exit int, detail string, ended bool) {
	var e ending
	if readJSON(h.workerFile(txn, workerEnding, number), &e) != nil {
		return -1, "", false
	}
	return e.Exit, e.Detail, true
}

func (h *Host) workerResult(txn string, number int) (int, bool) {
	exit, _, ended := h.ending(txn, number)
	return exit, ended
}

// workerRuns says whether a worker's unit or process is there.
func (h *Host) workerRuns(ctx context.Context, txn string, number int) bool {
	if busy, err := held(h.workerFile(txn, workerAlive, number)); err == nil && busy {
		return true
	}
	running, err := h.Units.Running(ctx, workerUnit(txn, number))
	return err == nil && running
}

// killWorker kills all that a worker has started, and returns when that is gone. The worker does not begin after that.
func (h *Host) killWorker(ctx context.Context, txn string, number int) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	err := errors.Join(h.forbidWorker(txn, number), h.Units.Kill(ctx, workerUnit(txn, number)))
	// Where no service manager knows it any more, its file says who it is.
	alive := h.workerFile(txn, workerAlive, number)
	for {
		busy, heldErr := held(alive)
		if heldErr != nil || !busy {
			return errors.Join(err, heldErr)
		}
		if text, readErr := readBounded(alive, 32); readErr == nil {
			if pid, convErr := strconv.Atoi(string(text)); convErr == nil && pid > 1 {
				if p, statErr := processOf(pid); statErr == nil {
					killSession(p.session)
				}
			}
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("end %q: %w", workerUnit(txn, number), ctx.Err())
		}
	}
}

// forbidWorker leaves the exit code of a worker that has none. Its guard may have died just after it had started the process, which nobody finds before it
// has its lock: it looks for an exit code once it has that, so it either finds this one, or is found.
func (h *Host) forbidWorker(txn string, number int) error {
	if _, err := os.Stat(h.workerFile(txn, workerOrder, number)); err != nil {
		return nil // it was never to begin
	}
	if _, _, ended := h.ending(txn, number); ended {
		return nil
	}
	return writeJSON(h.workerFile(txn, workerEnding, number), ending{Exit: -1, Detail: "it was killed"})
}

// RunGuardWorker runs the one program that the guard has ordered for this number, and leaves its exit code. It is run once: a worker that finds an exit code
// does nothing.
func RunGuardWorker(ctx context.Context, host *Host, txn string, number int) error {
	if !txnForm().MatchString(txn) || number < 0 {
		return fmt.Errorf("run worker: %.60q is no transaction", txn)
	}
	if !host.Units.Detached() {
		if err := detach(filepath.Join(host.txnDir(txn), guardLog)); err != nil {
			return err
		}
	}
	alive, err := lockNow(host.workerFile(txn, workerAlive, number), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	defer alive.Close()
	if _, err := alive.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	if _, _, ended := host.ending(txn, number); ended {
		return nil
	}
	var p program
	if err := readJSON(host.workerFile(txn, workerOrder, number), &p); err != nil {
		return err
	}
	log, err := host.openLog(txn)
	if err != nil {
		return err
	}
	defer log.file.Close()
	end := host.runSwitch(ctx, p, log)
	if ctx.Err() != nil {
		return context.Cause(ctx) // it was ended, so it has not ended
	}
	faultPoint(host, "worker done")
	return writeJSON(host.workerFile(txn, workerEnding, number), end)
}

// runSwitch runs switch-to-configuration.
func (h *Host) runSwitch(ctx context.Context, p program, log *switchWriter) ending {
	argv := []string{switchProgram(p.System), string(p.Verb)}
	log.say("%s %s", argv[0], argv[1])
	env := h.switchEnvironment()
	if p.NoCheck {
		env = append(env, "NIXOS_NO_CHECK=1")
	}
	if p.Online {
		env = append(env, onlineVariable+"=1")
	}
	err := h.Runner.Run(ctx, run.Cmd{Argv: argv, Dir: "/", Env: env, ClearEnv: true, Stdout: log, Stderr: log, Grace: workerGrace})
	log.flush()
	exit, ok := errors.AsType[*run.ExitError](err)
	if p.Online && p.Verb == guard.VerbTest && (err == nil || ok && exit.Code == unitsFailed) {
		h.startOnline(ctx, p.System, log)
	}
	switch {
	case err == nil:
		return ending{}
	case ok && exit.Signal != "":
		return ending{Exit: -1, Detail: "it was killed by " + exit.Signal}
	case ok:
		log.say("%s", exitMeaning(string(p.Verb), exit.Code))
		return ending{Exit: exit.Code}
	}
	return ending{Exit: -1, Detail: oneLine(err.Error())}
}

// exitMeaning knows the exit codes of switch-to-configuration-ng and of its Perl ancestor.
func exitMeaning(verb string, code int) string {
	meaning := map[int]string{
		1:   "it refused, or could not finish",
		2:   "an activation script failed",
		4:   "units have failed",
		11:  "it could not get its lock, or lost logind",
		100: "it needs a reboot: systemd's interface has changed; deploy with boot or reboot",
		101: "it crashed",
	}[code]
	if meaning == "" {
		meaning = "it failed"
	}
	return fmt.Sprintf("switch-to-configuration %s: %s (exit status %d)", verb, meaning, code)
}

// switchEnvironment leaves out all NIXOS_ variables: none that the agent may have got shall skip a check.
func (h *Host) switchEnvironment() []string {
	env := h.environment()
	archive := filepath.Join(h.Run, "current-system", "sw", "lib", "locale", "locale-archive")
	if _, err := os.Stat(archive); err == nil {
		env = append(env, "LOCALE_ARCHIVE="+archive)
	}
	return env
}
