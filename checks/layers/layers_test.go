// Package layers holds the architecture: which package may import which. It reads the imports in
// process, because a test that shells out to the go command is cached by it and goes stale.
package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "fleet"

// rule says what a package may import of this module. A folder that is allowed includes what is below it.
type rule struct {
	pkg    string
	allow  []string
	reason string
}

// rules are the table of docs/architecture.md. The longest pkg that contains a package decides.
var rules = [...]rule{
	{"cmd/fleet-helper", []string{"cmd", "push", "evaluator", "closure", "secretsgen"}, "the top wires everything"},
	{"push/deploy", []string{"push", "evaluator", "closure", "secretsgen"}, "the pipeline of a deployment joins evaluation, secrets and hosts"},
	{"push", []string{"closure", "push/transport", "push/proto", "push/health", "evaluator/plan"}, "the operator's side knows hosts, not how they are evaluated"},
	{"push/agent", []string{"closure", "push/proto", "push/guard", "push/health", "secretsgen/secret", "secretsgen/seal", "secretsgen/step", "secretsgen/install"}, "the host's side never evaluates, and connects only to what the operator has told it of"},
	{"push/guard", nil, "what a guard decides depends on nothing but what it is told"},
	{"push/health", []string{"push/proto", "closure/run"}, "whoever can reach something can look whether it works"},
	{"push/proto", nil, "both sides import it, so it carries nothing along"},
	{"push/transport", []string{"closure/run", "evaluator/plan"}, "SSH knows nothing of stores"},
	{"push/transport/transporttest", []string{"push/transport", "closure/run"}, "the conformance suite of all transports"},
	{"evaluator", []string{"evaluator/plan", "closure/run", "closure/storepath"}, "evaluation reaches no host"},
	{"evaluator/plan", nil, "the contract between Nix and Go is pure"},
	{"secretsgen", []string{"secretsgen", "evaluator/plan", "closure/run"}, "it reaches hosts and evaluation through interfaces of its own"},
	{"secretsgen/secret", nil, "the vocabulary of secrets is pure"},
	{"secretsgen/public", []string{"secretsgen/secret", "evaluator/plan"}, "types of public parts are those of the plan"},
	{"secretsgen/seal", []string{"secretsgen/secret"}, "both sides encrypt with it, so it carries nothing along"},
	{"secretsgen/material", []string{"secretsgen/secret"}, "keys and passwords are made in memory"},
	{"secretsgen/step", []string{"secretsgen/secret", "secretsgen/seal", "secretsgen/public", "closure/run", "evaluator/plan"}, "a generator runs on either side"},
	{"secretsgen/install", []string{"secretsgen/secret", "secretsgen/seal"}, "it runs on a host before anything else does"},
	{"secretsgen/state", []string{"secretsgen/secret", "secretsgen/seal", "closure/run"}, "the state is files and git, and decides nothing"},
	{"secretsgen/decide", []string{"secretsgen/secret", "secretsgen/state", "evaluator/plan"}, "what must change is decided without looking around"},
	{"secretsgen/check", []string{"secretsgen/secret", "secretsgen/seal", "secretsgen/public", "secretsgen/state", "secretsgen/decide", "evaluator/plan"}, "a check proves what it can without a key and without a host"},
	{"secretsgen/trust", []string{"secretsgen/secret"}, "whose key it is, is kept on the operator's machine"},
	{"closure", []string{"closure", "evaluator/plan"}, "stores know nothing of hosts"},
	{"closure/storetest", []string{"closure"}, "private stores for tests"},
	{"closure/direct", []string{"closure", "closure/buffer", "closure/daemon", "closure/nar", "closure/storepath", "closure/run"}, "it takes what a closure.Importer takes"},
	{"closure/daemon", []string{"closure/nar", "closure/storepath", "closure/wire", "closure/run"}, "a protocol client"},
	{"closure/buffer", nil, "memory"},
	{"closure/chunk", []string{"closure/delta"}, "a codec: it names copies as deltas do"},
	{"closure/delta", nil, "a codec"},
	{"closure/nar", nil, "a codec"},
	{"closure/duplicates", []string{"closure", "closure/delta", "closure/nar", "closure/pack", "closure/storepath"}, "it plans what units are made of, and looks at stores through an interface"},
	{"closure/pack", []string{"closure/delta", "closure/storepath"}, "a codec: what it reads and writes comes through interfaces"},
	{"closure/serve", []string{"closure/storepath", "closure/wire"}, "a protocol client"},
	{"closure/warm", nil, "it is told what reading ahead is"},
	{"closure/wire", []string{"closure/storepath"}, "a codec"},
	{"closure/storepath", nil, "a value"},
	{"closure/run", nil, "the starter of processes"},
}

// ban forbids one package, of this module or another, to importers.
type ban struct {
	importer, banned string
	// except are importers below importer that may.
	except []string
	// transitive also forbids it through other packages of this module.
	transitive bool
	reason     string
}

var bans = [...]ban{
	{"", "os/exec", []string{"closure/run"}, false, "only closure/run starts processes, so that none is left behind"},
	{"", "github.com/sirupsen/logrus", []string{"cmd/fleet-helper"}, false, "libraries emit events and never log"},
	{"", "github.com/spf13/pflag", []string{"cmd/fleet-helper"}, false, "flags belong to the command line"},
	{"", "log", nil, false, "libraries emit events and never log"},
	{"", "unsafe", []string{"push/transport", "closure/run"}, false, "only system calls that x/sys lacks need it"},
	{"push/agent", "evaluator", nil, true, "nothing on a host evaluates"},
	{"push/agent", "github.com/google/go-jsonnet", nil, true, "nothing on a host evaluates"},
	{"push/agent", "push/transport", nil, true, "a host logs in nowhere"},
	{"push/agent", "push", nil, true, "the two sides meet in push/proto alone"},
	{"push", "push/agent", []string{"push/agent"}, true, "the two sides meet in push/proto alone"},
	{"", "secretsgen", []string{"cmd/fleet-helper", "push/deploy", "secretsgen"}, false, "only the pipeline and the command line make secrets"},
	{"push/agent", "secretsgen", nil, true, "a host decides nothing about secrets"},
	{"push/agent", "secretsgen/state", nil, true, "a host has no state in git"},
	{"secretsgen", "push", nil, true, "hosts are reached through an interface"},
	{"secretsgen", "evaluator", nil, true, "evaluation is asked through an interface"},
	{"secretsgen/decide", "os", nil, false, "it is pure"},
	{"secretsgen/decide", "net", nil, false, "it is pure"},
	{"", "github.com/google/renameio/v2", []string{"push/agent", "push/hostkeys", "secretsgen/state", "secretsgen/trust"}, false, "what is replaced by a rename is written in few places"},
	{"evaluator/plan", "os", nil, false, "the contract does no input or output"},
	{"push/proto", "os", nil, false, "frames travel over what the caller opened"},
	{"push/proto", "net", nil, false, "frames travel over what the caller opened"},
}

// packages maps every package of the module, tests left out, to its imports.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	root := filepath.Join("..", "..")
	result := map[string][]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "checks") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(name)
		result[pkg] = append(result[pkg], importsOf(file.Imports)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func within(pkg, folder string) bool {
	return folder == "" || pkg == folder || strings.HasPrefix(pkg, folder+"/")
}

func withinAny(pkg string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return within(pkg, folder) })
}

// ruleFor finds the most specific rule of a package.
func ruleFor(pkg string) (rule, bool) {
	var best rule
	for _, r := range rules {
		if within(pkg, r.pkg) && len(r.pkg) > len(best.pkg) {
			best = r
		}
	}
	return best, best.pkg != ""
}

func TestEveryPackageImportsOnlyWhatItsRuleAllows(t *testing.T) {
	pkgs := packages(t)
	for _, pkg := range slices.Sorted(maps.Keys(pkgs)) {
		r, ok := ruleFor(pkg)
		if !ok {
			t.Errorf("%s: no rule covers it; add one with its reason", pkg)
			continue
		}
		for _, imported := range pkgs[pkg] {
			local, ok := strings.CutPrefix(imported, module+"/")
			if ok && !within(local, pkg) && !withinAny(local, r.allow) {
				t.Errorf("%s imports %s, which its rule does not allow: %s", pkg, local, r.reason)
			}
		}
	}
}

func TestBannedPackagesAreNotImported(t *testing.T) {
	pkgs := packages(t)
	for _, b := range bans {
		for pkg := range pkgs {
			if !within(pkg, b.importer) || withinAny(pkg, b.except) {
				continue
			}
			if via := findImport(pkgs, pkg, b, map[string]bool{}); via != nil {
				t.Errorf("%s imports %s (%s): %s", pkg, b.banned, strings.Join(via, " → "), b.reason)
			}
		}
	}
}

// findImport returns the way from pkg to what b bans, or nil.
func findImport(pkgs map[string][]string, pkg string, b ban, seen map[string]bool) []string {
	seen[pkg] = true
	for _, imported := range pkgs[pkg] {
		local, ours := strings.CutPrefix(imported, module+"/")
		if imported == b.banned || ours && local == b.banned {
			return []string{pkg, b.banned}
		}
		if ours && b.transitive && !seen[local] {
			if via := findImport(pkgs, local, b, seen); via != nil {
				return append([]string{pkg}, via...)
			}
		}
	}
	return nil
}

func TestEveryRuleNamesAPackageThatExists(t *testing.T) {
	pkgs := packages(t)
	exists := func(folder string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(pkgs)), func(pkg string) bool { return within(pkg, folder) })
	}
	for _, r := range rules {
		for _, folder := range append([]string{r.pkg}, r.allow...) {
			if !exists(folder) {
				t.Errorf("the rule of %q names %q, which does not exist", r.pkg, folder)
			}
		}
	}
	for _, b := range bans {
		for _, folder := range append([]string{b.importer}, b.except...) {
			if !exists(folder) {
				t.Errorf("the ban of %q names %q, which does not exist", b.banned, folder)
			}
		}
	}
}

func importsOf(specs []*ast.ImportSpec) []string {
	var paths []string
	for _, spec := range specs {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}
