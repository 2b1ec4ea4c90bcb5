package push

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	"fleet/push/transport"
)

//go:embed script/elevated.sh
var elevatedScript string

const (
	// typingPause is how soon polkit's text agent can be expected to take what is typed, and swallowedAfter how long it may take to
	// check that: PAM pauses for about two seconds after a wrong password.
	typingPause    = 400 * time.Millisecond
	swallowedAfter = 15 * time.Second
)

var (
	// errTimeout says that a program on the host was silent for too long.
	errTimeout = errors.New("no answer in time")
	// errSwallowed says that nothing happened after a password was sent. polkit's text agent discards what was typed before it has turned the
	// terminal's echo off, which it does after its prompt.
	errSwallowed = errors.New("no answer to the password")
	// errNobody says that a password is needed and nobody can be asked.
	errNobody = errors.New("a password is needed, and there is no terminal to ask for it")
)

// attempt is one run of the elevated script.
type attempt struct {
	kind string
	// tool is the elevating program's path on the host, empty for none.
	tool string
	user string
	// args follow the marker in the script's arguments.
	args []string
	pty  bool
	// password returns a user's password, the login user's where user is empty; the caller zeroes it.
	password func(ctx context.Context, user string) ([]byte, error)
	// typing is the time from a prompt until a password is sent.
	typing time.Duration
	// elevate bounds each wait before the script runs, start what follows, closing the wait for an agent that is not wanted any more.
	elevate, start, closing time.Duration
}

// outcome is what a run of the elevated script said.
type outcome struct {
	// Ready is the agent's line, empty where the script asks for the helper.
	Ready string
	// Helper is where the helper lies on the host.
	Helper string
}

// command is the line that the login shell runs.
func (a attempt) command(prompt, marker string) string {
	var argv []string
	switch a.kind {
	case elevationSudo:
		argv = []string{"env", "LC_ALL=C", a.tool, "-S", "-H", "-p", prompt, "--"}
	case elevationDoas:
		argv = []string{"env", "LC_ALL=C", a.tool}
	case elevationRun0:
		// Without an own background run0 prints no colours around the script's lines.
		argv = []string{"env", "LC_ALL=C", a.tool, "--background=", "--"}
	}
	argv = append(argv, "/bin/sh", "-c", compact(elevatedScript), "fleet", marker)
	return transport.Quote(append(argv, a.args...)...)
}

// run starts the script through the elevating program and sees it to its end. The channel is gone when it returns.
func (a attempt) run(ctx context.Context, conn transport.Conn) (outcome, error) {
	prompt, marker := randomName("fleet-password-"), randomName("fleet-")
	startCtx, cancelStart := context.WithTimeout(ctx, a.elevate)
	defer cancelStart()
	ch, err := conn.Start(startCtx, a.command(prompt, marker), transport.ChannelOptions{PTY: a.pty})
	if err != nil {
		return outcome{}, err
	}
	defer ch.Close() // its error says nothing that the output did not
	machine := newElevation(a.kind, a.user, prompt, marker, a.pty)
	ended, err := a.drive(ctx, ch, machine)
	if err != nil {
		return outcome{}, err
	}
	return a.result(ch, machine, ended)
}

// drive feeds the machine until the agent is ready, the script has ended, or something is wrong. It reports whether the output came to its end.
func (a attempt) drive(ctx context.Context, ch transport.Channel, machine *elevation) (bool, error) {
	pieces, stop := make(chan piece), make(chan struct{})
	defer close(stop)
	go pump(ch, false, pieces, stop)
	go pump(ch.Stderr(), true, pieces, stop)
	timer := time.NewTimer(a.elevate)
	defer timer.Stop()
	phase, cancelled := machine.phase(), ctx.Done()
	for open := 2; open > 0 && machine.Ready == ""; {
		select {
		case <-cancelled:
			if !machine.Started {
				return false, context.Cause(ctx)
			}
			// The agent may be starting right now: its line is waited for, so that the caller can end it.
			cancelled = nil
			timer.Reset(a.closing)
		case <-timer.C:
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, a.late(machine)
		case p := <-pieces:
			if p.data == nil {
				open--
				continue
			}
			if err := a.answer(ctx, ch, machine, p); err != nil {
				return false, err
			}
			if now := machine.phase(); now != phase {
				phase = now
				timer.Reset(a.limit(machine))
			}
		}
	}
	return machine.Ready == "", nil
}

func (a attempt) limit(machine *elevation) time.Duration {
	switch {
	case machine.Started:
		return a.start
	case machine.asked && a.kind == elevationRun0:
		return min(a.elevate, swallowedAfter)
	}
	return a.elevate
}

func (a attempt) late(machine *elevation) error {
	limit := a.limit(machine)
	if machine.Started || a.kind == elevationNone {
		return &BootstrapError{Reason: fmt.Sprintf("nothing within %s", limit), Output: machine.Output()}
	}
	if machine.asked && a.kind == elevationRun0 {
		return errSwallowed
	}
	return fmt.Errorf("%w (%s): %w: %s", errRefused, limit, errTimeout, machine.Output())
}

// answer gives one piece of output to the machine and does what it wants.
func (a attempt) answer(ctx context.Context, ch transport.Channel, machine *elevation, p piece) error {
	request := machine.Stdout
	if p.stderr {
		request = machine.Stderr
	}
	r := request(p.data)
	switch {
	case r.Err != nil && (errors.Is(r.Err, errPassword) || errors.Is(r.Err, errRefused)):
		return r.Err
	case r.Err != nil:
		return &BootstrapError{Reason: r.Err.Error(), Output: machine.Output()}
	case r.Answer != "":
		_, err := io.WriteString(ch, r.Answer)
		return unlessEnded(err)
	case r.Password:
		return unlessEnded(a.sendPassword(ctx, ch, r.As))
	}
	return nil
}

// unlessEnded is an error of writing to a command, nil where that takes no more input: how it has ended says why.
func unlessEnded(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// sendPassword gets the password and sends it in one piece, and leaves no copy of it.
func (a attempt) sendPassword(ctx context.Context, ch io.Writer, user string) error {
	pause := time.After(a.typing)
	password, err := a.password(ctx, user)
	if err != nil {
		return err
	}
	select {
	case <-pause:
	case <-ctx.Done():
		clear(password)
		return context.Cause(ctx)
	}
	line := make([]byte, len(password)+1)
	copy(line, password)
	line[len(password)] = '\n'
	clear(password)
	defer clear(line)
	_, err = ch.Write(line)
	return err
}

// result turns the end of an attempt into what its caller acts on.
func (a attempt) result(ch transport.Channel, machine *elevation, ended bool) (outcome, error) {
	if !ended {
		a.leave(ch)
		return outcome{Ready: machine.Ready, Helper: machine.Values["helper"]}, nil
	}
	var exit *transport.ExitError
	if err := ch.Wait(); err != nil && !errors.As(err, &exit) {
		return outcome{}, err
	}
	if machine.Values["need"] == "helper" {
		return outcome{}, errNeedHelper
	}
	if !machine.Started && a.kind != elevationNone {
		return outcome{}, machine.Ended()
	}
	code := machine.Values["error"]
	return outcome{}, &BootstrapError{Reason: scriptFailure(code), Output: machine.Output(), Unable: machine.Started && code != "root" && code != "hash"}
}

// leave lets the elevating program end by itself for a moment: some wait for their child and would report a hangup in the host's log.
func (a attempt) leave(ch transport.Channel) {
	const patience = 3 * time.Second
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, ch) // the agent runs, what else is printed does not matter
		_ = ch.Wait()
	}()
	// A channel that does not take the end of its input is closed all the same.
	_ = ch.CloseWrite()
	select {
	case <-done:
	case <-time.After(patience):
	}
}

// scriptFailure says what the elevated script's error codes mean.
func scriptFailure(code string) string {
	if text, ok := map[string]string{
		"nix":    "the host has no nix-store program in root's path",
		"mktemp": "the host cannot make a temporary folder in /tmp",
		"copy":   "the host cannot copy the helper",
		"root":   "the host cannot make a GC root for the helper in /nix/var/nix/gcroots/fleet",
		"hash":   "what arrived is not the helper that was sent",
		"import": "the host's Nix refused the helper",
	}[code]; ok {
		return text
	}
	return "the helper ended before the agent was ready"
}

// piece is a part of a channel's output; nil data is its end.
type piece struct {
	stderr bool
	data   []byte
}

func pump(r io.Reader, stderr bool, to chan<- piece, stop <-chan struct{}) {
	for {
		buf := make([]byte, 4<<10)
		n, err := r.Read(buf)
		if n > 0 && !send(to, piece{stderr, buf[:n]}, stop) {
			return
		}
		if err != nil {
			send(to, piece{stderr: stderr}, stop)
			return
		}
	}
}

func send(to chan<- piece, p piece, stop <-chan struct{}) bool {
	select {
	case to <- p:
		return true
	case <-stop:
		return false
	}
}
