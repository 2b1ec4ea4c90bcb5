package run

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sh makes a command of a script that is part of the test.
func sh(script string, args ...string) Cmd {
	return Cmd{Argv: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestOutputReturnsStdoutAlone(t *testing.T) {
	var stderr bytes.Buffer
	cmd := sh(`cat; echo noise >&2; printf %s "$FLEET_TEST"`)
	cmd.Stdin, cmd.Stderr, cmd.Env = strings.NewReader("in "), &stderr, []string{"FLEET_TEST=a", "FLEET_TEST=b"}
	out, err := Output(testContext(t), cmd)
	if err != nil || string(out) != "in b" || stderr.String() != "noise\n" {
		t.Errorf("output %q, stderr %q, error %v", out, stderr.String(), err)
	}
}

func TestClearEnvLeavesOnlyEnv(t *testing.T) {
	out, err := Output(testContext(t), Cmd{Argv: []string{"env"}, Env: []string{"A=1"}, ClearEnv: true})
	if err != nil || string(out) != "A=1\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestFailureCarriesCodeAndTail(t *testing.T) {
	err := Run(testContext(t), sh(`printf '\033[31mno \033]0;title\007such thing\033[0m\n' >&2; exit 3`))
	var exit *ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit.Code != 3 || exit.Signal != "" || exit.StderrTail != "no such thing\n" {
		t.Errorf("%+v", exit)
	}
	if want := `run "sh": exit status 3: no such thing`; err.Error() != want {
		t.Errorf("%q", err)
	}
}

func TestFailureNamesTheSignal(t *testing.T) {
	var exit *ExitError
	if err := Run(testContext(t), sh(`kill -KILL $$`)); !errors.As(err, &exit) || exit.Signal != "SIGKILL" || exit.Code != -1 {
		t.Errorf("%v", err)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	err := Run(testContext(t), sh(`i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done >&2; exit 1`))
	var exit *ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if tail := exit.StderrTail; len(tail) > tailSize || !strings.HasSuffix(tail, "line 19999\n") || !strings.HasPrefix(tail, "line ") {
		t.Errorf("%d bytes from %q", len(tail), tail[:min(20, len(tail))])
	}
}

func TestSameWriterForBothStreams(t *testing.T) {
	var both bytes.Buffer
	cmd := sh(`echo out; echo err >&2; exit 1`)
	cmd.Stdout, cmd.Stderr = &both, &both
	var exit *ExitError
	if err := Run(testContext(t), cmd); !errors.As(err, &exit) || exit.StderrTail != "out\nerr\n" || both.String() != "out\nerr\n" {
		t.Errorf("%q, %v", both.String(), err)
	}
}

func TestMissingProgramHasAHint(t *testing.T) {
	for _, program := range []string{"fleet-no-such-program", "/no/such/program"} {
		err := Run(testContext(t), Cmd{Argv: []string{program}})
		var hint interface{ Hint() string }
		if !errors.Is(err, exec.ErrNotFound) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), program) {
			t.Errorf("%v", err)
		}
	}
	if err := Run(testContext(t), Cmd{}); err == nil {
		t.Error("no program was accepted")
	}
}

func TestOutputIsBoundedAndEndsTheProcess(t *testing.T) {
	cmd := Cmd{Argv: []string{"yes"}, MaxOutput: 1 << 16}
	out, err := Output(testContext(t), cmd)
	var limit *OutputLimitError
	if !errors.As(err, &limit) || limit.Limit != 1<<16 || len(out) > 1<<16 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestFailingReaderEndsTheProcess(t *testing.T) {
	broken := errors.New("broken source")
	cmd := sh(`cat >/dev/null; sleep 100`)
	cmd.Stdin = io.MultiReader(strings.NewReader("x"), errorReader{broken})
	if err := Run(testContext(t), cmd); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestUnreadInputIsNoError(t *testing.T) {
	cmd := sh(`exit 0`)
	cmd.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if err := Run(testContext(t), cmd); err != nil {
		t.Error(err)
	}
}

// blockingReader blocks until the test ends, as a terminal or a connection may.
type blockingReader struct{ done <-chan struct{} }

func (r blockingReader) Read([]byte) (int, error) { <-r.done; return 0, io.EOF }

func TestBlockedInputDoesNotDelayTheEnd(t *testing.T) {
	cmd := sh(`exit 0`)
	cmd.Stdin = blockingReader{testContext(t).Done()}
	if err := Run(testContext(t), cmd); err != nil {
		t.Error(err)
	}
}

// startTree starts a shell with a child and a grandchild, all of which ignore SIGTERM where ignore is
// set, and returns their process ids.
func startTree(t *testing.T, ctx context.Context, ignore bool, grace time.Duration) (*Process, []int) {
	t.Helper()
	trap := ""
	if ignore {
		trap = `trap "" TERM;`
	}
	cmd := sh(trap + `sh -c '` + trap + `sleep 1000 & echo $!; echo $$; wait' & echo $$; wait`)
	cmd.PipeStdout, cmd.Grace = true, grace
	p, err := Start(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(p.Stdout)
	for len(pids) < 3 && lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return p, pids
}

// waitGone waits until none of the processes runs; a killed grandchild is reaped by init some time later.
func waitGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for running(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, os.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func TestCancellationLeavesNoProcess(t *testing.T) {
	for name, ignore := range map[string]bool{"that obeys SIGTERM": false, "that ignores SIGTERM": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(testContext(t))
			p, pids := startTree(t, ctx, ignore, 200*time.Millisecond)
			if len(pids) != 3 {
				t.Fatalf("processes %v", pids)
			}
			cancel()
			if err := p.Wait(); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			waitGone(t, pids)
		})
	}
}

func TestDeadlineAndCauseAreReported(t *testing.T) {
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	if err := Run(ctx, sh(`sleep 1000`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	cause := errors.New("second thoughts")
	ctx, stop := context.WithCancelCause(testContext(t))
	stop(cause)
	if err := Run(ctx, sh(`sleep 1000`)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, stop = context.WithCancelCause(testContext(t))
	p, err := Start(ctx, sh(`sleep 1000`))
	if err != nil {
		t.Fatal(err)
	}
	stop(cause)
	if err := p.Wait(); !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Error(err)
	}
}

func TestStoppedProcessIsEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	cmd := sh(`echo ready; kill -STOP $$`)
	cmd.PipeStdout = true
	p, err := Start(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(p.Stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhatIsLeftInTheGroupIsKilled(t *testing.T) {
	var out bytes.Buffer
	cmd := sh(`trap "" TERM; sleep 1000 & echo $!`)
	cmd.Stdout, cmd.Grace = &out, 50*time.Millisecond
	if err := Run(testContext(t), cmd); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, []int{pid})
}

func TestEscapedProcessDoesNotHoldUp(t *testing.T) {
	cmd := sh(`echo early; setsid sleep 1000 & echo $!`)
	cmd.PipeStdout, cmd.Grace = true, 50*time.Millisecond
	p, err := Start(testContext(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	out, err := io.ReadAll(p.Stdout)
	if err != nil || !strings.HasPrefix(string(out), "early\n") {
		t.Errorf("%q, %v", out, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(out), "early\n")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestPipesCarryADialogue(t *testing.T) {
	cmd := sh(`while read -r line; do echo "got $line"; echo "note $line" >&2; done`)
	cmd.PipeStdin, cmd.PipeStdout, cmd.PipeStderr = true, true, true
	p, err := Start(testContext(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := bufio.NewReader(p.Stdout), bufio.NewReader(p.Stderr)
	for i := range 3 {
		fmt.Fprintln(p.Stdin, i)
		out, _ := stdout.ReadString('\n')
		note, _ := stderr.ReadString('\n')
		if diff := cmp.Diff([]string{fmt.Sprintf("got %d\n", i), fmt.Sprintf("note %d\n", i)}, []string{out, note}); diff != "" {
			t.Error(diff)
		}
	}
	if err := p.Stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStreamGivenTwiceIsAnError(t *testing.T) {
	if _, err := Start(testContext(t), Cmd{Argv: []string{"true"}, PipeStdout: true, Stdout: io.Discard}); err == nil {
		t.Error("accepted")
	}
}

func TestExtraFilesAndFilesAsStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := sh(`echo three >&3; echo one; pwd`)
	cmd.Stdout, cmd.ExtraFiles, cmd.Dir = file, []*os.File{file}, "/"
	if err := Run(testContext(t), cmd); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "three\none\n/\n" {
		t.Errorf("%q", got)
	}
}

func TestNewSessionHasNoTerminal(t *testing.T) {
	cmd := sh(`ps -o sid= -p $$`)
	cmd.NewSession = true
	p, err := Start(testContext(t), Cmd{Argv: cmd.Argv, NewSession: true, PipeStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(p.Stdout)
	if got := strings.TrimSpace(string(out)); got != strconv.Itoa(p.PID) {
		t.Errorf("session %q of process %d", got, p.PID)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLimitsHoldFromTheStart(t *testing.T) {
	cmd := sh(`ulimit -t; ulimit -v; ulimit -H -t; ulimit -H -v`)
	cmd.Limits = &Limits{CPU: 1500 * time.Millisecond, AddressSpace: 1 << 30}
	out, err := Output(testContext(t), cmd)
	if err != nil || string(out) != "2\n1048576\n2\n1048576\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestCPULimitKills(t *testing.T) {
	cmd := sh(`trap "" XCPU; while :; do :; done`)
	cmd.Limits = &Limits{CPU: time.Second}
	var exit *ExitError
	if err := Run(testContext(t), cmd); !errors.As(err, &exit) || exit.Signal != "SIGKILL" && exit.Signal != "SIGXCPU" {
		t.Error(err)
	}
}

func TestLimitedProcessIsStillCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := Start(ctx, Cmd{Argv: []string{"sleep", "1000"}, Limits: &Limits{CPU: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMissingProgramWithLimits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Run(testContext(t), Cmd{Argv: []string{file}, Limits: &Limits{CPU: time.Second}}); err == nil {
		t.Error("a script without an interpreter ran")
	}
}
