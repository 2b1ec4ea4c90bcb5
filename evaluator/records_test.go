package evaluator_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet/evaluator"
	"fleet/evaluator/plan"
)

func TestPlanOfAFlake(t *testing.T) {
	n, _ := newNix(t, copyFlake(t), nil)
	_, p := open(t, n)
	if p.Fleet != "default" || len(p.Hosts) != 11 || p.Hosts["web-1"].Record[3] != "web-1" || p.Warnings[0] != "from the plan" {
		t.Errorf("got %+v", p)
	}
}

func TestPlanErrors(t *testing.T) {
	dir := copyFlake(t)
	for fleet, want := range map[string]struct{ err, hint string }{
		"prod":    {`no fleetConfigurations.prod`, "it has default, newer, staging; name one with --fleet"},
		"staging": {"staging is broken", "--show-trace"},
		"newer":   {"format 2, newer than format 1", "nix run .#fleet"},
		`a"${b}`:  {"no fleetConfigurations", "it has default"},
	} {
		n, _ := newNix(t, dir, func(o *evaluator.NixOptions) { o.Fleet = fleet })
		s, err := n.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.Plan(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), want.err) || !strings.Contains(hint(err), want.hint) {
			t.Errorf("fleet %s: got %v, hint %q", fleet, err, hint(err))
		}
	}
}

func TestPlanOfAFlakeWithoutFleets(t *testing.T) {
	dir := copyFlake(t)
	writeFile(t, dir+"/flake.nix", `{ outputs = _: { }; }`)
	n, _ := newNix(t, dir, nil)
	s, err := n.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Plan(t.Context(), s)
	var none *evaluator.NoFleetError
	if !errors.As(err, &none) || !strings.Contains(hint(err), "flakeModules.default") {
		t.Errorf("got %v, hint %q", err, hint(err))
	}
}

func TestRecordsNameHostsThatFailAndEvaluateTheOthers(t *testing.T) {
	for _, workers := range []int{1, 3} {
		n, events := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { o.Workers = workers })
		s, p := open(t, n)
		hosts := []string{"web-1", "throwing", "web-2", "missing", "recursive", "traced", "odd", "nobody"}
		got, err := records(t.Context(), t, n, s, p, hosts...)
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range map[string]string{
			"web-1": "", "web-2": "", "traced": "",
			"throwing":  "evaluate host \"throwing\": the option `services.x' does not exist\n  in two lines",
			"missing":   "'nothing'",
			"recursive": "infinite recursion",
			"odd":       "records.system.drvPath",
			"nobody":    "the plan does not say where its record is",
		} {
			checkRecord(t, got[host], host, strings.TrimPrefix(want, "records."))
		}
		if len(got) != len(hosts) {
			t.Errorf("%d results for %d hosts", len(got), len(hosts))
		}
		if !events.find(has(plan.EventLog, "traced", "a note")) || !events.find(has(plan.EventWarning, "traced", "an old option")) {
			t.Errorf("traces of modules are missing: %v", events.events)
		}
	}
}

func checkRecord(t *testing.T, r evaluator.RecordResult, host, want string) {
	t.Helper()
	if want != "" {
		if r.Err == nil || !strings.Contains(r.Err.Error(), want) {
			t.Errorf("%s: got %v, want %q", host, r.Err, want)
		}
		return
	}
	if r.Err != nil {
		t.Errorf("%s: %v", host, r.Err)
		return
	}
	if _, err := os.Stat(r.Record.System.DrvPath); err != nil {
		t.Errorf("%s: its derivation is not in the store: %v", host, err)
	}
}

func TestEvalErrorPointsIntoTheFlakeAndToALog(t *testing.T) {
	dir := copyFlake(t)
	for _, trace := range []bool{false, true} {
		n, _ := newNix(t, dir, func(o *evaluator.NixOptions) { o.ShowTrace = trace })
		s, p := open(t, n)
		got, err := records(t.Context(), t, n, s, p, "throwing")
		if err != nil {
			t.Fatal(err)
		}
		var failed *evaluator.EvalError
		if !errors.As(got["throwing"].Err, &failed) {
			t.Fatalf("got %v", got["throwing"].Err)
		}
		log, err := os.ReadFile(failed.LogFile)
		if err != nil || !strings.Contains(string(log), "in two lines") || strings.ContainsRune(string(log), 0x1b) {
			t.Errorf("log: %v\n%s", err, log)
		}
		if got := strings.Contains(failed.Hint(), "--show-trace"); got == trace {
			t.Errorf("with trace %v the hint is %q", trace, failed.Hint())
		}
		if trace && !slices.ContainsFunc(failed.Summary, func(line string) bool { return strings.HasPrefix(line, "at flake.nix:") }) {
			t.Errorf("no position in the flake in %q", failed.Summary)
		}
		info, err := os.Stat(failed.LogFile)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("log: %v %v", info.Mode(), err)
		}
	}
}

func TestRecordsEndWithABrokenFlake(t *testing.T) {
	dir := copyFlake(t)
	n, _ := newNix(t, dir, nil)
	_, p := open(t, n)
	writeFile(t, dir+"/flake.nix", `{ outputs = _: { fleetConfigurations = throw "all is broken"; }; }`)
	s, err := n.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := records(t.Context(), t, n, s, p, "web-1", "web-2", "traced")
	if err == nil || !strings.Contains(err.Error(), "all is broken") || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRecordsReplaceAWorkerThatTakesTooMuchMemory(t *testing.T) {
	n, _ := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { o.Workers, o.Memory = 1, 400 })
	s, p := open(t, n)
	got, err := records(t.Context(), t, n, s, p, "web-1", "greedy", "web-2")
	if err != nil {
		t.Fatal(err)
	}
	checkRecord(t, got["web-1"], "web-1", "")
	checkRecord(t, got["web-2"], "web-2", "")
	checkRecord(t, got["greedy"], "greedy", "it takes more than 400 MiB of memory")
	if !strings.Contains(hint(got["greedy"].Err), "--eval-memory") {
		t.Errorf("hint %q", hint(got["greedy"].Err))
	}
}

func TestRecordsEndAnEvaluationThatDoesNotEnd(t *testing.T) {
	n, _ := newNix(t, copyFlake(t), func(o *evaluator.NixOptions) { o.Workers, o.HostTimeout = 1, 2*time.Second })
	s, p := open(t, n)
	got, err := records(t.Context(), t, n, s, p, "endless", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	checkRecord(t, got["endless"], "endless", "it did not end within 2s")
	checkRecord(t, got["web-1"], "web-1", "")
	noProcess(t, s.Ref)
}

func TestCancelledEvaluationLeavesNoProcess(t *testing.T) {
	n, events := newNix(t, copyFlake(t), nil)
	s, p := open(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		events.wait(t, has(plan.EventProgress, "endless", "evaluating"))
		cancel()
	}()
	got, err := records(ctx, t, n, s, p, "endless")
	if !errors.Is(err, context.Canceled) || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	noProcess(t, s.Ref)
}

// noProcess fails the test where a process with a text in its arguments exists.
func noProcess(t *testing.T, text string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		args, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && strings.Contains(string(args), text) {
			t.Errorf("process %s is left: %q", entry.Name(), args)
		}
	}
}

func TestSettingsReachNix(t *testing.T) {
	dir := copyFlake(t)
	writeFile(t, dir+"/flake.nix", `{ inputs.x.url = "path:/nowhere"; outputs = { self, x }: { fleetConfigurations.default.plan = throw "${x.text} ${builtins.getEnv "FLEET_TEST_ENV"} ${toString (builtins ? fetchClosure)}"; }; }`)
	input := t.TempDir()
	writeFile(t, input+"/flake.nix", `{ outputs = _: { text = "from the override"; }; }`)
	t.Setenv("FLEET_TEST_ENV", "from the environment")
	n, _ := newNix(t, dir, func(o *evaluator.NixOptions) {
		o.Overrides = []evaluator.Override{{Input: "x", Ref: "path:" + input}}
		o.Impure = true
		o.Settings = append(o.Settings, evaluator.Setting{Name: "extra-experimental-features", Value: "fetch-closure"})
	})
	s, err := n.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Plan(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "from the override from the environment 1") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir + "/flake.lock"); err == nil {
		t.Error("a lock file was written")
	}
}
