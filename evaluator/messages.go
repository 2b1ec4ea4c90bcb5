package evaluator

import (
	"fmt"
	"strings"

	"fleet/closure/run"
	"fleet/evaluator/plan"
)

// isError tells an error from the other things that nix prints at the level of errors: traces and hints. A stack
// overflow is reported past the logger, as plain text.
func isError(m Message) bool {
	switch {
	case m.Action == "msg":
		return m.Level == levelError && m.Text != "" && !isHint(m) &&
			!strings.HasPrefix(m.Text, "trace: ") && !strings.HasPrefix(m.Text, "warning: ")
	case m.Action == "":
		return strings.HasPrefix(m.Text, "error: ")
	}
	return false
}

// classify says what becomes of a message that is no error: its kind, empty where nobody needs it, its text, and whether nix says the same in every process.
func classify(m Message) (kind plan.EventKind, text string, repeated bool) {
	text = strings.TrimSpace(m.Text)
	switch {
	case text == "" || isHint(m) || isBusy(text) || strings.Contains(text, "Git tree ") && strings.HasSuffix(text, " is dirty"):
		return "", "", false
	case m.Action == "msg" && strings.HasPrefix(text, "evaluation warning: "):
		return plan.EventWarning, strings.TrimPrefix(text, "evaluation warning: "), false
	case m.Action == "" || m.Action == "msg" && m.Level == levelWarning || strings.HasPrefix(text, "warning: "):
		return plan.EventWarning, strings.TrimPrefix(text, "warning: "), true
	case m.Action == "msg" && strings.HasPrefix(text, "trace: "):
		text = strings.TrimPrefix(text, "trace: ")
		for _, prefix := range []string{"warning: ", "evaluation warning: "} {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				return plan.EventWarning, rest, false
			}
		}
		return plan.EventLog, text, false
	case m.Action == "start" && m.Level <= 3 && (m.Type == actFileTransfer || m.Type == actCopyPath || m.Type == 0):
		return plan.EventProgress, text, false
	}
	return "", "", false
}

// isBusy recognises what a nix without a daemon says while it waits for another one.
func isBusy(text string) bool {
	return strings.Contains(text, "SQLite database ") && strings.HasSuffix(text, " is busy")
}

// transcript keeps what a process printed for its log file, up to a bound.
type transcript struct {
	text strings.Builder
	cut  bool
}

func (t *transcript) add(m Message) {
	if m.Action != "msg" && m.Action != "" || m.Text == "" || t.cut {
		return
	}
	if t.text.Len()+len(m.Text) > logSize {
		t.cut = true
		t.text.WriteString("(the log ends here, it became too long)\n")
		return
	}
	t.text.WriteString(m.Text)
	t.text.WriteByte('\n')
}

func (t *transcript) String() string { return t.text.String() }

// exitText says how a process ended that said nothing.
func exitText(exit *run.ExitError) string {
	if exit.Signal != "" {
		return fmt.Sprintf("nix was killed by %s", exit.Signal)
	}
	if tail := strings.TrimSpace(exit.StderrTail); tail != "" {
		lines := strings.Split(tail, "\n")
		return ParseInternalJSON([]byte(lines[len(lines)-1])).Text
	}
	return fmt.Sprintf("nix ended with status %d and said nothing", exit.Code)
}

// exitRemedy knows the two ways in which an evaluator dies without an error.
func exitRemedy(exit *run.ExitError) string {
	switch exit.Signal {
	case "SIGSEGV":
		return "an endless recursion overflows the stack of older versions of Nix; look for an option that depends on itself"
	case "SIGKILL":
		return "the machine is probably out of memory; use fewer evaluations at a time: --eval-workers 1"
	}
	return ""
}

// evalRemedy knows the errors that have a usual cause.
func evalRemedy(errs []Message, source string) string {
	for _, m := range errs {
		text := m.Text
		switch {
		case source != "" && strings.Contains(text, source) && strings.Contains(text, "does not exist"),
			strings.Contains(text, "is not tracked by Git"):
			return "a file that git does not know is not part of the flake: git add it"
		case strings.Contains(text, "stack overflow"), strings.Contains(text, "infinite recursion"):
			return "look for an option that depends on itself; --show-trace shows the way there"
		case strings.Contains(text, "requires lock file changes"), strings.Contains(text, "modified lock file"):
			return "the lock file is not up to date: nix flake lock"
		case strings.Contains(text, "is not allowed to refer to"), strings.Contains(text, "in pure evaluation mode"), strings.Contains(text, "in pure eval mode"):
			return "the configuration reads something outside of the flake; move it in, or allow it with --impure"
		}
	}
	return ""
}
