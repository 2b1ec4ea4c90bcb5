package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// historyOptions are the flags of commands that only read the state and git. They evaluate nothing, so they also work where the flake does not.
type historyOptions struct {
	flake  string
	global *globals
	json   bool
}

func (o *historyOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.flake, "flake", "", "the flake's folder, as `REF` that nix takes; by default the nearest flake.nix at or above the working directory")
	flags.BoolVar(&o.json, "json", false, "print JSON")
}

// open names the state without evaluating anything.
func (o *historyOptions) open() (*state.Store, error) {
	if err := o.global.validate(); err != nil {
		return nil, err
	}
	dir := (&fleetOptions{flake: o.flake}).workTree()
	if dir == "" {
		return nil, noWorkTree()
	}
	return state.Open(dir, o.global.fleet, run.RunnerFunc(run.Run))
}

// noWorkTree says that there is no folder with a state.
func noWorkTree() error {
	return &cli.UsageError{Err: errors.New("there is no work tree of a flake here, and the state of its secrets is kept in one"), Remedy: "run it in the folder of the flake, or give that with --flake"}
}

// changesOutput is what secrets diff and log print as JSON.
type changesOutput struct {
	FormatVersion int            `json:"formatVersion"`
	Fleet         string         `json:"fleet"`
	Changes       []state.Change `json:"changes"`
}

func newSecretsDiff(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "diff",
		Args:    "[REV]",
		Summary: "Show what became of secrets since a commit: values, owners, expiry.",
		Help:    "REV is any commit that git knows; without it: what is not committed yet. Values are not shown, and nothing is evaluated or connected to.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &historyOptions{global: g}
			o.addFlags(flags)
			return func(ctx context.Context, env *cli.Env, args []string) error {
				rev := "HEAD"
				switch {
				case len(args) > 1:
					return cli.Usagef("one revision, not %d", len(args))
				case len(args) == 1:
					rev = args[0]
				}
				store, err := o.open()
				if err != nil {
					return err
				}
				changes, err := store.Diff(ctx, rev)
				if err != nil {
					return err
				}
				return o.show(env, store.Fleet(), changes, false)
			}
		},
	}
}

func newSecretsLog(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "log",
		Args:    "[NAME]…",
		Summary: "Show from git's history when secrets changed, who committed it, and how; newest first.",
		Help:    "Without NAME: of all secrets that there are. A secret that is gone is named in full. Values are not shown, and nothing is evaluated or connected to.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &historyOptions{global: g}
			o.addFlags(flags)
			return o.log
		},
	}
}

func (o *historyOptions) log(ctx context.Context, env *cli.Env, args []string) error {
	store, err := o.open()
	if err != nil {
		return err
	}
	ids, err := logged(store, args)
	if err != nil {
		return err
	}
	var changes []state.Change
	for _, id := range ids {
		list, err := store.Log(ctx, id)
		if err != nil {
			return err
		}
		changes = append(changes, list...)
	}
	slices.SortStableFunc(changes, func(a, b state.Change) int {
		if a.At.IsZero() != b.At.IsZero() {
			return b2i(b.At.IsZero()) - b2i(a.At.IsZero()) // what is not committed is the newest
		}
		return b.At.Compare(a.At)
	})
	return o.show(env, store.Fleet(), changes, true)
}

// logged are the secrets that words name: those of the state, and whatever is named in full, since it may be gone.
func logged(store *state.Store, words []string) ([]secret.ID, error) {
	tree, err := store.Load()
	if err != nil {
		return nil, err
	}
	var known []secret.ID
	for id := range tree.Secrets {
		known = append(known, id)
	}
	for _, word := range words {
		if id, err := secret.ParseID(word); err == nil && strings.Contains(word, "/") {
			known = append(known, id)
		}
	}
	return selectSecrets(sortSecrets(known), words, true)
}

func (o *historyOptions) show(env *cli.Env, fleet string, changes []state.Change, commits bool) error {
	if o.json {
		return writeJSON(env.Stdout, changesOutput{FormatVersion: outputVersion, Fleet: fleet, Changes: append([]state.Change{}, changes...)})
	}
	return writeChanges(env.Stdout, changes, commits)
}

// writeChanges prints a line a change, with the commits' columns where they are asked for.
func writeChanges(w io.Writer, changes []state.Change, commits bool) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "no changes")
		return err
	}
	table := ui.Table{Header: []string{"SECRET", "CHANGE"}}
	if commits {
		table.Header = []string{"WHEN", "COMMIT", "AUTHOR", "SECRET", "CHANGE"}
	}
	for _, c := range changes {
		row := []ui.Cell{{Text: c.ID.String()}, {Text: changeText(c)}}
		if commits {
			row = append([]ui.Cell{{Text: whenText(c)}, {Text: c.Commit[:min(10, len(c.Commit))]}, {Text: c.Author}}, row...)
		}
		table.Rows = append(table.Rows, row)
	}
	_, err := io.WriteString(w, table.String())
	return err
}

func whenText(c state.Change) string {
	if c.At.IsZero() {
		return "not committed"
	}
	return c.At.Local().Format("2006-01-02 15:04")
}

// changeText is a change in phrases.
func changeText(c state.Change) string {
	var list []string
	switch {
	case c.Removed:
		return "removed"
	case c.OldGen == "" && c.Gen != "":
		list = append(list, "made")
	case c.Gen != c.OldGen:
		list = append(list, "new value")
	}
	if len(c.OwnersAdded) > 0 {
		list = append(list, "for "+strings.Join(c.OwnersAdded, ", "))
	}
	if len(c.OwnersRemoved) > 0 {
		list = append(list, "no longer for "+strings.Join(c.OwnersRemoved, ", "))
	}
	if !sameTime(c.OldExpiresAt, c.ExpiresAt) {
		if c.ExpiresAt == nil {
			list = append(list, "does not expire any more")
		} else {
			list = append(list, "expires "+c.ExpiresAt.Format(time.DateOnly))
		}
	}
	if len(c.OwnersRewrapped) > 0 {
		list = append(list, "encrypted anew for "+strings.Join(c.OwnersRewrapped, ", "))
	}
	if len(list) == 0 {
		return "metadata"
	}
	return strings.Join(list, "; ")
}

func sameTime(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}

// resolveOptions are the flags of resolve.
type resolveOptions struct {
	historyOptions
	ours, theirs bool
}

func newSecretsResolve(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "resolve",
		Args:    "[NAME]…",
		Summary: "End git's conflicts in secrets with the whole value of one side.",
		Help: `
Two people who made new values of one secret get a conflict in its files, on purpose: halves of two values fit no lock. --ours takes what the branch has that
you are on, --theirs what is merged into it (in a rebase git turns the words around). Without NAME: all secrets with a conflict. Then commit, and run
"secrets sync": owners that only the other side added are encrypted for again.`,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			o := &resolveOptions{historyOptions: historyOptions{global: g}}
			o.addFlags(flags)
			flags.BoolVar(&o.ours, "ours", false, "take the value of the branch that you are on")
			flags.BoolVar(&o.theirs, "theirs", false, "take the value of what is merged")
			return o.resolve
		},
	}
}

// resolveOutput is what secrets resolve --json prints.
type resolveOutput struct {
	FormatVersion int         `json:"formatVersion"`
	Fleet         string      `json:"fleet"`
	Resolved      []secret.ID `json:"resolved"`
}

func (o *resolveOptions) resolve(ctx context.Context, env *cli.Env, args []string) error {
	if o.ours == o.theirs {
		return &cli.UsageError{Err: errors.New("resolve needs --ours or --theirs"), Remedy: "secrets resolve --ours takes the value of the branch that you are on, --theirs that of what is merged"}
	}
	side := state.Ours
	if o.theirs {
		side = state.Theirs
	}
	store, err := o.open()
	if err != nil {
		return err
	}
	resolved, err := resolveConflicts(ctx, store, args, side)
	if err != nil {
		return err
	}
	if o.json {
		return writeJSON(env.Stdout, resolveOutput{FormatVersion: outputVersion, Fleet: store.Fleet(), Resolved: append([]secret.ID{}, resolved...)})
	}
	if len(resolved) == 0 {
		_, err = fmt.Fprintln(env.Stdout, "no secret has a conflict")
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "took %s of:\n  %s\n\nto do:\n  git commit\n  %s sync\n", side, strings.Join(texts(resolved), "\n  "), o.global.secretsCommand())
	return err
}

// resolveConflicts ends the conflicts of the secrets that words name.
func resolveConflicts(ctx context.Context, store *state.Store, words []string, side state.Side) ([]secret.ID, error) {
	conflicts, err := store.Conflicts(ctx)
	if err != nil || len(conflicts) == 0 {
		return nil, err
	}
	ids, err := selectSecrets(conflicts, words, true)
	if err != nil {
		return nil, err
	}
	return (&secretsgen.Engine{State: store, Now: time.Now}).Resolve(ctx, ids, side)
}
