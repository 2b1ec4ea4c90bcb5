package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
	"fleet/secretsgen"
	"fleet/secretsgen/secret"
)

func newSecrets(g *globals) *cli.Command {
	return &cli.Command{
		Name:    "secrets",
		Summary: "Look at, make, re-encrypt and check the secrets of the fleet.",
		Help: `
A secret is NAME where only one has that name, else shared/NAME or host/HOST/NAME. In the flake the same commands are "nix run .#secrets -- COMMAND".

Values are encrypted to the host keys of their owners and to nothing else: what needs a private key is done on an owner, over SSH. Values are read from
standard input or the terminal, never from arguments. What changes is files in fleet-state/, which you commit.

The exit code is 5 where something waits for a person or has failed, and 3 where hosts could not be looked at.`,
		Sub: []*cli.Command{
			newSecretsStatus(g), newSecretsSync(g), newSecretsRegenerate(g), newSecretsRotate(g), newSecretsSet(g), newSecretsAccept(g), newSecretsEdit(g), newSecretsGet(g),
			newSecretsVerify(g), newSecretsRekey(g), newSecretsPrune(g), newSecretsDiff(g), newSecretsLog(g), newSecretsResolve(g), newHostKey(g),
		},
	}
}

// secretsOptions are the flags that the commands on secrets share.
type secretsOptions struct {
	fleet  fleetOptions
	hosts  hostOptions
	global *globals
	json   bool
}

func (o *secretsOptions) addFlags(flags *pflag.FlagSet) {
	o.fleet.addFlakeFlags(flags)
	o.hosts.addFlags(flags)
	flags.BoolVar(&o.json, "json", false, "print JSON")
}

// run opens the fleet's secrets, has work done, and closes them again. The result is printed by show, once the display is gone.
func (o *secretsOptions) run(ctx context.Context, env *cli.Env, work func(context.Context, *vault) (show func() error, err error)) error {
	if err := o.hosts.validate(); err != nil {
		return err
	}
	env = withoutColor(env, o.global)
	display := ui.ForResult(env)
	defer display.Close()
	v, err := o.open(ctx, env, display)
	if err != nil {
		return err
	}
	show, err := work(ctx, v)
	err = errors.Join(err, v.Close())
	display.Close()
	if err != nil {
		return err
	}
	return show()
}

// secretsCommand is what a person types before the command of this group.
func (g *globals) secretsCommand() string {
	switch {
	case g.appSource == "" && g.fleet == defaultFleet:
		return "fleet secrets"
	case g.appSource == "":
		return "fleet --fleet " + g.fleet + " secrets"
	case g.fleet == defaultFleet:
		return "nix run .#secrets --"
	}
	return "nix run .#secrets-" + g.fleet + " --"
}

// spell writes the commands of a hint as this person types them.
func (g *globals) spell(hint string) string {
	return strings.ReplaceAll(hint, "fleet secrets ", g.secretsCommand()+" ")
}

// finish prints a report, and says what to commit. It is the end of every command that changes secrets.
func (o *secretsOptions) finish(ctx context.Context, env *cli.Env, v *vault, report *secretsgen.Report) error {
	code := reportExit(report)
	files := v.op.state.Uncommitted(context.WithoutCancel(ctx))
	var err error
	if o.json {
		err = writeJSON(env.Stdout, secretsReportOutput{FormatVersion: outputVersion, ExitCode: int(code), Report: report, FilesToCommit: append([]string{}, files...)})
	} else if err = writeSecretsReport(env.Stdout, o.global, report); err == nil {
		_, err = fmt.Fprint(env.Stderr, ui.CommitText(deploy.Uncommitted{Dir: v.op.state.Dir(), Files: files}))
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return cli.Status(int(code))
}

// known lists the secrets that are declared or in the state. hosts, unless nil, restricts it to those of these hosts.
func (v *vault) known(ctx context.Context, hosts []string) ([]secret.ID, error) {
	status, err := v.engine.Status(ctx, secretsgen.Selection{Hosts: hosts})
	if err != nil {
		return nil, err
	}
	return idsOf(status), nil
}

// hostsOf returns the hosts that have to be evaluated to know what words name: those of words that name theirs in full, nil for all.
func hostsOf(words []string) []string {
	var hosts []string
	for _, word := range words {
		id, err := secret.ParseID(word)
		if err != nil {
			return nil
		}
		host, own := id.Scope.Host()
		if !own {
			return nil
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// one finds the secret that a word names.
func (v *vault) one(ctx context.Context, word, host string) (secretsgen.SecretStatus, error) {
	if host != "" {
		if _, ok := v.op.plan.Hosts[host]; !ok {
			return secretsgen.SecretStatus{}, v.unknownHost(host)
		}
	}
	status, err := v.engine.Status(ctx, secretsgen.Selection{Hosts: v.existing(hostsOf([]string{word}))})
	if err != nil {
		return secretsgen.SecretStatus{}, err
	}
	id, err := oneSecret(idsOf(status), word, host)
	if err != nil {
		return secretsgen.SecretStatus{}, err
	}
	return status.Secrets[slices.IndexFunc(status.Secrets, func(one secretsgen.SecretStatus) bool { return one.ID == id })], nil
}

func idsOf(status *secretsgen.Status) []secret.ID {
	var ids []secret.ID
	for _, one := range status.Secrets {
		ids = append(ids, one.ID)
	}
	return ids
}

// some finds the secrets that words name; nil where there are no words.
func (v *vault) some(ctx context.Context, words, hosts []string, every bool) ([]secret.ID, error) {
	if len(words) == 0 {
		return nil, nil
	}
	if hosts == nil {
		hosts = v.existing(hostsOf(words))
	}
	known, err := v.known(ctx, hosts)
	if err != nil {
		return nil, err
	}
	return selectSecrets(known, words, every)
}

// existing is hosts, or nil, which means all, where one of them is no host of the fleet: the state may still have its secrets.
func (v *vault) existing(hosts []string) []string {
	for _, host := range hosts {
		if _, ok := v.op.plan.Hosts[host]; !ok {
			return nil
		}
	}
	return hosts
}

func (v *vault) unknownHost(host string) error {
	var names []string
	for name := range v.op.plan.Hosts {
		names = append(names, name)
	}
	return &cli.UsageError{Err: fmt.Errorf("there is no host %q in fleet %q", host, v.op.plan.Fleet), Remedy: cli.DidYouMean(host, names, "")}
}

// selectedHosts is nil, which means all secrets, where no selector was given.
func (v *vault) selectedHosts(sel *selectOptions) ([]string, error) {
	if len(sel.on)+len(sel.exclude) == 0 {
		return nil, nil
	}
	return sel.apply(v.op.plan, v.op.env.Stdin)
}

// selection is what --on and names say together.
func (v *vault) selection(ctx context.Context, sel *selectOptions, words []string) (secretsgen.Selection, error) {
	hosts, err := v.selectedHosts(sel)
	if err != nil {
		return secretsgen.Selection{}, err
	}
	ids, err := v.some(ctx, words, hosts, true)
	return secretsgen.Selection{Hosts: hosts, Secrets: ids}, err
}

// agree asks before something that cannot be taken back. Without a terminal it takes --yes.
func (v *vault) agree(ctx context.Context, yes bool, lines []string, question string) error {
	if yes {
		return nil
	}
	if !v.op.canAsk() {
		return cli.WithHint(fmt.Errorf("ask %q: %w", question, ui.ErrNoTerminal), "--yes does it without asking")
	}
	agreed, err := v.op.prompter.Yes(ctx, lines, question)
	if err != nil {
		return err
	}
	if !agreed {
		return errDeclined
	}
	return nil
}

// errDeclined ends a command that a person said no to.
var errDeclined = errors.New("nothing was changed")

// texts are ids as words.
func texts(ids []secret.ID) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	return list
}

// these counts secrets in a sentence.
func these(ids []secret.ID) string {
	if len(ids) == 1 {
		return "this secret"
	}
	return fmt.Sprintf("these %d secrets", len(ids))
}

// now is the time that expiry is shown against.
func now() time.Time { return time.Now() }
