package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet/closure/run"
)

// Units starts programs that outlive the agent and its SSH channels.
type Units interface {
	// Start returns once the program was executed. A unit of that name must not run.
	Start(ctx context.Context, unit Unit) error
	// Running says whether a unit of that name runs.
	Running(ctx context.Context, name string) (bool, error)
	// Stop ends the unit and all of its processes. A unit that does not run is no error.
	Stop(ctx context.Context, name string) error
	// Kill is Stop without asking the processes first.
	Kill(ctx context.Context, name string) error
	// Failed returns the names of all units of the host that have failed or restart over and over.
	Failed(ctx context.Context) ([]string, error)
	// Starting says whether the host is still booting.
	Starting(ctx context.Context) (bool, error)
	// Detached says whether units have standard streams of their own; where not, the program has to leave ours by itself.
	Detached() bool
}

// Unit is a program and what bounds it.
type Unit struct {
	// Name ends in ".service".
	Name        string
	Description string
	Argv        []string
	Env         []string
	// Log is the file that standard output and error are appended to; empty leaves them to the system's log.
	Log string
	// MaxRuntime is the time after which it is ended; zero means never.
	MaxRuntime time.Duration
	// Standalone units run on when the host isolates another target, as emergency.target does.
	Standalone bool
	// Lasting units are not stopped when the host goes down, before its last moment. They are standalone, too.
	Lasting bool
	// Restart has it started again whenever it ends with another exit code than 0, however often that is.
	Restart bool
	// Vital processes are the last to be killed when memory runs out.
	Vital bool
	// StopTimeout is the time between being asked to end and being killed; zero means the service manager's.
	StopTimeout time.Duration
	// Once, unless zero, starts it once after that time, instead of now; where nothing but a service manager could do that, never.
	Once time.Duration
}

// Processes are [Units] as sessions of their own, for hosts without systemd and agents without root rights.
// It knows what it has started itself, and nothing of other processes.
type Processes struct {
	mu      sync.Mutex
	running map[string]child
}

type child struct {
	process *run.Process
	stop    context.CancelCauseFunc
}

var errStopped = errors.New("stopped on request")

// NewProcesses returns Units that start plain processes.
func NewProcesses() *Processes { return &Processes{running: make(map[string]child)} }

var _ Units = (*Processes)(nil)

// Start starts the program in a session of its own. Its standard input is /dev/null.
func (p *Processes) Start(ctx context.Context, unit Unit) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if unit.Once > 0 {
		return nil // whoever looks at the host next does what it would have done
	}
	if !hasEnded(p.running[unit.Name]) {
		return fmt.Errorf("start %q: it runs already", unit.Name)
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	process, err := run.Start(life, run.Cmd{
		Argv: unit.Argv, Env: unit.Env, ClearEnv: true, Dir: "/", NewSession: true, Grace: 10 * time.Second,
	})
	if err != nil {
		cancel(nil)
		return err
	}
	p.running[unit.Name] = child{process, cancel}
	go limitRuntime(process, unit, cancel)
	return nil
}

// limitRuntime ends the process when its time is over, as long as we live ourselves.
func limitRuntime(process *run.Process, unit Unit, cancel context.CancelCauseFunc) {
	defer cancel(nil)
	var over <-chan time.Time
	if unit.MaxRuntime > 0 {
		timer := time.NewTimer(unit.MaxRuntime)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-process.Done():
	case <-over:
		cancel(fmt.Errorf("end %q: it has run for %s", unit.Name, unit.MaxRuntime))
		<-process.Done()
	}
}

func hasEnded(c child) bool {
	if c.process == nil {
		return true
	}
	select {
	case <-c.process.Done():
		return true
	default:
		return false
	}
}

// Running knows the units that this value has started.
func (p *Processes) Running(_ context.Context, name string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !hasEnded(p.running[name]), nil
}

// Stop sends SIGTERM to the program's process group, and SIGKILL later.
func (p *Processes) Stop(ctx context.Context, name string) error {
	p.mu.Lock()
	c := p.running[name]
	p.mu.Unlock()
	if hasEnded(c) {
		return nil
	}
	c.stop(errStopped)
	select {
	case <-c.process.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill sends SIGKILL to all processes of the program's session.
func (p *Processes) Kill(ctx context.Context, name string) error {
	p.mu.Lock()
	c := p.running[name]
	p.mu.Unlock()
	if hasEnded(c) {
		return nil
	}
	killSession(c.process.PID)
	return p.Stop(ctx, name)
}

// Failed returns nothing: without a service manager nobody knows.
func (p *Processes) Failed(context.Context) ([]string, error) { return nil, nil }

// Starting is false: what nobody knows is not waited for.
func (p *Processes) Starting(context.Context) (bool, error) { return false, nil }

// Detached is false: a process begins with the streams that it was started with.
func (p *Processes) Detached() bool { return false }
