package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator"
	"fleet/evaluator/plan"
)

// fleetOptions say which fleet, and how it is evaluated.
type fleetOptions struct {
	flake       string
	planFiles   []string
	extStr      []string
	importDirs  []string
	evalWorkers int
	evalMemory  int
	buildJobs   int
	showTrace   bool
	impure      bool
	settings    []string
	overrides   []string
}

func (o *fleetOptions) addFlags(flags *pflag.FlagSet) {
	o.addFlakeFlags(flags)
	flags.StringArrayVar(&o.planFiles, "plan", nil, "use the plan in `FILE`, JSON or Jsonnet, in place of a flake; nothing is evaluated by Nix; several are merged")
	flags.StringArrayVar(&o.extStr, "ext-str", nil, "external variable for a Jsonnet plan, as `NAME=VALUE`; may be repeated")
	flags.StringArrayVar(&o.importDirs, "import-dir", nil, "`DIR` that a Jsonnet plan may import from, beside its own folder; may be repeated")
}

// addFlakeFlags is addFlags for what a plan in a file does not say.
func (o *fleetOptions) addFlakeFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.flake, "flake", "", "the flake, as `REF` that nix takes; by default the nearest flake.nix at or above the working directory")
	flags.IntVar(&o.evalWorkers, "eval-workers", 0, "at most `N` nix processes evaluate at a time; by default as many as cores and memory allow")
	flags.IntVar(&o.evalMemory, "eval-memory", 0, "memory of one evaluating process, in `MIB`; 0 means 4096")
	flags.IntVar(&o.buildJobs, "build-jobs", 0, "at most `N` hosts are built for at a time; 0 means 4")
	flags.BoolVar(&o.showTrace, "show-trace", false, "show Nix's full traces of evaluation errors")
	flags.BoolVar(&o.impure, "impure", false, "let the evaluation read the environment and the machine")
	flags.StringArrayVar(&o.settings, "option", nil, "setting of Nix for evaluation and builds, as `NAME=VALUE`; may be repeated")
	flags.StringArrayVar(&o.overrides, "override-input", nil, "replace an input of the flake, as `INPUT=REF`; may be repeated")
}

func (o *fleetOptions) validate() error {
	switch {
	case o.evalWorkers < 0 || o.evalMemory < 0 || o.buildJobs < 0:
		return cli.Usagef("--eval-workers, --eval-memory and --build-jobs cannot be negative")
	case len(o.planFiles) > 0 && o.flake != "":
		return cli.Usagef("--plan and --flake exclude each other")
	case len(o.planFiles) > 0 && (o.showTrace || o.impure || len(o.settings) > 0 || len(o.overrides) > 0):
		return cli.Usagef("--show-trace, --impure, --option and --override-input are for flakes; a plan is not evaluated by Nix")
	case len(o.planFiles) == 0 && (len(o.extStr) > 0 || len(o.importDirs) > 0):
		return cli.Usagef("--ext-str and --import-dir are for --plan")
	}
	for _, list := range []struct {
		flag  string
		pairs []string
	}{{"--ext-str", o.extStr}, {"--option", o.settings}, {"--override-input", o.overrides}} {
		for _, pair := range list.pairs {
			if name, _, ok := strings.Cut(pair, "="); !ok || name == "" {
				return &cli.UsageError{Err: fmt.Errorf("%s %q: want NAME=VALUE", list.flag, pair), Remedy: fmt.Sprintf("write it as one word: %s %s=VALUE", list.flag, pair)}
			}
		}
	}
	return nil
}

// openBackend picks the backend: files with plans, or a flake.
func (o *fleetOptions) openBackend(env *cli.Env, g *globals, reporter evaluator.Reporter) (evaluator.Backend, error) {
	if len(o.planFiles) == 0 {
		return evaluator.NewNix(o.nixOptions(g, reporter))
	}
	options := evaluator.StaticOptions{
		Files: o.planFiles, ExtStr: map[string]string{}, ImportDirs: o.importDirs, Child: []string{env.Executable, "jsonnet-eval"}, Reporter: reporter,
	}
	if g.fleet != defaultFleet {
		options.Fleet = g.fleet
	}
	for _, pair := range o.extStr {
		name, value, _ := strings.Cut(pair, "=")
		options.ExtStr[name] = value
	}
	return evaluator.NewStatic(options)
}

// nixOptions configure the backend for flakes.
func (o *fleetOptions) nixOptions(g *globals, reporter evaluator.Reporter) evaluator.NixOptions {
	opts := evaluator.NixOptions{
		Fleet: g.fleet, Flake: o.flake, AppSource: g.appSource, Workers: o.evalWorkers, Memory: o.evalMemory, Builds: o.buildJobs,
		ShowTrace: o.showTrace, Impure: o.impure, Reporter: reporter,
	}
	for _, pair := range o.settings {
		name, value, _ := strings.Cut(pair, "=")
		opts.Settings = append(opts.Settings, evaluator.Setting{Name: name, Value: value})
	}
	for _, pair := range o.overrides {
		input, ref, _ := strings.Cut(pair, "=")
		opts.Overrides = append(opts.Overrides, evaluator.Override{Input: input, Ref: ref})
	}
	return opts
}

// workTree is the folder that holds the fleet's state, "" where there is none that could be written: the flake's folder, or that of a plan's file.
func (o *fleetOptions) workTree() string {
	if len(o.planFiles) > 0 {
		return filepath.Dir(o.planFiles[0])
	}
	ref := o.flake
	for _, scheme := range []string{"path:", "git+file://", "git+file:"} {
		if rest, ok := strings.CutPrefix(ref, scheme); ok {
			ref, _, _ = strings.Cut(rest, "?")
			break
		}
	}
	if strings.Contains(ref, ":") {
		return ""
	}
	if ref == "" {
		ref = "."
	}
	dir, err := evaluator.FindFlake(ref)
	if err != nil || strings.HasPrefix(dir, "/nix/store/") {
		return ""
	}
	return dir
}

// selectOptions say which hosts.
type selectOptions struct{ on, exclude []string }

func (o *selectOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.on, "on", nil, "hosts by `SELECTOR`: names, globs, @tags, with | & ! ( ); - reads selectors from standard input, one a line; may be repeated; by default all")
	flags.StringArrayVar(&o.exclude, "exclude", nil, "leave out the hosts that `SELECTOR` names; may be repeated")
}

// apply returns the sorted names of the selected hosts, of which there is at least one.
func (o *selectOptions) apply(p *plan.Plan, stdin io.Reader) ([]string, error) {
	on := o.on
	if i := slices.Index(on, "-"); i >= 0 {
		read, err := plan.SelectFrom(stdin)
		if err != nil {
			return nil, &cli.UsageError{Err: fmt.Errorf("--on -: %w", err), Remedy: "write selectors to standard input, one a line; an empty list never means all hosts"}
		}
		on = slices.Concat(on[:i], read, on[i+1:])
	}
	hosts, err := plan.Select(p, on, o.exclude)
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	if len(hosts) == 0 {
		return nil, &cli.UsageError{Err: fmt.Errorf("select hosts: none of the %d hosts of fleet %q is left", len(p.Hosts), p.Fleet), Remedy: "correct --on and --exclude; fleet hosts lists names and tags"}
	}
	return hosts, nil
}
