//go:build cluster

package cluster

import (
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEveryWayOfBecomingRoot(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, user, elevation string
		passwords             []string
		code                  int
		says                  string
	}{
		{"root needs none", "root", "auto", nil, 0, ""},
		{"sudo without a password", "sudoer", "auto", nil, 0, ""},
		{"sudo with the password", "asker", "sudo", []string{"correct horse"}, 0, ""},
		{"sudo with a wrong password", "asker", "sudo", []string{"wrong", "wrong", "wrong", "wrong", "wrong", "wrong"}, 3, "password"},
		{"doas without a password", "doasnopw", "doas", nil, 0, ""},
		{"doas with the password", "doas", "doas", []string{"correct horse"}, 0, ""},
		{"run0 with the password", "runner", "run0", []string{"correct horse"}, 0, ""},
		{"no sudo rights", "plain", "sudo", []string{"x", "x", "x", "x", "x", "x"}, 3, "plain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := take(t)
			text := "elevated: " + tt.name
			p := newProject(t, map[string]hostSpec{h.Name: {Content: text, Deploy: map[string]any{"user": tt.user, "elevation": tt.elevation}}})
			code, output := p.onTerminal(tt.passwords, helper, "deploy", "switch", "--yes")
			if code != tt.code || !strings.Contains(output, tt.says) {
				t.Fatalf("exit code %d, want %d and %q\n%s", code, tt.code, tt.says, output)
			}
			if strings.Contains(output, "correct horse") {
				t.Error("the password was echoed")
			}
			if got := content(t, h); (got == text) != (tt.code == 0) {
				t.Errorf("the host holds %q", got)
			}
		})
	}
}

// onTerminal runs a command on a terminal of its own and types the answers at its prompts for passwords and for values of secrets.
func (p *project) onTerminal(answers []string, argv ...string) (code int, output string) {
	p.t.Helper()
	master, slave := openPTY(p.t)
	defer master.Close()
	cmd := p.command(p.ctx(), argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	slave.Close()
	var seen strings.Builder
	buffer := make([]byte, 4096)
	asked := 0
	for {
		n, err := master.Read(buffer)
		seen.Write(buffer[:n])
		prompts := 0
		for _, prompt := range []string{"password for", "(not shown):", "the same again:"} {
			prompts += strings.Count(strings.ToLower(seen.String()), prompt)
		}
		if prompts > asked && asked < len(answers) {
			if _, err := io.WriteString(master, answers[asked]+"\n"); err != nil {
				p.t.Fatal(err)
			}
			asked++
		}
		if err != nil { // EIO once the last slave is closed
			break
		}
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), seen.String()
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
