//go:build vm

package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// bootPatience is how long a machine may take from power-on, or from a reboot, to its shell. Without KVM that is seconds, on a busy machine many.
	bootPatience    = 120 * time.Second
	commandPatience = 60 * time.Second
)

// machine is a virtual machine with disks of its own.
type machine struct {
	// t is the test that uses it now.
	t     *testing.T
	image image
	dir   string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
	mu    sync.Mutex
	log   []string
	// boots counts them, and cpu is what they took of a processor. The time that passes says more of what else the machine does.
	boots int
	cpu   time.Duration
	// since is when the present boot began.
	since time.Time
}

// newMachine copies the disks of an image.
func newMachine(t *testing.T, m image) *machine {
	t.Helper()
	v := &machine{t: t, image: m, dir: t.TempDir()}
	disks, err := filepath.Glob(filepath.Join(m.dir, "*.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, disk := range disks {
		if err := run("cp", "--sparse=always", "--reflink=auto", disk, v.dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		v.cut()
		t.Logf("%d boots, %.0f s of a processor", v.boots, v.cpu.Seconds())
		if t.Failed() {
			v.mu.Lock()
			defer v.mu.Unlock()
			t.Logf("the console:\n%s", strings.Join(v.log[max(0, len(v.log)-150):], "\n"))
		}
	})
	return v
}

// power turns it on.
func (v *machine) power() {
	v.t.Helper()
	v.since = time.Now()
	v.launch()
}

// launch starts the machine's process. It ends when the guest reboots, and is started anew: a reset in place is slow without KVM, since what was
// translated of the kernel lies where the loader writes.
func (v *machine) launch() {
	v.t.Helper()
	disk := func(name string) []string {
		return []string{"-drive", "if=virtio,format=raw,cache=none,file=" + filepath.Join(v.dir, name)}
	}
	argv := []string{"-nodefaults", "-no-reboot", "-accel", "tcg", "-m", "256", "-nic", "none", "-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio"}
	if v.image.efi {
		argv = append(argv,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,unit=1,format=raw,file="+filepath.Join(v.dir, "vars.img"))
		argv = append(argv, disk("esp.img")...)
		argv = append(argv, disk("root.img")...)
	} else {
		argv = append(argv, disk("disk.img")...)
	}
	v.cmd = exec.Command("qemu-system-x86_64", argv...)
	stdin, err := v.cmd.StdinPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	v.cmd.Stderr = v.cmd.Stdout
	if err := v.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.boots++
	v.stdin, v.lines = stdin, make(chan string, 10000)
	go v.read(stdout, v.lines)
}

// read takes the console's lines; those of systems begin with "VM ", maybe after what the firmware has left in the line.
func (v *machine) read(out io.Reader, lines chan<- string) {
	defer close(lines)
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := strings.TrimRight(scanner.Text(), "\r")
		v.mu.Lock()
		v.log = append(v.log, line)
		v.mu.Unlock()
		lines <- line
	}
}

// cut is a loss of power: what the guest has in memory is gone.
func (v *machine) cut() {
	if v.cmd == nil {
		return
	}
	_ = v.cmd.Process.Kill() // it may have ended
	v.ended()
	v.cmd = nil
	for range v.lines { // its end
	}
}

// ended takes leave of a process that has ended, or was ended.
func (v *machine) ended() {
	_ = v.cmd.Wait() // neither a reset nor a loss of power is a failure
	v.cpu += v.cmd.ProcessState.UserTime() + v.cmd.ProcessState.SystemTime()
}

// resets is how often a machine may reboot while one thing is waited for.
const resets = 4

// next returns the next line; after a reset the first one of the next boot.
func (v *machine) next(timer *time.Timer, left *int) (string, error) {
	for {
		select {
		case line, ok := <-v.lines:
			if ok {
				return line, nil
			}
			if *left--; *left < 0 {
				return "", errors.New("the machine reboots again and again")
			}
			v.ended()
			v.launch()
		case <-timer.C:
			return "", errors.New("nothing came in time")
		}
	}
}

// await returns the rest of the next line with the prefix, and the lines before it.
func (v *machine) await(prefix string, patience time.Duration) (string, []string, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var before []string
	left := resets
	for {
		line, err := v.next(timer, &left)
		if err != nil {
			return "", before, fmt.Errorf("wait for %q: %w", prefix, err)
		}
		if i := strings.Index(line, prefix); i >= 0 {
			return strings.TrimSpace(line[i+len(prefix):]), before, nil
		}
		before = append(before, line)
	}
}

// up waits for a system, and returns which one it is and how long that took.
func (v *machine) up() (string, time.Duration) {
	v.t.Helper()
	system, _, err := v.await("VM up ", bootPatience)
	if err != nil {
		v.t.Fatal(err)
	}
	return system, time.Since(v.since)
}

// expectUp waits for a system that must be the one.
func (v *machine) expectUp(wanted string) time.Duration {
	v.t.Helper()
	system, took := v.up()
	if system != wanted {
		v.t.Fatalf("the machine has booted %s, not %s", system, wanted)
	}
	return took
}

// start begins a command without waiting for its end.
func (v *machine) start(command string) {
	v.t.Helper()
	if _, err := io.WriteString(v.stdin, command+"\n"); err != nil {
		v.t.Fatal(err)
	}
}

// try runs a command.
func (v *machine) try(command string) (string, error) {
	v.t.Helper()
	v.start(command)
	code, out, err := v.await("VM exit ", commandPatience)
	if err == nil && code != "0" {
		err = fmt.Errorf("%q ended with %s: %s", command, code, strings.Join(out, "\n"))
	}
	return strings.Join(out, "\n"), err
}

// do runs a command that must succeed.
func (v *machine) do(command string) string {
	v.t.Helper()
	out, err := v.try(command)
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// reboot goes down as a host does.
func (v *machine) reboot() {
	v.t.Helper()
	v.since = time.Now()
	v.start("sync; reboot -f")
}

// recycle cuts the power and turns it on again.
func (v *machine) recycle() {
	v.t.Helper()
	v.cut()
	v.power()
}

// cutAt runs a command until the machine says that it has come to a moment, cuts the power there, and turns it on again. It returns the moment,
// and nothing where the command has ended before that, or the machine has booted another system.
func (v *machine) cutAt(command string) string {
	v.t.Helper()
	v.start(command)
	timer := time.NewTimer(commandPatience)
	defer timer.Stop()
	left := resets
	for {
		line, err := v.next(timer, &left)
		if err != nil {
			v.t.Fatalf("%s: %v", command, err)
		}
		if _, moment, ok := strings.Cut(line, "VM cut "); ok {
			v.recycle()
			return moment
		}
		if strings.Contains(line, "VM exit ") {
			return ""
		}
	}
}

// require says whether what these tests need is installed.
func require() error {
	for _, path := range []string{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "/usr/lib/grub/i386-pc/boot.img", linux, "/bin/busybox"} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run checks/setup vm", err)
		}
	}
	return nil
}
