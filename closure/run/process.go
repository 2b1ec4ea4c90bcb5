package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultGrace     = 5 * time.Second
	defaultMaxOutput = 64 << 20
	// lastRead is how long the output of a killed group may take to reach its end.
	lastRead = time.Second
	// lastKill is how long a process may take to end after SIGKILL.
	lastKill = 30 * time.Second
)

// Run runs cmd to its end. The error is an [*ExitError] where the process failed, a [*NotFoundError] where there is no such
// program, and wraps ctx.Err() where ctx ended first.
func Run(ctx context.Context, cmd Cmd) error {
	process, err := Start(ctx, cmd)
	if err != nil {
		return err
	}
	return process.Wait()
}

// Output is [Run], and returns what the process wrote to its standard output. More than
// [Cmd.MaxOutput] bytes are an error that wraps an [*OutputLimitError].
func Output(ctx context.Context, cmd Cmd) ([]byte, error) {
	limit := cmd.MaxOutput
	if limit <= 0 {
		limit = defaultMaxOutput
	}
	stdout := &boundedBuffer{limit: limit}
	cmd.Stdout = stdout
	err := Run(ctx, cmd)
	return stdout.data.Bytes(), err
}

type boundedBuffer struct {
	data  bytes.Buffer
	limit int64
}

func (b *boundedBuffer) Write(data []byte) (int, error) {
	if int64(b.data.Len())+int64(len(data)) > b.limit {
		return 0, &OutputLimitError{Limit: b.limit}
	}
	return b.data.Write(data)
}

// Process is a running process. Its methods may be called from several goroutines.
type Process struct {
	// PID is the process, and the number of its process group.
	PID int
	// Stdin is set with [Cmd.PipeStdin]. Closing it is the end of the input.
	Stdin io.WriteCloser
	// Stdout and Stderr are set with [Cmd.PipeStdout] and [Cmd.PipeStderr]. They must be read to their end or closed;
	// they end soon after the process, even where a process outside of its group still holds them.
	Stdout, Stderr io.ReadCloser

	argv  []string
	cmd   *exec.Cmd
	grace time.Duration
	// terminal is lent to the process.
	terminal *os.File
	streams  streams
	done     chan struct{}
	err      error
}

// Start starts cmd. Cancelling ctx ends the process, as described at the package; the caller must call
// [Process.Wait], or wait for [Process.Done], before it relies on the process being gone.
func Start(ctx context.Context, cmd Cmd) (*Process, error) {
	if len(cmd.Argv) == 0 || cmd.Argv[0] == "" {
		return nil, errors.New("run: no program given")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run %q: %w", cmd.Argv[0], err)
	}
	child, err := newCommand(cmd)
	if err != nil {
		return nil, err
	}
	p := &Process{argv: cmd.Argv, cmd: child, grace: cmd.Grace, terminal: cmd.Terminal, done: make(chan struct{})}
	if p.grace <= 0 {
		p.grace = defaultGrace
	}
	if err := p.streams.connect(cmd, p); err != nil {
		p.streams.closeAll()
		return nil, fmt.Errorf("run %q: %w", cmd.Argv[0], err)
	}
	if err := startChild(child, cmd); err != nil {
		p.streams.closeAll()
		takeBack(cmd.Terminal)
		return nil, fmt.Errorf("run %q: %w", cmd.Argv[0], err)
	}
	p.PID = child.Process.Pid
	p.streams.begin()
	go p.supervise(ctx)
	return p, nil
}

func newCommand(cmd Cmd) (*exec.Cmd, error) {
	program, err := exec.LookPath(cmd.Argv[0])
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &NotFoundError{Program: cmd.Argv[0]}
	case err != nil:
		return nil, fmt.Errorf("run %q: %w", cmd.Argv[0], err)
	}
	child := exec.Command(program, cmd.Argv[1:]...)
	child.Args[0] = cmd.Argv[0]
	child.Dir = cmd.Dir
	child.ExtraFiles = cmd.ExtraFiles
	child.Env = append(child.Environ(), cmd.Env...)
	if cmd.ClearEnv {
		child.Env = append([]string{}, cmd.Env...)
	}
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: !cmd.NewSession, Setsid: cmd.NewSession}
	if err := lend(cmd.Terminal, child.SysProcAttr); err != nil {
		return nil, fmt.Errorf("run %q: %w", cmd.Argv[0], err)
	}
	return child, nil
}

// Done is closed once the process has ended, its group is gone and its output was read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns once [Process.Done] is closed. The error is that of [Run].
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// supervise owns the process from its start to its end.
//
// The process stays unreaped until its group has been killed: its number cannot
// become another group's in the meantime.
func (p *Process) supervise(ctx context.Context) {
	defer close(p.done)
	defer takeBack(p.terminal)
	exited := make(chan struct{})
	go func() {
		if p.terminal != nil {
			keepRunning(p.PID)
		}
		waitExited(p.PID)
		close(exited)
	}()
	var stop error
	select {
	case <-exited:
	case <-ctx.Done():
		stop = stopError(ctx)
	case stop = <-p.streams.failed:
	}
	deadline := time.NewTimer(p.grace)
	defer deadline.Stop()
	if stop != nil {
		p.signal(syscall.SIGTERM)
		// A stopped process acts on SIGTERM only when it continues.
		p.signal(syscall.SIGCONT)
		select {
		case <-exited:
		case <-deadline.C:
			deadline.Reset(0)
		}
	}
	cancelled := ctx.Done()
	if stop != nil {
		cancelled = nil
	}
	select {
	case <-p.streams.drained:
	case <-deadline.C:
	case <-cancelled:
	}
	p.signal(syscall.SIGKILL)
	p.err = p.reap(exited, stop)
}

// reap waits for the end that SIGKILL brings. A process that hangs in the kernel does not end even then; it is left to itself.
func (p *Process) reap(exited <-chan struct{}, stop error) error {
	select {
	case <-exited:
	case <-time.After(lastKill):
		go func() {
			<-exited
			_ = p.cmd.Wait()
		}()
		p.streams.finish(0)
		return errors.Join(stop, fmt.Errorf("run %q: process %d does not end after SIGKILL", p.argv[0], p.PID))
	}
	state := p.cmd.Wait()
	p.streams.finish(lastRead)
	return p.result(stop, state)
}

func stopError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// signal reaches the whole group. It fails only where the group is gone already.
func (p *Process) signal(s syscall.Signal) { _ = syscall.Kill(-p.PID, s) }

func (p *Process) result(stop, state error) error {
	if stop == nil {
		select {
		case stop = <-p.streams.failed:
		default:
		}
	}
	if stop != nil {
		return fmt.Errorf("run %q: %w", p.argv[0], stop)
	}
	var exit *exec.ExitError
	if !errors.As(state, &exit) {
		return state
	}
	e := &ExitError{Argv: p.argv, Code: exit.ExitCode(), StderrTail: p.streams.tail.String()}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = unix.SignalName(status.Signal())
	}
	return e
}
