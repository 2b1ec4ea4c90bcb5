package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/term"
)

// OSEnv is the real environment of this process.
func OSEnv(version string) *Env {
	executable, err := os.Executable()
	if err != nil {
		executable = os.Args[0]
	}
	live := term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
	return &Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Executable: executable, Version: version,
		Interactive:   term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		StdinTerminal: term.IsTerminal(int(os.Stdin.Fd())),
		LiveStatus:    live, StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Color:   live && os.Getenv("NO_COLOR") == "",
		Size:    func() (int, int) { return terminalSize(int(os.Stderr.Fd())) },
		OpenTTY: func() (TTY, error) { return OpenTTY("/dev/tty") },
	}
}

// terminalSize is the size of a terminal, 0, 0 where it is none.
func terminalSize(fd int) (width, height int) {
	width, height, err := term.GetSize(fd)
	if err != nil {
		return 0, 0
	}
	return width, height
}

// terminal is a [TTY] on a device.
type terminal struct{ *os.File }

// OpenTTY opens a terminal device, for prompts.
func OpenTTY(path string) (TTY, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return terminal{f}, nil
}

// maxAnswer bounds what a person may type, in bytes.
const maxAnswer = 4 << 10

// The control characters that a terminal in raw mode leaves to us.
const (
	ctrlC     = 0x03
	ctrlD     = 0x04
	backspace = 0x08
	ctrlU     = 0x15
	del       = 0x7f
)

// ReadPassword reads in raw mode, so that nothing is echoed whatever is typed ahead. Ctrl-C interrupts the process as ever.
func (t terminal) ReadPassword(ctx context.Context, prompt string) ([]byte, error) {
	raw, err := t.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	var old *term.State
	var failed error
	if err := raw.Control(func(fd uintptr) { old, failed = term.MakeRaw(int(fd)) }); err != nil || failed != nil {
		return nil, fmt.Errorf("read password: %w", errors.Join(err, failed))
	}
	restore := func() error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = term.Restore(int(fd), old) })
		return errors.Join(err, failed)
	}
	if _, err := t.WriteString(prompt); err != nil {
		return nil, errors.Join(fmt.Errorf("ask on the terminal: %w", err), restore())
	}
	password, err := readInput(ctx, t.File, typePassword)
	return password, errors.Join(err, restore())
}

// ReadLine reads a line as the terminal edits it.
func (t terminal) ReadLine(ctx context.Context) (string, error) {
	line, err := readInput(ctx, t.File, typeLine)
	return string(line), err
}

// readInput feeds bytes to next until it says that the input has ended. A context that ends first wins, also
// where the device cannot be interrupted: what is typed then is lost.
func readInput(ctx context.Context, device *os.File, next func(line []byte, c byte) ([]byte, bool, error)) ([]byte, error) {
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := readBytes(device, next)
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		// A device without deadlines keeps its reader until it is closed.
		_ = device.SetReadDeadline(time.Unix(1, 0))
		return nil, context.Cause(ctx)
	}
}

func readBytes(r io.Reader, next func([]byte, byte) ([]byte, bool, error)) ([]byte, error) {
	line := make([]byte, 0, maxAnswer)
	var one [1]byte
	for {
		if _, err := r.Read(one[:]); err != nil {
			clear(line)
			return nil, fmt.Errorf("read from the terminal: %w", err)
		}
		var ended bool
		var err error
		if line, ended, err = next(line, one[0]); err != nil || ended {
			return line, err
		}
		if len(line) >= maxAnswer {
			clear(line)
			return nil, fmt.Errorf("read from the terminal: more than %d bytes", maxAnswer)
		}
	}
}

func typeLine(line []byte, c byte) ([]byte, bool, error) {
	if c == '\n' {
		return line, true, nil
	}
	return append(line, c), false, nil
}

// typePassword edits a password in raw mode.
func typePassword(line []byte, c byte) ([]byte, bool, error) {
	switch c {
	case '\r', '\n':
		return line, true, nil
	case ctrlC:
		clear(line)
		// The terminal would have sent this signal, had it not been in raw mode.
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			return nil, true, err
		}
		return nil, true, context.Canceled
	case ctrlD:
		if len(line) == 0 {
			return nil, true, io.EOF
		}
	case ctrlU:
		clear(line)
		return line[:0], false, nil
	case backspace, del:
		if n := len(line); n > 0 {
			line[n-1] = 0
			return line[:n-1], false, nil
		}
	default:
		return append(line, c), false, nil
	}
	return line, false, nil
}
