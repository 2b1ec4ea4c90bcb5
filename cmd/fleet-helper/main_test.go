package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
)

// TestMain lets the scripts run the real main, under all names that it has.
func TestMain(m *testing.M) {
	run := func() { os.Exit(realMain()) }
	testscript.Main(m, map[string]func(){"fleet": run, "gh": run, "encrypt": run, "edit-privately": editPrivatelyMain})
}

var update = flag.Bool("update", false, "write what is generated, and the scripts' expected output")

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, ".state"))
			env.Setenv("NO_COLOR", "1")
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "operator")
				env.Setenv("GIT_"+who+"_EMAIL", "operator@example.org")
			}
			return nil
		},
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "lockflake": lockFlake},
		Condition: installed,
	})
}

// exits runs a program and compares its exit code: exits CODE PROGRAM ARGS…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// installed is the condition [installed:PROGRAM]. Where everything is expected to be there it is always true, so that nothing is skipped.
func installed(condition string) (bool, error) {
	program, ok := strings.CutPrefix(condition, "installed:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", condition)
	}
	_, err := exec.LookPath(program)
	return err == nil || os.Getenv("FLEET_REQUIRE_ALL") == "1", nil
}

// lockFlake locks a flake to this repository and the stand-ins, as checks/offline/README.md says: lockflake DIR.
func lockFlake(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: lockflake DIR")
	}
	repository := filepath.Join(filepath.Dir(ts.MkAbs(".")), "repository-"+filepath.Base(ts.MkAbs(".")))
	copyRepository(ts, repository)
	standins := filepath.Join(repository, "checks", "offline")
	ts.Check(ts.Exec("nix", "--extra-experimental-features", "nix-command flakes", "flake", "lock", "path:"+ts.MkAbs(args[0]),
		"--override-input", "fleet", "path:"+repository, "--override-input", "nixpkgs", "path:"+filepath.Join(standins, "nixpkgs"),
		"--override-input", "flake-parts", "path:"+filepath.Join(standins, "flake-parts")))
}

// copyRepository copies the parts of the repository that its flake reads.
func copyRepository(ts *testscript.TestScript, to string) {
	from := filepath.Join("..", "..")
	for _, name := range []string{"flakeModule", filepath.Join("checks", "offline"), "closure", "cmd", "evaluator", "push", "secretsgen"} {
		ts.Check(os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name))))
	}
	for _, name := range []string{"flake.nix", "flake.lock", "go.mod", "go.sum", "VERSION"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(to, name), data, 0o644))
	}
}

func TestEveryCommandAndFlagIsDescribed(t *testing.T) {
	cli.Walk(newRoot(), func(path []*cli.Command, flags *pflag.FlagSet) {
		cmd := path[len(path)-1]
		var words []string
		for _, c := range path {
			words = append(words, c.Name)
		}
		name := strings.Join(words, " ")
		if cmd.Summary == "" || !strings.HasSuffix(cmd.Summary, ".") || strings.Contains(cmd.Summary, "\n") {
			t.Errorf("%s: the summary is one sentence, not %q", name, cmd.Summary)
		}
		if cmd.Help == "" {
			t.Errorf("%s: no help", name)
		}
		if (cmd.New == nil) == (len(cmd.Sub) == 0) {
			t.Errorf("%s: it must either run or have commands", name)
		}
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") || f.Usage[0] >= 'A' && f.Usage[0] <= 'Z' {
				t.Errorf("%s --%s: the description is a phrase, not %q", name, f.Name, f.Usage)
			}
			if kind, _ := pflag.UnquoteUsage(f); f.Value.Type() != "bool" && kind != strings.ToUpper(kind) {
				t.Errorf("%s --%s: the value has no name in back quotes", name, f.Name)
			}
		})
		sub := map[string]bool{}
		for _, c := range cmd.Sub {
			if sub[c.Name] {
				t.Errorf("%s %s is there twice", name, c.Name)
			}
			sub[c.Name] = true
		}
	})
}

func TestNoGlobalFlagHidesOneOfACommand(t *testing.T) {
	var global []string
	cli.Walk(newRoot(), func(path []*cli.Command, flags *pflag.FlagSet) {
		flags.VisitAll(func(f *pflag.Flag) {
			if len(path) == 1 {
				global = append(global, f.Name)
			} else if slices.Contains(global, f.Name) {
				t.Errorf("%s has the global flag --%s", path[len(path)-1].Name, f.Name)
			}
		})
	})
}

func TestReference(t *testing.T) {
	generated(t, filepath.Join("..", "..", "docs", "reference", "cli.md"), func(string) string { return cli.Reference(newRoot()) })
	generated(t, filepath.Join("..", "..", "docs", "errors.md"), func(old string) string {
		const begin, end = "<!-- exit codes: generated -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(old, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatal("docs/errors.md has no place for the exit codes")
		}
		return before + begin + cli.ErrorsTable() + end + after
	})
}

// generated compares a file with what it should be, or writes it with -update.
func generated(t *testing.T, path string, make func(old string) string) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	want := make(string(old))
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(old)); diff != "" {
		t.Errorf("%s is out of date; run go test ./cmd/fleet-helper -run TestReference -update\n%s", path, diff)
	}
}
