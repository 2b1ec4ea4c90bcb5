package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"fleet/cmd/fleet-helper/internal/text"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
	"fleet/secretsgen"
	"fleet/secretsgen/decide"
)

// secretsStatusOutput is what secrets status --json prints.
type secretsStatusOutput struct {
	FormatVersion int `json:"formatVersion"`
	ExitCode      int `json:"exitCode"`
	*secretsgen.Status
}

// secretsReportOutput is what the commands that change secrets print with --json.
type secretsReportOutput struct {
	FormatVersion int `json:"formatVersion"`
	ExitCode      int `json:"exitCode"`
	*secretsgen.Report
	// FilesToCommit are relative to the folder of the flake, also those of earlier runs.
	FilesToCommit []string `json:"filesToCommit"`
}

// statusExit is 5 where something is to be done, 3 where some hosts could not be looked at, else 0.
func statusExit(s *secretsgen.Status) deploy.ExitCode {
	code := problemsExit(s.Hosts)
	for _, one := range s.Secrets {
		if one.Action != secretsgen.ActionNone || one.NeedsHuman != "" || one.Broken != "" {
			return deploy.ExitSecrets
		}
	}
	return code
}

// reportExit is 5 where something waits for a person or has failed, 3 where hosts could not be looked at, else 0.
func reportExit(r *secretsgen.Report) deploy.ExitCode {
	for _, one := range r.Secrets {
		if one.Error != "" || one.NeedsHuman != "" {
			return deploy.ExitSecrets
		}
	}
	return problemsExit(r.Hosts)
}

// problemsExit is that of hosts without secrets. One whose key is not known yet holds nobody up.
func problemsExit(problems []secretsgen.HostProblem) deploy.ExitCode {
	code := deploy.ExitOK
	for _, p := range problems {
		switch p.Kind {
		case secretsgen.KindKeyless:
		case secretsgen.KindKeyType, secretsgen.KindSharedKey, secretsgen.KindUnaccepted:
			return deploy.ExitSecrets
		default:
			code = deploy.ExitHostsFailed
		}
	}
	return code
}

// stateText is the cell for how a secret stands.
func stateText(s secretsgen.SecretStatus) string {
	switch {
	case s.Broken != "":
		return "broken"
	case undeclared(s.Rules):
		return "undeclared"
	case s.NeedsHuman != "":
		return "needs you"
	case s.Action != secretsgen.ActionNone:
		return string(s.Action)
	case len(s.Pending) > 0:
		return "pending"
	}
	return "ok"
}

// undeclared says whether the rule of secrets that nothing declares applies.
func undeclared(rules []int) bool { return slices.Contains(rules, int(decide.RuleUndeclared)) }

// statusWhy is the cell for what is to be done and why.
func statusWhy(s secretsgen.SecretStatus, now time.Time) string {
	switch {
	case s.Broken != "":
		return firstLine(s.Broken)
	case s.NeedsHuman != "":
		return withoutName(s.ID.String(), firstLine(s.NeedsHuman))
	case s.Action != secretsgen.ActionNone, undeclared(s.Rules):
		return firstLine(s.Why)
	case len(s.Pending) > 0:
		return "waits for the keys of " + strings.Join(s.Pending, ", ")
	case s.ExpiresAt != nil:
		return "expires " + expiry(*s.ExpiresAt, now)
	}
	return "-"
}

// rulesText is the cell for the rules that apply; the rule that says that nothing is to be done is none.
func rulesText(rules []int) string {
	var words []string
	for _, r := range rules {
		if r != int(decide.RuleUnchanged) {
			words = append(words, fmt.Sprint(r))
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, " ")
}

// maxOwners bounds how many owners a cell names.
const maxOwners = 3

// ownersText is the cell for owners: a few names, or how many.
func ownersText(owners []string) string {
	switch {
	case len(owners) == 0:
		return "-"
	case len(owners) <= maxOwners:
		return strings.Join(owners, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(owners[:maxOwners-1], " "), len(owners)-maxOwners+1)
}

// expiry is a moment for a person.
func expiry(at, now time.Time) string {
	days := int(at.Sub(now).Hours() / 24)
	switch {
	case at.Before(now):
		return at.Format(time.DateOnly) + ", in the past"
	case days < 2:
		return at.Format("2006-01-02 15:04 MST")
	}
	return fmt.Sprintf("%s, in %d days", at.Format(time.DateOnly), days)
}

// withoutName drops the name from the beginning of a sentence that stands in the row of that name.
func withoutName(name, sentence string) string {
	if rest, ok := strings.CutPrefix(sentence, name+" has "); ok {
		return "it has " + rest
	}
	return sentence
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// writeSecretsStatus prints the table, what else there is to say, and at the end what to do, a command a line.
func writeSecretsStatus(w io.Writer, g *globals, s *secretsgen.Status, now time.Time) error {
	var b strings.Builder
	if len(s.Secrets) == 0 {
		b.WriteString("no secrets\n")
	} else {
		table := ui.Table{Header: []string{"SECRET", "OWNERS", "STATE", "RULE", "WHY"}}
		for _, one := range s.Secrets {
			owners := one.Declared
			if len(owners) == 0 {
				owners = one.Owners
			}
			table.Rows = append(table.Rows, []ui.Cell{{Text: one.ID.String()}, {Text: ownersText(owners)}, {Text: stateText(one)}, {Text: rulesText(one.Rules)}, {Text: g.spell(statusWhy(one, now))}})
		}
		b.WriteString(table.String())
	}
	for _, one := range s.Secrets {
		if !undeclared(one.Rules) { // the table says it
			writeNotices(&b, g, one.ID.String(), one.Notices)
		}
	}
	commands := writeHostProblems(&b, g, s.Hosts)
	writeToDo(&b, append(commands, statusCommands(g, s)...))
	_, err := io.WriteString(w, b.String())
	return err
}

// statusCommands are what a person does about a status, in order.
func statusCommands(g *globals, s *secretsgen.Status) []string {
	var own []string
	sync, prune := false, false
	for _, one := range s.Secrets {
		switch {
		case undeclared(one.Rules):
			prune = true
		case one.Action != secretsgen.ActionNone && one.Broken == "":
			sync = true
		}
		if (one.NeedsHuman != "" || one.Broken != "") && one.Hint != "" {
			own = append(own, g.spell(one.Hint))
		}
	}
	var list []string
	if sync {
		list = append(list, g.secretsCommand()+" sync")
	}
	list = append(list, own...)
	if prune {
		list = append(list, g.secretsCommand()+" prune")
	}
	return list
}

func writeNotices(b *strings.Builder, g *globals, what string, notices []string) {
	for _, notice := range notices {
		fmt.Fprintf(b, "\n%s: %s\n", text.Line(what), text.Line(g.spell(notice)))
	}
}

// writeHostProblems says why hosts get no secrets. Those without a known key are many in a new fleet, and one line; the command for them is returned.
func writeHostProblems(b *strings.Builder, g *globals, problems []secretsgen.HostProblem) []string {
	var keyless []string
	for _, p := range problems {
		if p.Kind == secretsgen.KindKeyless {
			keyless = append(keyless, p.Host)
			continue
		}
		fmt.Fprintf(b, "\n%s: %s\n", text.Line(p.Host), strings.TrimSpace(text.Clean(p.Message)))
		if p.Hint != "" {
			fmt.Fprintf(b, "  hint: %s\n", text.Line(g.spell(p.Hint)))
		}
	}
	if len(keyless) == 0 {
		return nil
	}
	fmt.Fprintf(b, "\nno key is pinned for %s: their secrets wait\n", strings.Join(keyless, ", "))
	return []string{g.secretsCommand() + " host-key scan " + strings.Join(keyless, " ")}
}

// maxToDo bounds the list of commands.
const maxToDo = 30

// writeToDo prints commands, each once.
func writeToDo(b *strings.Builder, commands []string) {
	seen := map[string]bool{}
	var list []string
	for _, c := range commands {
		if !seen[c] {
			seen[c] = true
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return
	}
	b.WriteString("\nto do:\n")
	for i, c := range list {
		if i == maxToDo {
			fmt.Fprintf(b, "  … and %d more\n", len(list)-i)
			break
		}
		fmt.Fprintf(b, "  %s\n", text.Line(c))
	}
}

// outcomeText is the cell for what became of a secret.
func outcomeText(o secretsgen.Outcome) string {
	switch {
	case o.Error != "":
		return "failed"
	case o.NeedsHuman != "":
		return "needs you"
	case !o.Done && len(o.Pending) > 0:
		return "pending"
	case undeclared(o.Rules) && !o.Done:
		return "undeclared"
	case !o.Done:
		return "-"
	}
	switch o.Action {
	case secretsgen.ActionGenerate:
		return "generated"
	case secretsgen.ActionRegenerate:
		return "regenerated"
	case secretsgen.ActionWrap:
		return "encrypted for " + ownersText(o.Wrapped)
	case secretsgen.ActionRemove:
		return "taken from " + ownersText(o.Removed)
	case secretsgen.ActionPrune:
		return "removed"
	case secretsgen.ActionSet:
		return "set"
	case secretsgen.ActionAccept:
		return "accepted"
	}
	return string(o.Action)
}

// writeSecretsReport prints what was done: a table, then what failed with its remedy, a count, and what to do.
func writeSecretsReport(w io.Writer, g *globals, r *secretsgen.Report) error {
	var b strings.Builder
	if len(r.Secrets) > 0 {
		table := ui.Table{Header: []string{"SECRET", "RESULT", "BY", "WHY"}}
		for _, one := range r.Secrets {
			via := one.Via
			if via == "" {
				via = "-"
			}
			table.Rows = append(table.Rows, []ui.Cell{{Text: one.ID.String()}, {Text: outcomeText(one)}, {Text: via}, {Text: g.spell(outcomeWhy(one))}})
		}
		b.WriteString(table.String())
	}
	var commands []string
	done, failed, waiting := 0, 0, 0
	for _, one := range r.Secrets {
		if !undeclared(one.Rules) {
			writeNotices(&b, g, one.ID.String(), one.Notices)
		} else if !one.Done {
			commands = append(commands, g.secretsCommand()+" prune")
		}
		if one.Error != "" {
			failed++
			fmt.Fprintf(&b, "\n%s: %s\n", one.ID, strings.TrimSpace(text.Clean(one.Error)))
			if one.Hint != "" {
				fmt.Fprintf(&b, "  hint: %s\n", text.Line(g.spell(one.Hint)))
			}
		}
		switch {
		case one.Done:
			done++
		case one.NeedsHuman != "" && one.Error == "":
			waiting++
		}
		if one.NeedsHuman != "" && one.Error == "" && one.Hint != "" {
			commands = append(commands, g.spell(one.Hint))
		}
	}
	commands = append(writeHostProblems(&b, g, r.Hosts), commands...)
	if len(r.Secrets) > 0 {
		b.WriteString("\n")
	}
	b.WriteString(reportCounts(done, failed, waiting, r.Unchanged) + "\n")
	writeToDo(&b, commands)
	_, err := io.WriteString(w, b.String())
	return err
}

func outcomeWhy(o secretsgen.Outcome) string {
	switch {
	case o.Error != "":
		return "see below"
	case o.NeedsHuman != "":
		return withoutName(o.ID.String(), firstLine(o.NeedsHuman))
	case len(o.Pending) > 0 && !o.Done:
		return "waits for the keys of " + strings.Join(o.Pending, ", ")
	}
	return firstLine(o.Why)
}

func reportCounts(done, failed, waiting, unchanged int) string {
	parts := []string{fmt.Sprintf("%d changed", done)}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", failed))
	}
	if waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d waiting for you", waiting))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d unchanged", unchanged)), ", ")
}
