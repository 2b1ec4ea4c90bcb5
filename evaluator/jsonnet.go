package evaluator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"fleet/closure/run"
	"fleet/evaluator/plan"
)

// JsonnetLimits bound one evaluation.
type JsonnetLimits struct {
	// Wall is how long it may take, and CPU how much computing.
	Wall, CPU time.Duration
	// Memory is what it may allocate, in bytes.
	Memory uint64
	// Output bounds the result, in bytes.
	Output int64
}

// DefaultJsonnetLimits are far above what shaping a plan of thousands of hosts takes.
func DefaultJsonnetLimits() JsonnetLimits {
	return JsonnetLimits{Wall: time.Minute, CPU: 30 * time.Second, Memory: 1 << 30, Output: 64 << 20}
}

func (l JsonnetLimits) orDefault() JsonnetLimits {
	d := DefaultJsonnetLimits()
	if l.Wall <= 0 {
		l.Wall = d.Wall
	}
	if l.CPU <= 0 {
		l.CPU = d.CPU
	}
	if l.Memory == 0 {
		l.Memory = d.Memory
	}
	if l.Output <= 0 {
		l.Output = d.Output
	}
	return l
}

// jsonnetRequest is what the child reads from its standard input.
type jsonnetRequest struct {
	// Dirs are the folders that may be read; File lies in the first.
	Dirs   []string          `json:"dirs"`
	File   string            `json:"file"`
	ExtStr map[string]string `json:"extStr"`
	// CPU is in nanoseconds, Memory in bytes.
	CPU    time.Duration `json:"cpu"`
	Memory uint64        `json:"memory"`
}

// jsonnetAnswer is what the child writes to its standard output.
type jsonnetAnswer struct {
	Result json.RawMessage `json:"result,omitempty"`
	// Error has the message and the places in the files.
	Error string `json:"error,omitempty"`
}

// evalJsonnet evaluates a file in a child process. The library cannot be cancelled nor bounded from within: a tail-strict recursion ends the whole
// process, and a doubling fold takes gigabytes.
func (s *Static) evalJsonnet(ctx context.Context, file string) ([]byte, error) {
	real, err := filepath.EvalSymlinks(file)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, err
	}
	request := jsonnetRequest{
		Dirs: []string{filepath.Dir(real)}, File: filepath.Base(real), ExtStr: s.opts.ExtStr,
		CPU: s.opts.Limits.CPU, Memory: s.opts.Limits.Memory,
	}
	for _, dir := range s.opts.ImportDirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		request.Dirs = append(request.Dirs, abs)
	}
	input, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var answer jsonnetAnswer
	out, err := s.runChild(ctx, input)
	if err != nil {
		return nil, s.childError(ctx, file, err)
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("evaluate: read what the child printed: %w", err)
	}
	if answer.Error != "" {
		return nil, &StaticError{File: file, Reason: run.StripEscapes(answer.Error), Remedy: jsonnetRemedy(answer.Error)}
	}
	return answer.Result, nil
}

// jsonnetRemedy knows the errors whose remedy is a flag.
func jsonnetRemedy(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	if _, name, ok := strings.Cut(first, "Undefined external variable: "); ok {
		return fmt.Sprintf("give it a value: --ext-str %s=VALUE", name)
	}
	if strings.Contains(first, "import") && (strings.Contains(first, "there is no such file in") || strings.Contains(first, "only paths below the folders of imports")) {
		return "name the folder that holds the file, and import it by its path below that folder: --import-dir DIR"
	}
	return ""
}

// errWall says that an evaluation was ended because it took too long.
var errWall = errors.New("it takes too long")

func (s *Static) runChild(ctx context.Context, input []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.Limits.Wall, errWall)
	defer cancel()
	var crash string
	trace := run.NewLineWriter(func(line string) {
		if text, ok := strings.CutPrefix(line, "TRACE: "); ok {
			s.emit(plan.Event{Step: plan.StepPlan, Kind: plan.EventLog, Message: oneLine(text)})
		}
		if text, ok := strings.CutPrefix(line, "fatal error: "); ok && crash == "" {
			crash = text
		}
	})
	out, err := run.Output(ctx, run.Cmd{
		Argv: s.opts.Child, Stdin: bytes.NewReader(input), Stderr: trace, MaxOutput: s.opts.Limits.Output,
		// A traceback of the runtime says nothing to a user. Nothing of our environment is the plan's business.
		Env: []string{"GOTRACEBACK=none"}, ClearEnv: true,
		Grace: 100 * time.Millisecond, NewSession: true,
	})
	if err != nil && crash != "" {
		err = &crashError{reason: crash, err: err}
	}
	return out, err
}

// crashError is the reason for which Go's runtime ended the child; a long traceback follows it.
type crashError struct {
	reason string
	err    error
}

func (e *crashError) Error() string { return e.reason }

func (e *crashError) Unwrap() error { return e.err }

// childError finds the limit that ended the child.
func (s *Static) childError(ctx context.Context, file string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	limits := s.opts.Limits
	over := func(format string, args ...any) error {
		return &StaticError{
			File: file, Reason: fmt.Sprintf(format, args...), Err: err,
			Remedy: "look for a recursion without end, or for a value that grows with each step",
		}
	}
	var output *run.OutputLimitError
	if errors.As(err, &output) {
		return over("its result is longer than %d bytes", output.Limit)
	}
	if errors.Is(err, errWall) {
		return over("its evaluation did not end within %s", limits.Wall)
	}
	var exit *run.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	var crash *crashError
	switch {
	case exit.Signal == "SIGKILL" || exit.Signal == "SIGXCPU":
		return over("its evaluation takes more than %s of computing", limits.CPU)
	case !errors.As(err, &crash):
		return err
	case crash.reason == "stack overflow":
		return over("its evaluation recurses too deep")
	default:
		// Whatever the runtime says then, the cause is that it got no memory.
		return over("its evaluation takes more than %d MiB of memory (%s)", limits.Memory>>20, crash.reason)
	}
}
