package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// pty opens a pseudo terminal: what a person types goes into person, what a program opens is at path.
func pty(t *testing.T) (person *os.File, path string) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return person, fmt.Sprintf("/dev/pts/%d", n)
}

// open opens the program's side.
func open(t *testing.T, path string) terminal {
	t.Helper()
	tty, err := OpenTTY(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty.(terminal)
}

// isRaw says whether the terminal leaves everything to the program.
func isRaw(t *testing.T, tty terminal) bool {
	t.Helper()
	raw, err := tty.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var attributes *unix.Termios
	if err := raw.Control(func(fd uintptr) { attributes, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); err != nil {
		t.Fatal(err)
	}
	return attributes.Lflag&unix.ECHO == 0
}

// awaitRaw returns once the terminal leaves everything to the program, or when the test gives up.
func awaitRaw(ctx context.Context, t *testing.T, tty terminal) {
	t.Helper()
	for ctx.Err() == nil && !isRaw(t, tty) {
		time.Sleep(time.Millisecond)
	}
}

func typed(t *testing.T, person *os.File, text string) {
	t.Helper()
	if _, err := person.WriteString(text); err != nil {
		t.Error(err)
	}
}

func TestAPasswordIsReadWithoutEcho(t *testing.T) {
	for name, test := range map[string]struct{ typed, want string }{
		"a line":                {"secret\r", "secret"},
		"with a correction":     {"sexx\x7f\x7fcret\r", "secret"},
		"typed again":           {"wrong\x15secret\r", "secret"},
		"nothing":               {"\r", ""},
		"from a pasted newline": {"secret\n", "secret"},
		"beyond ASCII":          {"gehëim\r", "gehëim"},
	} {
		t.Run(name, func(t *testing.T) {
			person, path := pty(t)
			tty := open(t, path)
			typed(t, person, test.typed)
			got, err := tty.ReadPassword(t.Context(), "")
			if err != nil || string(got) != test.want {
				t.Errorf("got %q, %v", got, err)
			}
			if isRaw(t, tty) {
				t.Error("the terminal was left in raw mode")
			}
		})
	}
}

func TestAPromptEndsWithItsContextAndRestoresTheTerminal(t *testing.T) {
	_, path := pty(t)
	tty := open(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := tty.ReadPassword(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if isRaw(t, tty) {
		t.Error("the terminal was left in raw mode")
	}
	if _, err := tty.ReadLine(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCtrlCInAPromptInterrupts(t *testing.T) {
	person, path := pty(t)
	tty := open(t, path)
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
	defer stop()
	go func() {
		// Before the terminal is in raw mode, its driver would take the Ctrl-C for itself.
		awaitRaw(ctx, t, tty)
		typed(t, person, "half a pass\x03")
	}()
	if _, err := tty.ReadPassword(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ctx.Done()
}

func TestALineIsRead(t *testing.T) {
	person, path := pty(t)
	tty := open(t, path)
	typed(t, person, "yes\n")
	if got, err := tty.ReadLine(t.Context()); err != nil || got != "yes" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAnEndlessLineIsRefused(t *testing.T) {
	person, path := pty(t)
	tty := open(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		// Before the terminal is in raw mode, its driver holds one line of 4095 bytes and drops the rest.
		awaitRaw(ctx, t, tty)
		for range 6 {
			// The reader stops listening half-way.
			_, _ = person.WriteString(fmt.Sprintf("%01000d", 0))
		}
	}()
	if _, err := tty.ReadPassword(ctx, ""); err == nil || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestNoSizeWithoutATerminal(t *testing.T) {
	if w, h := terminalSize(-1); w != 0 || h != 0 {
		t.Errorf("got %d×%d", w, h)
	}
	if term.IsTerminal(-1) {
		t.Error("-1 is a terminal")
	}
}
