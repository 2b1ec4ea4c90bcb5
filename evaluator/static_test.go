package evaluator_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/storepath"
	"fleet/evaluator"
	"fleet/evaluator/plan"
)

// TestMain makes the test binary its own Jsonnet child, as the product's binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "jsonnet-eval" {
		if err := evaluator.RunJsonnetChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const outPath = "/nix/store/11111111111111111111111111111111-web"

// staticPlan is a plan with one record.
func staticPlan(fleet string, hosts ...string) *plan.Plan {
	p := &plan.Plan{
		FormatVersion: 1, Fleet: fleet, Hosts: map[string]plan.Host{}, Records: map[string]plan.Record{},
		Helpers: map[string]plan.Helper{
			"x86_64-linux":  {Path: "/nix/store/00000000000000000000000000000000-fleet-helper"},
			"aarch64-linux": {Package: "fleet-helper-aarch64-linux"},
		},
	}
	for _, name := range hosts {
		p.Hosts[name] = plan.Host{
			System: "x86_64-linux", Tags: []string{"all"},
			Deploy: plan.Deploy{Address: name, Transport: "native", Elevation: "auto", BuildOn: "operator"},
		}
		p.Records[name] = plan.Record{System: &plan.System{OutPath: outPath}}
	}
	return p
}

func writePlan(t *testing.T, file string, p *plan.Plan) {
	t.Helper()
	data, err := plan.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(data))
}

func newStatic(t *testing.T, change func(*evaluator.StaticOptions), files ...string) *evaluator.Static {
	t.Helper()
	opts := evaluator.StaticOptions{
		Files: files, Child: []string{os.Args[0], "jsonnet-eval"},
		Valid: func(_ context.Context, paths []storepath.Path) error {
			if paths[0].Name() != "web" {
				return errors.New("it is not valid")
			}
			return nil
		},
	}
	if change != nil {
		change(&opts)
	}
	s, err := evaluator.NewStatic(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// load reads a static plan.
func load(t *testing.T, s *evaluator.Static) (*plan.Plan, error) {
	t.Helper()
	snapshot, err := s.Snapshot(t.Context())
	if err != nil {
		return nil, err
	}
	return s.Plan(t.Context(), snapshot)
}

func TestStaticPlanFromJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.json")
	writePlan(t, file, staticPlan("default", "web-1", "web-2"))
	s := newStatic(t, nil, file)
	p, err := load(t, s)
	if err != nil {
		t.Fatal(err)
	}
	delete(p.Records, "web-2")
	got := map[string]error{}
	if err := s.Records(t.Context(), evaluator.Snapshot{}, p, []string{"web-1", "web-2"}, func(r evaluator.RecordResult) { got[r.Host] = r.Err }); err != nil {
		t.Fatal(err)
	}
	if got["web-1"] != nil || got["web-2"] == nil || !strings.Contains(hint(got["web-2"]), "--with-records --on web-2") {
		t.Errorf("got %v", got)
	}
	if err := s.Build(t.Context(), evaluator.BuildRequest{Host: "web-1", System: *p.Records["web-1"].System}); err != nil {
		t.Error(err)
	}
	missing := plan.System{OutPath: "/nix/store/11111111111111111111111111111111-gone"}
	err = s.Build(t.Context(), evaluator.BuildRequest{Host: "web-1", System: missing})
	if err == nil || !strings.Contains(hint(err), "nix copy") {
		t.Errorf("a system that is not in the store: %v, hint %q", err, hint(err))
	}
}

func TestStaticHelper(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.json")
	p := staticPlan("default", "web-1")
	p.Helpers["riscv64-linux"] = plan.Helper{Path: outPath}
	writePlan(t, file, p)
	s := newStatic(t, nil, file)
	for system, want := range map[string]struct{ err, hint string }{
		"riscv64-linux": {},
		"x86_64-linux":  {"it is not valid", "nix copy"},
		"aarch64-linux": {"no store path", "--with-records"},
		"armv7l-linux":  {"none for this system", "targets can be"},
	} {
		path, err := s.Helper(t.Context(), evaluator.Snapshot{}, p, system)
		if want.err == "" {
			if err != nil || path.String() != outPath {
				t.Errorf("%s: got %v, %v", system, path, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want.err) || !strings.Contains(hint(err), want.hint) {
			t.Errorf("%s: got %v, hint %q", system, err, hint(err))
		}
	}
}

func TestStaticPlanErrors(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"newer.json":   {`{"formatVersion": 2}`, "newer than format 1"},
		"unknown.json": {"{\"formatVersion\": 1,\n \"colour\": 1}", `line 2: unknown field "colour"`},
		"broken.json":  {"{\n{", "line 2"},
		"empty.json":   {"", "unexpected end"},
	} {
		file := filepath.Join(dir, name)
		writeFile(t, file, c.text)
		_, err := load(t, newStatic(t, nil, file))
		var failed *evaluator.StaticError
		if !errors.As(err, &failed) || failed.File != file || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	fifo := filepath.Join(dir, "fifo.json")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "none.json"), dir, fifo} {
		if _, err := load(t, newStatic(t, nil, file)); err == nil {
			t.Errorf("%s: accepted", file)
		}
	}
}

func TestStaticPlansAreMerged(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	writePlan(t, a, staticPlan("eu", "eu-1"))
	writePlan(t, b, staticPlan("us", "us-1"))
	p, err := load(t, newStatic(t, nil, a, b))
	if err != nil || p.Fleet != "eu-us" || len(p.Hosts) != 2 || len(p.Records) != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := load(t, newStatic(t, nil, a, a)); err == nil || !strings.Contains(err.Error(), "both") {
		t.Errorf("the same host twice: %v", err)
	}
}

func TestJsonnetShapesPlans(t *testing.T) {
	dir := t.TempDir()
	writePlan(t, filepath.Join(dir, "eu.json"), staticPlan("eu", "eu-1", "eu-2"))
	lib := t.TempDir()
	writePlan(t, filepath.Join(lib, "us.json"), staticPlan("us", "us-1"))
	if err := os.Mkdir(filepath.Join(lib, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(lib, "sub", "tools.libsonnet"), `{ name:: import 'name.libsonnet', move(h, a): h { deploy+: { address: a } } }`)
	writeFile(t, filepath.Join(lib, "sub", "name.libsonnet"), `'both'`)
	file := filepath.Join(dir, "plan.jsonnet")
	writeFile(t, file, `
		local eu = import 'eu.json', us = import 'us.json', tools = import 'sub/tools.libsonnet';
		std.trace('shaping', eu) + us {
		  fleet: tools.name,
		  hosts: { ['eu-1']: tools.move(eu.hosts['eu-1'], std.extVar('address')) } + us.hosts,
		  records: { [h]: (eu.records + us.records)[h] for h in std.objectFields($.hosts) },
		}`)
	events := newRecorder()
	s := newStatic(t, func(o *evaluator.StaticOptions) {
		o.ImportDirs, o.ExtStr, o.Reporter = []string{lib}, map[string]string{"address": "10.9.8.7"}, events
	}, file)
	p, err := load(t, s)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, h := range p.Hosts {
		got[name] = h.Deploy.Address
	}
	if diff := cmp.Diff(map[string]string{"eu-1": "10.9.8.7", "us-1": "us-1"}, got); diff != "" || p.Fleet != "both" || len(p.Records) != 2 {
		t.Errorf("fleet %q, %d records, hosts (-want +got):\n%s", p.Fleet, len(p.Records), diff)
	}
	if !events.find(func(e plan.Event) bool { return strings.Contains(e.Message, "shaping") }) {
		t.Errorf("std.trace is missing: %v", events.events)
	}
}

func TestJsonnetErrorsNameFileAndLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"syntax":           {"{\n  a: ,\n}", "plan.jsonnet:2:6"},
		"evaluation":       {"{\n  formatVersion: 1,\n  a: error 'no address given',\n}", "no address given"},
		"its line":         {"{\n  formatVersion: 1,\n  a: error 'no address given',\n}", "plan.jsonnet:3:"},
		"external":         {"\n{ a: std.extVar('missing') }", "missing"},
		"no plan":          {"{ formatVersion: 1, colour: 'red' }", `unknown field "colour"`},
		"a newer one":      {"{ formatVersion: 2 }", "newer than format 1"},
		"escapes":          {"error '\\u001b[31mred'", "red"},
		"a missing import": {"import 'none.json'", "there is no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "plan.jsonnet")
			writeFile(t, file, c.text)
			_, err := load(t, newStatic(t, nil, file))
			var failed *evaluator.StaticError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), c.want) || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestJsonnetReadsOnlyTheGivenFolders(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	if err := os.MkdirAll(filepath.Join(inside, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret.json")
	writeFile(t, secret, `"secret"`)
	for link, target := range map[string]string{
		"link.json": secret, "relative.json": "../secret.json", "folder": dir, "device": "/dev/zero", "loop.json": "loop.json",
	} {
		if err := os.Symlink(target, filepath.Join(inside, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(inside, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		secret, "../secret.json", "sub/../../secret.json", "./../secret.json", "sub/..", "link.json", "relative.json",
		"folder/secret.json", "device", "loop.json", "fifo", "sub", "/proc/self/environ", "",
	} {
		for _, how := range []string{"import", "importstr", "importbin"} {
			file := filepath.Join(inside, "plan.jsonnet")
			writeFile(t, file, how+" '"+path+"'")
			_, err := load(t, newStatic(t, nil, file))
			if err == nil || strings.Contains(err.Error(), "cannot unmarshal") || strings.Contains(err.Error(), "missing formatVersion") {
				t.Errorf("%s %q was read: %v", how, path, err)
			}
		}
	}
	// A link that stays inside is fine.
	writePlan(t, filepath.Join(inside, "real.json"), staticPlan("default", "a"))
	if err := os.Symlink("real.json", filepath.Join(inside, "alias.json")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(inside, "plan.jsonnet")
	writeFile(t, file, "import 'alias.json'")
	if _, err := load(t, newStatic(t, nil, file)); err != nil {
		t.Error(err)
	}
}

func TestJsonnetIsBounded(t *testing.T) {
	limits := evaluator.JsonnetLimits{Wall: 20 * time.Second, CPU: 3 * time.Second, Memory: 256 << 20, Output: 1 << 16}
	for name, c := range map[string]struct{ text, want string }{
		"tail-strict recursion":      {`local f(n) = f(n + 1) tailstrict; f(0)`, "its evaluation "}, // too deep or too large: the old stack may not be collected yet
		"deep recursion":             {`local f(n) = 1 + f(n + 1); f(0)`, "max stack frames exceeded"},
		"nested arrays":              {`local f(n) = if n == 0 then [] else [f(n - 1)]; f(100000)`, "max stack frames exceeded"},
		"doubling fold":              {`std.length(std.foldl(function(s, n) s + s, std.range(1, 40), 'x'))`, "256 MiB of memory"},
		"doubling array":             {`std.length(std.foldl(function(a, n) a + a, std.range(1, 40), [1]))`, "256 MiB of memory"},
		"much computing":             {`local loop(d) = if d == 0 then 0 else std.foldl(function(s, n) s + loop(d - 1), std.range(1, 1000), 0); loop(5)`, "3s of computing"},
		"a long result":              {`std.repeat('x', 200000)`, "longer than"},
		"brackets":                   {strings.Repeat("[", 1000000), "its evaluation "},
		"an import of itself":        {`import 'plan.jsonnet'`, "max stack frames exceeded"},
		"a value of a million names": {`{ ['a' + n]: n for n in std.range(1, 10000000) }`, "256 MiB of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "plan.jsonnet")
			writeFile(t, file, c.text)
			begin := time.Now()
			_, err := load(t, newStatic(t, func(o *evaluator.StaticOptions) { o.Limits = limits }, file))
			var failed *evaluator.StaticError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), c.want) && !raced {
				t.Errorf("got %v, want %q", err, c.want)
			}
			t.Logf("after %s: %v", time.Since(begin).Round(time.Millisecond), err)
		})
	}
}

func TestJsonnetEndsWithItsContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.jsonnet")
	writeFile(t, file, `local loop(d) = if d == 0 then 0 else std.foldl(function(s, n) s + loop(d - 1), std.range(1, 1000), 0); std.trace('begun', 1) + loop(5)`)
	events := newRecorder()
	s := newStatic(t, func(o *evaluator.StaticOptions) { o.Reporter = events }, file)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		events.wait(t, func(e plan.Event) bool { return strings.Contains(e.Message, "begun") })
		cancel()
	}()
	if _, err := s.Snapshot(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	noProcess(t, os.Args[0]+"\x00jsonnet-eval")
}

func TestWithRecordsPrintsWhatStaticReads(t *testing.T) {
	n, _ := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { o.System = "x86_64-linux" })
	s, p := open(t, n)
	out, err := evaluator.WithRecords(t.Context(), n, s, p, []string{"web-1", "web-2"}, true)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	writePlan(t, file, out)
	static := newStatic(t, func(o *evaluator.StaticOptions) { o.Valid = nil }, file)
	got, err := load(t, static)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"web-1", "web-2"} {
		if err := static.Build(t.Context(), evaluator.BuildRequest{Host: host, System: *got.Records[host].System}); err != nil {
			t.Error(err)
		}
	}
	if _, err := static.Helper(t.Context(), evaluator.Snapshot{}, got, "x86_64-linux"); err != nil {
		t.Error(err)
	}
	if _, err := evaluator.WithRecords(t.Context(), n, s, p, []string{"web-1", "throwing", "missing"}, false); err == nil ||
		!strings.Contains(err.Error(), "throwing") || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v", err)
	}
}
