package step

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/secretsgen/secret"
)

// Child is what the hidden command [ChildCommand] runs inside of the new namespaces: it reads what [Run] sends from stdin, sets the private folder up, runs the
// generator in it, seals what came out, and writes its report to stdout. It is made to be all that its process does: the process must end when it
// returns, and the kernel then takes everything else along.
func Child(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var j job
	err = json.Unmarshal(line, &j)
	clear(line)
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel(errors.New("the process that asked for it is gone"))
	}()
	rep, err := j.child(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(rep)
}

// child does all of the child's work. Its error is one that leaves nothing to report.
func (j *job) child(ctx context.Context) (rep report, err error) {
	unix.Umask(0o077)
	if err := run.ForbidCores(); err != nil {
		return report{}, err
	}
	place, err := j.newPlace()
	if err != nil {
		return report{Setup: err.Error()}, nil
	}
	defer func() { err = errors.Join(err, place.remove()) }()
	rep.Warnings = place.warnings
	if err := place.fill(j); err != nil {
		return report{Setup: err.Error()}, nil
	}
	var out printed
	runErr := j.runProgram(ctx, place, &out)
	killErr := place.killRest()
	if ctx.Err() != nil {
		return report{}, context.Cause(ctx)
	}
	files, collectErr := place.collect()
	redact := newRedactor(append(append(j.Request.private(files), place.marked()...), j.privateInputs()...))
	rep.Output = out.text(redact)
	if err := errors.Join(runErr, killErr); err != nil {
		rep.Failure = newFailure(err, redact)
		return rep, nil
	}
	if collectErr != nil {
		rep.Failure = newFailure(collectErr, redact)
		return rep, nil
	}
	rep.Result, err = j.seal(files)
	if err != nil {
		rep.Failure, err = newFailure(err, redact), nil
	}
	return rep, err
}

func (j *job) seal(files map[string]secret.Plain) (*Result, error) {
	to, err := j.Request.recipients()
	if err != nil {
		return nil, err
	}
	m, err := j.Request.interpret(files)
	if err != nil {
		return nil, err
	}
	result, err := j.Request.result(m, to)
	return &result, err
}

// runProgram runs the generator to its end, or kills it.
func (j *job) runProgram(ctx context.Context, p *place, out *printed) error {
	limit := j.Request.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	if err := checkProgram(j.Request.Program); err != nil {
		return err
	}
	timeout := fmt.Errorf("it %w: it was killed after %v", ErrTimeout, limit)
	timed, cancelTimed := context.WithTimeoutCause(ctx, limit, timeout)
	defer cancelTimed()
	watched, cancel := context.WithCancelCause(timed)
	defer cancel(nil)
	go p.watch(watched, cancel)
	var err error
	if j.Request.Sandbox == SandboxNone {
		err = run.Run(watched, j.plainCommand(p, out))
	} else {
		err = j.runSandboxed(watched, p, out)
	}
	if cause := context.Cause(watched); cause != nil && err != nil {
		return cause
	}
	return programError(err)
}

// programGrace is the time between SIGTERM and SIGKILL.
const programGrace = 2 * time.Second

// plainCommand runs the generator without a sandbox: as its user, in its private folder.
func (j *job) plainCommand(p *place, out *printed) run.Cmd {
	cmd := run.Cmd{
		Argv: []string{j.Request.Program}, Dir: p.dir, ClearEnv: true, Env: j.env(p.dir), Stdout: out, Stderr: out,
		Grace: programGrace, NewSession: true, Isolation: &run.Isolation{DieWithParent: true},
	}
	switch {
	case j.Mode == modeUser:
		// Root of our namespace is nobody's root for a generator: it is to see its own name.
		cmd.Isolation.Inside = &run.IDs{UID: j.Caller.UID, GID: j.Caller.GID}
	case j.switches():
		cmd.Isolation.As = &run.IDs{UID: j.User.UID, GID: j.User.GID, Groups: j.User.Groups}
	}
	return cmd
}

// switches says whether the generator's user is another one than the child's.
func (j *job) switches() bool {
	return j.User != nil && j.Mode != modeUser && os.Geteuid() == 0
}

// as is who the generator runs as.
func (j *job) as() User {
	if j.User != nil {
		return *j.User
	}
	return j.Caller
}

// env is the generator's environment; dir is the private folder as the generator sees it.
func (j *job) env(dir string) []string {
	home, path := dir, DefaultPath
	if j.Request.Sandbox == SandboxNone {
		home, path = j.as().Home, j.Path
		if home == "" {
			home = dir
		}
	}
	keys := make([]string, 0, len(j.Request.Owners))
	for _, host := range slices.Sorted(maps.Keys(j.Request.Owners)) {
		keys = append(keys, j.Request.Owners[host])
	}
	env := []string{
		"out=" + dir + "/out", "HOME=" + home, "PATH=" + dir + "/bin:" + path, "TMPDIR=" + dir + "/tmp", "FLEET_DEPS=" + dir + "/deps",
		"GENERATOR_HELPER_IDENTITIES=" + strings.Join(keys, "\n"), "LC_ALL=C.UTF-8",
	}
	if name := j.as().Name; name != "" && j.Request.Sandbox == SandboxNone {
		env = append(env, "USER="+name, "LOGNAME="+name)
	}
	if j.Project != "" {
		env = append(env, "FLEET_PROJECT="+j.Project)
	}
	return env
}

// checkProgram tells a generator that is not on this machine from one that fails.
func checkProgram(program string) error {
	info, err := os.Stat(program)
	switch {
	case err != nil:
		return &problem{fmt.Sprintf("the generator is not on this machine: %v", err), "build it, or copy it here, first"}
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("the generator %s is no executable file", program)
	}
	return nil
}

// programError words how a generator failed. What it printed is not in it: that has to go through the redactor.
func programError(err error) error {
	var exit *run.ExitError
	var worded *problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &worded), errors.Is(err, ErrSandbox):
		return err
	case !errors.As(err, &exit):
		return fmt.Errorf("start the generator: %w", err)
	case exit.Signal != "":
		return fmt.Errorf("the generator was killed by %s", exit.Signal)
	}
	return fmt.Errorf("the generator failed with exit status %d", exit.Code)
}
