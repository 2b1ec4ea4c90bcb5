package step

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"fleet/closure/run"
)

const (
	// maxReport bounds the child's answer, in bytes.
	maxReport = 512 << 20
	// childGrace is how long the child may take to kill the generator and clean up.
	childGrace = 15 * time.Second
)

// runStep tries the ways to run a generator, the most private first.
func runStep(ctx context.Context, req Request, opt Options) (Result, error) {
	fail := func(err error) (Result, error) {
		var hinted interface{ Hint() string }
		e := &Error{ID: req.ID, Err: err}
		if errors.As(err, &hinted) {
			e.Remedy = hinted.Hint()
		}
		return Result{}, e
	}
	j, err := newJob(req, opt)
	if err != nil {
		return fail(err)
	}
	defer j.wipe()
	rep, err := runModes(ctx, j, opt.Helper)
	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("generate secret %q: %w", req.ID, context.Cause(ctx))
	case err != nil:
		return fail(err)
	}
	for _, text := range rep.Warnings {
		if opt.Warn != nil {
			opt.Warn(text)
		}
	}
	if opt.Reporter != nil {
		for _, line := range lines(rep.Output) {
			opt.Reporter(line)
		}
	}
	if rep.Failure != nil {
		return Result{}, &Error{ID: req.ID, Err: rep.Failure.err(), Output: rep.Output, Remedy: rep.Failure.Hint}
	}
	if rep.Result == nil {
		return fail(errors.New("the process that ran the generator gave no answer"))
	}
	return *rep.Result, nil
}

func newJob(req Request, opt Options) (*job, error) {
	if !filepath.IsAbs(opt.Helper) {
		return nil, fmt.Errorf("the path of fleet-helper, %q, is not absolute", opt.Helper)
	}
	if _, err := req.recipients(); err != nil {
		return nil, err
	}
	if opt.User != nil && os.Geteuid() != 0 && int(opt.User.UID) != os.Geteuid() {
		return nil, fmt.Errorf("run as user %d: only root can", opt.User.UID)
	}
	project, err := realProject(opt.Project)
	if err != nil {
		return nil, err
	}
	inputs, err := req.open(opt.Identities)
	if err != nil {
		return nil, err
	}
	who := caller()
	if home := homeIn(project, who); home != "" && req.Sandbox != SandboxNone {
		// A sandbox shows no home, and who can change a generator must not get at one because the flake lies in it.
		project = ""
		if opt.Warn != nil {
			opt.Warn(fmt.Sprintf("the home directory %s lies in the folder of the flake, so generators in a sandbox see neither (no FLEET_PROJECT)", home))
		}
	}
	j := &job{Request: req, Inputs: inputs, User: opt.User, Caller: who, Project: project, Path: opt.Path, Bubblewrap: cmp.Or(opt.Bubblewrap, "bwrap")}
	switch {
	case j.Path != "":
	case opt.User != nil:
		j.Path = DefaultPath
	default:
		j.Path = os.Getenv("PATH")
	}
	return j, nil
}

func realProject(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("the project's folder, %q, is not absolute", dir)
	}
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("the project's folder: %w", err)
	}
	return filepath.Clean(dir), nil
}

// homeIn is a home directory of the caller that is the project's folder or lies in it; empty where none does.
func homeIn(project string, who User) string {
	homes := []string{who.Home}
	if entry, err := user.LookupId(strconv.Itoa(int(who.UID))); err == nil {
		homes = append(homes, entry.HomeDir)
	}
	for _, home := range homes {
		if project != "" && filepath.IsAbs(home) && isBelow(resolved(home), resolved(project)) {
			return home
		}
	}
	return ""
}

// resolved is a path without links, as far as it exists.
func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return filepath.Clean(path)
}

// isBelow says whether a path is a folder or in it.
func isBelow(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel)
}

// caller is the user of this process.
func caller() User {
	u := User{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Home: os.Getenv("HOME")}
	if entry, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		u.Name = entry.Username
		if u.Home == "" {
			u.Home = entry.HomeDir
		}
	}
	return u
}

// runModes runs the job in the most private way that this machine allows.
func runModes(ctx context.Context, j *job, helper string) (report, error) {
	first := modeUser
	if os.Geteuid() == 0 {
		first = modeRoot
	}
	j.Mode = first
	rep, err := runChild(ctx, j, helper)
	refusal := rep.Setup
	if isRefusal(err) {
		refusal, err = err.Error(), nil
	}
	if refusal == "" || ctx.Err() != nil {
		return rep, err
	}
	j.Mode = modeFolder
	rep, err = runChild(ctx, j, helper)
	if err == nil && rep.Setup != "" {
		return rep, &problem{
			fmt.Sprintf("there is no private place to run it in: %s; without namespaces: %s", refusal, rep.Setup),
			"allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or set XDG_RUNTIME_DIR to a folder in memory",
		}
	}
	rep.Warnings = append([]string{"this machine allows no namespaces of our own (" + refusal + "): the generator's folder is one that other programs of the same user can see"}, rep.Warnings...)
	return rep, err
}

// isRefusal says whether a process could not be started because the machine allows no namespaces.
func isRefusal(err error) bool {
	for _, no := range [...]error{syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.ENOSPC, syscall.EUSERS, syscall.ENOSYS} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// runChild runs the child to its end. The pipe of its standard input stays open until then: when it breaks, we are gone.
func runChild(ctx context.Context, j *job, helper string) (report, error) {
	isolation := &run.Isolation{NewMounts: true, NewPIDs: true, DieWithParent: true}
	switch j.Mode {
	case modeUser:
		isolation.Inside = &run.IDs{}
	case modeFolder:
		isolation = nil // the child has something to clean up when we die
	}
	text, err := json.Marshal(j)
	if err != nil {
		return report{}, err
	}
	defer clear(text)
	// Descriptors that this process has inherited, such as a terminal's, are not passed on; the child's environment is what it needs itself.
	answer := &answer{}
	stdin := newLifeline(append(text, '\n'))
	defer stdin.Close()
	err = run.Run(ctx, run.Cmd{
		Argv: []string{helper, ChildCommand}, ClearEnv: true, Env: childEnv(), Dir: "/",
		Stdin: stdin, Stdout: answer, Isolation: isolation, Grace: childGrace, NewSession: true,
	})
	if err != nil {
		return report{}, childError(err)
	}
	defer clear(answer.data.Bytes())
	var rep report
	if err := json.Unmarshal(answer.data.Bytes(), &rep); err != nil {
		return report{}, fmt.Errorf("read the answer of the process that ran the generator: %w", err)
	}
	return rep, nil
}

// childEnv is what the child looks programs and folders up with. The generator gets none of it.
func childEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH") + ":" + DefaultPath, "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR"), "LC_ALL=C.UTF-8", "GOTRACEBACK=single",
	}
}

// childError words what happened to the child itself; the generator's own failures are in its report.
func childError(err error) error {
	var exit *run.ExitError
	if errors.As(err, &exit) {
		what := fmt.Sprintf("ended with status %d", exit.Code)
		if exit.Signal != "" {
			what = "was killed by " + exit.Signal
		}
		text := "the process that ran the generator " + what
		if tail := strings.TrimSpace(exit.StderrTail); tail != "" {
			text += ": " + tail
		}
		return errors.New(text)
	}
	return err
}

// answer keeps what the child writes.
type answer struct{ data bytes.Buffer }

func (a *answer) Write(data []byte) (int, error) {
	if a.data.Len()+len(data) > maxReport {
		return 0, fmt.Errorf("the generator's value, sealed to all owners, is larger than %d bytes", maxReport)
	}
	return a.data.Write(data)
}

// lifeline gives its text and then nothing, until it is closed.
type lifeline struct {
	text   *bytes.Reader
	once   sync.Once
	closed chan struct{}
}

func newLifeline(text []byte) *lifeline {
	return &lifeline{text: bytes.NewReader(text), closed: make(chan struct{})}
}

func (l *lifeline) Read(data []byte) (int, error) {
	if l.text.Len() > 0 {
		return l.text.Read(data)
	}
	<-l.closed
	return 0, io.EOF
}

// Close ends the reading.
func (l *lifeline) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
