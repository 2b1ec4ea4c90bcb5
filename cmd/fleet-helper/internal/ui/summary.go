package ui

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// Summary is the end of a run for a person: a table, what failed with its remedies, and a last line with the counts.
// attach is the command that attaches to an activation; width 0 means that lines are not cut.
func Summary(r *deploy.Report, attach string, s style, width int) string {
	var b strings.Builder
	steps := usedSteps(r)
	table := Table{Header: []string{"HOST", "RESULT"}, Width: width}
	for _, step := range steps {
		table.Header = append(table.Header, strings.ToUpper(string(step)))
	}
	table.Header = append(table.Header, "SENT", "GENERATION")
	for _, h := range r.Hosts {
		row := []Cell{{Text: h.Host}, {Text: resultText(h), Color: colorOf(h.Outcome)}}
		for _, step := range steps {
			row = append(row, Cell{Text: stepText(h, step)})
		}
		table.Rows = append(table.Rows, append(row, Cell{Text: sentText(h)}, Cell{Text: generationText(h)}))
	}
	b.WriteString(table.render(s))
	for _, h := range r.Hosts {
		writeFailure(&b, h, s)
		writeNotices(&b, h)
	}
	for _, h := range r.Hosts {
		if h.Outcome == deploy.OutcomeDetached {
			fmt.Fprintf(&b, "\n%s: the activation goes on there; attach with:\n  %s %s %s\n", h.Host, attach, h.Host, h.Txn)
		}
	}
	fmt.Fprintf(&b, "\n%s in %s\n", counts(r), text.Duration(r.Duration))
	return b.String()
}

// maxCommit is how many files to commit are listed.
const maxCommit = 20

// CommitText is the end of a report whose run left files to commit; empty where there are none.
func CommitText(u deploy.Uncommitted) string {
	if len(u.Files) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\ncommit these files of %s, other operators and Nix rely on them:\n", text.Line(u.Dir))
	for i, file := range u.Files {
		if i == maxCommit {
			fmt.Fprintf(&b, "  … and %d more below fleet-state\n", len(u.Files)-i)
			break
		}
		fmt.Fprintf(&b, "  %s\n", text.Line(file))
	}
	return b.String()
}

// usedSteps are the steps that at least one host began.
func usedSteps(r *deploy.Report) []plan.Step {
	used := map[plan.Step]bool{}
	for _, h := range r.Hosts {
		for _, step := range h.Steps {
			used[step.Step] = true
		}
	}
	var steps []plan.Step
	for _, step := range []plan.Step{plan.StepConnect, plan.StepEvaluate, plan.StepBuild, plan.StepPush, plan.StepActivate} {
		if used[step] {
			steps = append(steps, step)
		}
	}
	return steps
}

// resultText is a host's outcome, and how safe it is.
func resultText(h deploy.HostReport) string {
	switch {
	case h.Verdict != "" && h.Verdict != deploy.VerdictLeft:
		return fmt.Sprintf("%s (%s)", h.Outcome, h.Verdict)
	case h.RunsNewBootsOld:
		return string(h.Outcome) + ", runs new, boots old"
	case h.Verdict != "":
		return fmt.Sprintf("%s (%s)", h.Outcome, h.Verdict)
	}
	return string(h.Outcome)
}

func stepText(h deploy.HostReport, step plan.Step) string {
	for _, s := range h.Steps {
		if s.Step == step {
			return text.Duration(s.Duration)
		}
	}
	return "-"
}

func sentText(h deploy.HostReport) string {
	if h.WireBytes == 0 {
		return "-"
	}
	return text.Bytes(h.WireBytes)
}

func generationText(h deploy.HostReport) string {
	if h.Generation == 0 {
		return "-"
	}
	return strconv.Itoa(h.Generation)
}

// writeFailure says why a host failed, with the logs of its units.
func writeFailure(b *strings.Builder, h deploy.HostReport, s style) {
	step, err := cause(h.Err)
	if err == nil || h.Outcome == deploy.OutcomeDetached {
		return
	}
	what := string(step) + " " + string(h.Outcome)
	if h.Outcome == deploy.OutcomeSecrets {
		what = "secrets need action"
	}
	fmt.Fprintf(b, "\n%s\n", s.paint(bold, text.Line(h.Host)+": "+what))
	for _, l := range strings.Split(strings.TrimSpace(text.Clean(err.Error())), "\n") {
		fmt.Fprintf(b, "  %s\n", l)
	}
	for _, u := range h.FailedUnits {
		fmt.Fprintf(b, "  %s failed:\n", text.Line(u.Name))
		for _, l := range u.Log {
			fmt.Fprintf(b, "    %s\n", text.Line(l))
		}
	}
	for _, hint := range hintLines(cli.Hints(err)) {
		fmt.Fprintln(b, hint)
	}
}

// writeNotices says what a person should know although nothing has failed.
func writeNotices(b *strings.Builder, h deploy.HostReport) {
	for _, notice := range h.Notices {
		fmt.Fprintf(b, "\n%s: note: %s\n", text.Line(h.Host), text.Line(notice))
	}
}

// cause takes a host's error apart: the table names the host already.
func cause(err error) (plan.Step, error) {
	var host *deploy.HostError
	if errors.As(err, &host) {
		return host.Step, host.Err
	}
	return "", err
}

// counts is the last line: how many hosts ended how.
func counts(r *deploy.Report) string {
	number := map[deploy.Outcome]int{}
	var order []deploy.Outcome
	for _, h := range r.Hosts {
		if number[h.Outcome] == 0 {
			order = append(order, h.Outcome)
		}
		number[h.Outcome]++
	}
	parts := make([]string, len(order))
	for i, o := range order {
		parts[i] = fmt.Sprintf("%d %s", number[o], o)
		if o == deploy.OutcomeSecrets {
			parts[i] = fmt.Sprintf("%d without secrets", number[o])
		}
	}
	if len(parts) == 0 {
		return "no hosts"
	}
	return strings.Join(parts, ", ")
}

func firstLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(text.Clean(s)), "\n")
	if more {
		first += " …"
	}
	return first
}

// HostText is the result of one host on its own, where a table would say little.
func HostText(h deploy.HostReport) string {
	var b strings.Builder
	if h.Outcome.Success() || h.Verdict != "" {
		fmt.Fprintf(&b, "%s: %s", text.Line(h.Host), resultText(h))
		if h.Generation > 0 {
			fmt.Fprintf(&b, ", generation %d", h.Generation)
		}
		b.WriteByte('\n')
	}
	writeFailure(&b, h, style{})
	writeNotices(&b, h)
	return strings.TrimPrefix(b.String(), "\n")
}
