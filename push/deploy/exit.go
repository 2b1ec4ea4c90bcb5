package deploy

// ExitCode is the exit status of the program. The table stands here alone: texts, docs and tests are made from it.
type ExitCode int

// The exit codes.
const (
	ExitOK            ExitCode = 0
	ExitError         ExitCode = 1
	ExitUsage         ExitCode = 2
	ExitHostsFailed   ExitCode = 3
	ExitRolledBack    ExitCode = 4
	ExitSecrets       ExitCode = 5
	ExitLocked        ExitCode = 6
	ExitFailureBudget ExitCode = 7
	ExitInterrupted   ExitCode = 130
)

// ExitCodes lists all exit codes in ascending order.
func ExitCodes() []ExitCode {
	return []ExitCode{ExitOK, ExitError, ExitUsage, ExitHostsFailed, ExitRolledBack, ExitSecrets, ExitLocked, ExitFailureBudget, ExitInterrupted}
}

// exitPrecedence is the order in which causes win where several apply; what is not listed comes last.
func exitPrecedence() []ExitCode {
	return []ExitCode{ExitInterrupted, ExitLocked, ExitSecrets, ExitFailureBudget, ExitHostsFailed, ExitRolledBack, ExitError}
}

// Summary is the meaning of a code in a few words.
func (c ExitCode) Summary() string {
	switch c {
	case ExitOK:
		return "all done"
	case ExitError:
		return "another error, such as a flake that cannot be read"
	case ExitUsage:
		return "wrong usage"
	case ExitHostsFailed:
		return "some hosts failed"
	case ExitRolledBack:
		return "some hosts were rolled back, and are verified to run their old system"
	case ExitSecrets:
		return "secrets need action"
	case ExitLocked:
		return "locked by another operator"
	case ExitFailureBudget:
		return "stopped by the failure budget"
	case ExitInterrupted:
		return "interrupted"
	}
	return "unknown"
}

// Remedy says what a person does about a code.
func (c ExitCode) Remedy() string {
	switch c {
	case ExitOK:
		return "nothing"
	case ExitError:
		return "read the message: it names what could not be done and, after `hint:`, the remedy"
	case ExitUsage:
		return "correct the call; `--help` of the same command lists its arguments"
	case ExitHostsFailed:
		return "the report names each host with its step and cause; the others are done; run it again for the rest"
	case ExitRolledBack:
		return "the hosts run what they ran before; mend the configuration, then deploy again"
	case ExitSecrets:
		return "run `secrets sync` and commit what it writes"
	case ExitLocked:
		return "wait for the operator whom the report names, or watch with `fleet attach HOST`"
	case ExitFailureBudget:
		return "mend the failed hosts, then run it again: finished hosts are not touched"
	case ExitInterrupted:
		return "before activation nothing is left; activations under way go on, and the message says how to attach"
	}
	return ""
}
