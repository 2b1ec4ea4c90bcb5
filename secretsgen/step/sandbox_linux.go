package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fleet/closure/run"
)

// sandboxDir is the private folder as a generator in a sandbox sees it.
const sandboxDir = "/fleet"

const storeDir = "/nix/store"

// sandboxHint is the remedy where there is no sandbox.
const sandboxHint = `install bubblewrap, or, for a generator that you trust, set sandbox = "none" in it`

// runSandboxed runs the generator under bubblewrap.
func (j *job) runSandboxed(ctx context.Context, p *place, out *printed) error {
	status, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer status.Close()
	cmd := run.Cmd{
		Argv: append(append([]string{j.Bubblewrap}, j.sandboxArgs(p.dir)...), "--", j.Request.Program), Dir: p.dir, ClearEnv: true,
		Env: append(j.env(sandboxDir), "PWD="+sandboxDir), Stdout: out, Stderr: out, ExtraFiles: []*os.File{write},
		Grace: programGrace, NewSession: true, Isolation: &run.Isolation{DieWithParent: true},
	}
	if j.switches() {
		cmd.Isolation.As = &run.IDs{UID: j.User.UID, GID: j.User.GID, Groups: j.User.Groups}
	}
	process, err := run.Start(ctx, cmd)
	_ = write.Close()
	if err != nil {
		return &noSandboxError{cause: err}
	}
	said := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(status, 64<<10))
		said <- data
	}()
	err = process.Wait()
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Whoever holds the other end of the pipe is bwrap itself, and it has ended.
	_ = status.SetReadDeadline(time.Now().Add(time.Second))
	if hasRun(<-said) {
		return err
	}
	return refusal(out)
}

// hasRun says whether bwrap has reported how the program ended, which it does only where the program was started (bwrap(1), --json-status-fd).
func hasRun(status []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(status))
	for {
		var message struct {
			ExitCode *int `json:"exit-code"`
		}
		if err := dec.Decode(&message); err != nil {
			return false
		}
		if message.ExitCode != nil {
			return true
		}
	}
}

// refusal words why bwrap did not start the program. What it printed is then its own.
func refusal(out *printed) error {
	text := strings.TrimSpace(run.StripEscapes(string(out.data)))
	*out = printed{}
	if reason, ok := strings.CutPrefix(text, "bwrap: execvp "); ok {
		return &problem{
			fmt.Sprintf("the generator cannot be run: %s", reason),
			"its first line names an interpreter that is not there: a generator sees the store and the system's programs",
		}
	}
	return &noSandboxError{cause: errors.New(text)}
}

// noSandboxError says that there is no bubblewrap, or that it does not work here.
type noSandboxError struct{ cause error }

func (e *noSandboxError) Error() string {
	var missing *run.NotFoundError
	if errors.As(e.cause, &missing) {
		return "the generator wants a sandbox, and bubblewrap (bwrap) is not installed"
	}
	return fmt.Sprintf("the generator wants a sandbox, and bubblewrap cannot make one: %v", e.cause)
}
func (e *noSandboxError) Unwrap() []error { return []error{ErrSandbox, e.cause} }
func (e *noSandboxError) Hint() string    { return sandboxHint }

// sandboxArgs are bwrap's arguments up to the program. dir is the private folder out here.
func (j *job) sandboxArgs(dir string) []string {
	args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--json-status-fd", "3"}
	if j.Request.Sandbox == SandboxNetwork {
		args = append(args, "--share-net")
	}
	if as := j.as(); j.Mode == modeUser || as.UID != 0 {
		args = append(args, "--unshare-user", "--uid", strconv.Itoa(int(as.UID)), "--gid", strconv.Itoa(int(as.GID)))
	}
	// Started by root, as which it is in our own namespace, bwrap would leave the program all capabilities.
	if os.Geteuid() == 0 && !j.switches() {
		args = append(args, "--cap-drop", "ALL")
	}
	args = append(args, "--proc", "/proc", "--dev", "/dev")
	args = append(args, systemArgs()...)
	args = append(args, etcArgs(filepath.Join(dir, "etc"), j.Request.Sandbox == SandboxNetwork)...)
	args = append(args, "--bind", dir, sandboxDir, "--bind", filepath.Join(dir, "tmp"), "/tmp", "--bind", filepath.Join(dir, "shm"), "/dev/shm")
	if j.Project != "" {
		args = append(args, "--ro-bind", j.Project, j.Project)
	}
	if program := j.Request.Program; !strings.HasPrefix(program, storeDir+"/") {
		args = append(args, "--ro-bind", program, program)
	}
	// What is written outside of the private folder would be written to memory that can be swapped out.
	return append(args, "--remount-ro", "/", "--remount-ro", "/dev", "--chdir", sandboxDir)
}

// systemArgs show the programs of the system, on NixOS and elsewhere.
func systemArgs() []string {
	args := []string{"--ro-bind-try", storeDir, storeDir, "--ro-bind-try", "/run/current-system", "/run/current-system"}
	for _, dir := range [...]string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		info, err := os.Lstat(dir)
		switch {
		case err != nil:
		case info.Mode()&os.ModeSymlink != 0:
			if target, err := os.Readlink(dir); err == nil {
				args = append(args, "--symlink", target, dir)
			}
		default:
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	return args
}

// etcArgs show what of /etc belongs to programs rather than to the machine; ours is where the files are that take the place of the machine's.
func etcArgs(ours string, network bool) []string {
	var args []string
	show := func(paths ...string) {
		for _, path := range paths {
			args = append(args, "--ro-bind-try", path, path)
		}
	}
	replace := func(names ...string) {
		for _, name := range names {
			args = append(args, "--ro-bind", filepath.Join(ours, name), filepath.Join("/etc", name))
		}
	}
	show("/etc/static", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/ssl/openssl.cnf", "/etc/ssl/certs")
	replace("passwd", "group")
	if network {
		show("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols", "/etc/pki/tls/certs", "/etc/ca-certificates")
	} else {
		replace("hosts", "nsswitch.conf")
	}
	return args
}
