package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/secret"
)

// editCommand is the hidden command that runs the editor in namespaces of its own.
const editCommand = "edit-value"

// The descriptors that the hidden command has the value from, and writes what became of it to.
const (
	valueFD  = 3
	editedFD = 4
)

// editPrivately shows value to an editor in a file system in memory, and returns what the editor left. Nothing of it is left on the
// machine, also where this process is killed: the mount is in a namespace that ends with the editor.
func editPrivately(ctx context.Context, env *cli.Env, editor []string, name string, value []byte) ([]byte, error) {
	edited, err := editIsolated(ctx, env, editor, name, value)
	var refused *refusedError
	if !errors.As(err, &refused) {
		return edited, err
	}
	fmt.Fprintf(env.Stderr, "warning: this machine allows no namespaces of our own (%v): the value is edited in a folder that other programs of yours can see\n", refused.Err)
	if swap, err := os.ReadFile("/proc/swaps"); err == nil && bytes.Count(swap, []byte("\n")) > 1 {
		fmt.Fprintln(env.Stderr, "warning: memory may be written to swap while it is edited")
	}
	return editInFolder(ctx, editor, name, value)
}

// refusedError says that there is no private file system to be had. Nothing was edited.
type refusedError struct{ Err error }

func (e *refusedError) Error() string { return fmt.Sprintf("no private file system: %v", e.Err) }
func (e *refusedError) Unwrap() error { return e.Err }

// The exit codes of the hidden command for that, and for an editor that failed.
const (
	refusedStatus = 100
	failedStatus  = 101
)

func editIsolated(ctx context.Context, env *cli.Env, editor []string, name string, value []byte) ([]byte, error) {
	valueRead, valueWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer valueRead.Close()
	editedRead, editedWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, valueWrite.Close())
	}
	defer editedRead.Close()
	isolation := &run.Isolation{NewMounts: true, DieWithParent: true}
	if os.Geteuid() != 0 {
		isolation.Inside = &run.IDs{} // root in there, for the mounts alone
	}
	cmd := editorCommand(append([]string{env.Executable, editCommand, "--name", name, "--"}, editor...))
	defer cmd.close()
	cmd.Isolation, cmd.ExtraFiles, cmd.Stderr = isolation, []*os.File{valueRead, editedWrite}, env.Stderr
	process, err := run.Start(ctx, cmd.Cmd)
	_ = editedWrite.Close() // it is the child's
	if err != nil {
		_ = valueWrite.Close()
		if isNamespaceRefusal(err) {
			return nil, &refusedError{Err: err}
		}
		return nil, err
	}
	go func() {
		// A child that ends early says itself why.
		_, _ = valueWrite.Write(value)
		_ = valueWrite.Close()
	}()
	edited, readErr := readBounded(editedRead)
	err = process.Wait()
	var exit *run.ExitError
	switch {
	case errors.As(err, &exit) && exit.Code == refusedStatus:
		return nil, &refusedError{Err: errors.New(firstLine(exit.StderrTail))}
	case errors.As(err, &exit) && exit.Code == failedStatus:
		clear(edited)
		return nil, cli.WithHint(fmt.Errorf("the editor %q failed; nothing was changed", editor[0]), "set EDITOR to an editor that runs in the terminal")
	case err != nil || readErr != nil:
		clear(edited)
		return nil, errors.Join(err, readErr)
	}
	return edited, nil
}

// editorError says that the editor ended with a failure.
type editorError struct {
	editor string
	exit   *run.ExitError
}

func (e *editorError) Error() string {
	what := fmt.Sprintf("it ended with status %d", e.exit.Code)
	if e.exit.Signal != "" {
		what = "it was killed by " + e.exit.Signal
	}
	return fmt.Sprintf("the editor %q failed: %s; nothing was changed", e.editor, what)
}

func isNamespaceRefusal(err error) bool {
	for _, no := range []error{syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.ENOSPC, syscall.EUSERS, syscall.ENOSYS} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// terminalCommand is a command that is lent the terminal, where there is one.
type terminalCommand struct{ run.Cmd }

func editorCommand(argv []string) terminalCommand {
	cmd := run.Cmd{Argv: argv}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		cmd.Terminal, cmd.Stdin, cmd.Stdout = tty, tty, tty
	} else {
		cmd.NewSession = true
	}
	return terminalCommand{cmd}
}

func (c terminalCommand) close() {
	if c.Terminal != nil {
		_ = c.Terminal.Close()
	}
}

// editInFolder is for machines without namespaces: a folder of ours in memory.
func editInFolder(ctx context.Context, editor []string, name string, value []byte) (_ []byte, err error) {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	var fs unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		return nil, cli.WithHint(errors.New("there is no private memory for files: no namespaces are allowed, and XDG_RUNTIME_DIR is no folder in memory"), "fleet secrets get prints the value, fleet secrets set reads it from standard input")
	}
	private, err := os.MkdirTemp(dir, "fleet-edit-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	return editFile(ctx, editor, filepath.Join(private, name), value, os.Stderr)
}

// editFile writes the value, runs the editor, and reads the file again.
func editFile(ctx context.Context, editor []string, path string, value []byte, stderr io.Writer) ([]byte, error) {
	if err := os.WriteFile(path, value, 0o600); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	cmd := editorCommand(append(editor[:len(editor):len(editor)], path))
	defer cmd.close()
	cmd.Dir, cmd.Stderr = dir, stderr
	cmd.Env = []string{"TMPDIR=" + dir, "XDG_STATE_HOME=" + dir, "XDG_CACHE_HOME=" + dir}
	if err := run.Run(ctx, cmd.Cmd); err != nil {
		var exit *run.ExitError
		if errors.As(err, &exit) {
			return nil, &editorError{editor: editor[0], exit: exit}
		}
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read what the editor left: %w", err)
	}
	defer f.Close()
	return readBounded(f)
}

// newEditValue is the command that [editPrivately] starts from itself.
func newEditValue() *cli.Command {
	return &cli.Command{
		Name: editCommand, Args: "EDITOR…", Hidden: true, Summary: "Run an editor in a private file system.",
		Help: "Started by secrets edit in namespaces of its own, with the value on descriptor 3; what became of it goes to descriptor 4.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			name := flags.String("name", "", "the `NAME` of the file")
			return func(ctx context.Context, env *cli.Env, args []string) error {
				if len(args) == 0 || secret.ValidateName(filepath.Base(*name)) != nil || filepath.Base(*name) != *name {
					return cli.Usagef("it is started by secrets edit")
				}
				// An editor that crashes would leave the value where dumps are collected.
				if err := run.ForbidCores(); err != nil {
					return err
				}
				if err := privateMounts(); err != nil {
					fmt.Fprintln(env.Stderr, err)
					return cli.Status(refusedStatus)
				}
				return editHere(ctx, env, args, *name)
			}
		},
	}
}

// editHere runs in the namespace.
func editHere(ctx context.Context, env *cli.Env, editor []string, name string) error {
	in, out := os.NewFile(valueFD, "value"), os.NewFile(editedFD, "edited")
	unix.CloseOnExec(valueFD)
	unix.CloseOnExec(editedFD)
	value, err := readBounded(in)
	if err != nil {
		return err
	}
	defer clear(value)
	dir := filepath.Join(privateRoot, "fleet")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	edited, err := editFile(ctx, editor, filepath.Join(dir, name), value, env.Stderr)
	var failed *editorError
	switch {
	case errors.As(err, &failed):
		return cli.Status(failedStatus)
	case err != nil:
		return err
	}
	defer clear(edited)
	_, err = out.Write(edited)
	return errors.Join(err, out.Close())
}

// privateRoot is a folder that every machine has, and that is covered in the namespace.
const privateRoot = "/dev/shm"

// privateMounts covers privateRoot with memory that is never swapped, and makes all else read-only.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	// Before our own mount. Devices and sockets work as before; older kernels cannot do it (mount_setattr(2), Linux 5.12), and the editor may then
	// leave files of its own.
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make the file system read-only for the editor: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// noswap is known since Linux 6.4, and allowed to real root alone.
	swapless := unix.Mount("fleet-edit", privateRoot, "tmpfs", flags, "mode=0700,size=64m,noswap")
	if swapless == nil {
		return nil
	}
	if err := unix.Mount("fleet-edit", privateRoot, "ramfs", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory: tmpfs without swap: %w; ramfs: %w", swapless, err)
	}
	return nil
}
