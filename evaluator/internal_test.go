package evaluator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/evaluator/plan"
)

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]string{
		"nix (Nix) 2.8.0":                      "2.8",
		"nix (Nix) 2.26.3\n":                   "2.26",
		"nix (Nix) 2.19pre20231123_abc":        "2.19",
		"nix (Lix, like Nix) 2.91.1":           "2.91",
		"nix (Determinate Nix 3.8.5) 2.30.2":   "2.30",
		"nix (Nix) 2.36.0pre20260822_88b09c64": "2.36",
		"":                                     "",
		"nix":                                  "",
		"nix x.y":                              "",
	} {
		v, err := parseVersion(line)
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d.%d", v.major, v.minor)
		}
		if got != want {
			t.Errorf("%q: got %q, %v; want %q", line, got, err, want)
		}
	}
	if v := (nixVersion{major: 2, minor: 18}); !v.atLeast(2, 18) || !v.atLeast(2, 8) || v.atLeast(2, 19) || v.atLeast(3, 0) {
		t.Error("versions are not compared by their numbers")
	}
}

func TestSizePool(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		workers, memory, cores int
		available              uint64
		want                   pool
	}{
		"as many as cores":                 {0, 0, 4, 64 * gib, pool{4, 4096, 2730}},
		"no more than memory allows":       {0, 0, 16, 8 * gib, pool{4, 4096, 1792}},
		"one at least":                     {0, 0, 16, 1 * gib, pool{1, 4096, 1024}},
		"memory is not known":              {0, 0, 4, 0, pool{4, 4096, 2730}},
		"the given bound counts":           {0, 2048, 16, 9 * gib, pool{4, 2048, 1365}},
		"the given number of workers wins": {7, 0, 2, 4 * gib, pool{7, 4096, 1024}},
	} {
		t.Run(name, func(t *testing.T) {
			got := sizePool(c.workers, c.memory, c.cores, c.available)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(pool{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMeminfo(t *testing.T) {
	for text, want := range map[string]uint64{
		"MemTotal: 10 kB\nMemAvailable:    2048 kB\n": 2 << 20,
		"MemAvailable: x kB":                          0,
		"MemAvailable:":                               0,
		"":                                            0,
	} {
		if got := parseMeminfo([]byte(text)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestChunksCoverAllHostsAndShrink(t *testing.T) {
	for _, c := range []struct {
		hosts, workers int
		want           []int
	}{
		{3, 8, []int{1, 1, 1}},
		{3, 1, []int{3}},
		{10, 2, []int{5, 3, 1, 1}},
		{100, 2, []int{32, 32, 18, 9, 5, 2, 1, 1}},
	} {
		var got []int
		for left := make([]job, c.hosts); len(left) > 0; {
			size := chunkSize(left, c.workers)
			got = append(got, size)
			left = left[size:]
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%d hosts, %d workers (-want +got):\n%s", c.hosts, c.workers, diff)
		}
	}
}

func TestAChunkFitsIntoOneArgument(t *testing.T) {
	jobs := make([]job, 10)
	for i := range jobs {
		jobs[i].ask = strings.Repeat("x", maxExpression/3)
	}
	if got := chunkSize(jobs, 1); got != 3 {
		t.Errorf("got %d jobs", got)
	}
	jobs[0].ask = strings.Repeat("x", maxExpression+1)
	if got := chunkSize(jobs, 1); got != 1 {
		t.Errorf("got %d jobs with one that is too long", got)
	}
}

func TestMarkersOfMissingPublicPartsAreFound(t *testing.T) {
	failed := &EvalError{Host: "web"}
	for text, want := range map[string][]PublicRef{
		"error: fleet-missing-public: host/peer-3/wireguard public": {{"host/peer-3/wireguard", "public"}},
		"error:\n       … while calling\n\n       error: it is missing\n       fleet-missing-public: shared/ca.pem cert\n       fleet-missing-public: host/a.b/x y\n": {{"shared/ca.pem", "cert"}, {"host/a.b/x", "y"}},
		"error: fleet-missing-public: host/peer-3 public":            {},
		"error: fleet-missing-public: shared/a/b public":             {},
		"error: fleet-missing-public: shared/a public and more":      {},
		"error: somebody says fleet-missing-public: shared/a public": {},
		"error: nothing is missing":                                  {},
	} {
		err := orMissingPublic(failed, []Message{{Action: "msg", Text: text, Raw: text}})
		got := []PublicRef{}
		var missing *MissingPublicError
		if errors.As(err, &missing) {
			got = missing.Refs
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		if !errors.As(err, new(*EvalError)) {
			t.Errorf("%q: what Nix said is lost", text)
		}
	}
}

func TestNixString(t *testing.T) {
	if got, want := nixString("a\"b\\c${d}\n$e"), `"a\"b\\c\${d}\n$e"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

const source = "/nix/store/00000000000000000000000000000000-source"

func TestSummarise(t *testing.T) {
	for name, c := range map[string]struct {
		errs []Message
		want []string
	}{
		"2.8 without a trace": {
			[]Message{{Action: "msg", Text: "error: host is bad", Raw: "host is bad"}},
			[]string{"host is bad"},
		},
		"2.8 with a trace: the error comes first, and the nearest place after it": {
			[]Message{{
				Action: "msg", Raw: "host is bad",
				Text: "error: host is bad\n\n       … while evaluating x\n\n       at " + source + "/hosts.nix:11:7:\n\n       … from call site\n\n       at " + source + "/flake.nix:2:3:\n\n       at «string»:1:1:\n",
			}},
			[]string{"host is bad", "at hosts.nix:11:7"},
		},
		"2.26: the error comes last": {
			[]Message{{
				Action: "msg", Raw: "host is bad",
				Text: "error:\n       … while calling x\n         at «string»:1:5:\n            1| fleets: 0\n       … in the flake\n         at " + source + "/flake.nix:2:3:\n       … in a module\n         at " + source + "/hosts.nix:11:7:\n           10| x\n\n       error: host is bad",
			}},
			[]string{"host is bad", "at hosts.nix:11:7"},
		},
		"failed assertions are all named": {
			[]Message{{Action: "msg", Text: "error: …", Raw: "\nFailed assertions:\n- one\n- two in " + source + "/a.nix"}},
			[]string{"Failed assertions:", "- one", "- two in a.nix"},
		},
		"without a raw message": {
			[]Message{{Text: "error: stack overflow (possible infinite recursion)"}},
			[]string{"stack overflow (possible infinite recursion)"},
		},
		"nothing": {nil, []string{"nix gave no reason"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, summarise(c.errs, source)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	long := summarise([]Message{{Action: "msg", Raw: strings.Repeat(strings.Repeat("x", 1000)+"\n", 3) + strings.Repeat("y\nz\n", 100)}}, "")
	if len(long) > maxSummary || len(long[0]) > maxSummaryLine+10 {
		t.Errorf("%d lines, the first has %d bytes", len(long), len(long[0]))
	}
}

func TestExitWithoutAReason(t *testing.T) {
	for want, exit := range map[string]*run.ExitError{
		"nix was killed by SIGKILL": {Signal: "SIGKILL"},
		"nix ended with status 3":   {Code: 3},
		"no such option":            {Code: 1, StderrTail: "x\nno such option\n"},
		"host is bad":               {Code: 1, StderrTail: `@nix {"action":"msg","level":0,"msg":"host is bad"}`},
	} {
		if got := exitText(exit); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if exitRemedy(&run.ExitError{Signal: "SIGKILL"}) == "" || exitRemedy(&run.ExitError{Code: 1}) != "" {
		t.Error("the remedy does not fit")
	}
}

func TestLogsAreBoundedAndRemovedWhenOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old.log", "old.txt"} {
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		before := time.Now().Add(-2 * logAge)
		if err := os.Chtimes(filepath.Join(path, name), before, before); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openLogDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(path, "old.log")); !errors.Is(err, os.ErrNotExist) {
		t.Error("an old log is left")
	}
	if _, err := os.Stat(filepath.Join(path, "old.txt")); err != nil {
		t.Error("a file that is no log was removed")
	}
	first, second := d.write("web", "eval", "a"), d.write("web", "eval", "b")
	if first == "" || second == "" || first == second {
		t.Errorf("two logs: %q, %q", first, second)
	}
	l := &lazyLog{dir: d, subject: "web", step: "build"}
	for range logSize/(1<<20) + 2 {
		l.line(strings.Repeat("x", 1<<20))
	}
	name := l.close(true)
	if info, err := os.Stat(name); err != nil || info.Size() > logSize+100 {
		t.Errorf("a long log: %v, %v", info.Size(), err)
	}
}

func TestMessagesOfAnyLength(t *testing.T) {
	var got []string
	w := &messageWriter{each: func(m Message) { got = append(got, m.Text) }}
	for _, piece := range []string{"one\ntw", "o\n\n", strings.Repeat("x", maxMessage+10), "\nlast"} {
		if _, err := w.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	w.flush()
	if len(got) != 4 || got[1] != "two" || len(got[2]) != maxMessage || got[3] != "last" {
		t.Errorf("got %d messages: %.40q", len(got), got)
	}
}

func TestBuildLogSurvivesANixThatNeverEndsWhatItBegins(t *testing.T) {
	l := &BuildLog{}
	for i := range maxActivities + 100 {
		fmt.Fprintf(l, "@nix {\"action\":\"start\",\"id\":%d,\"type\":105,\"fields\":[\"x\"]}\n", i)
	}
	if len(l.activities) > maxActivities {
		t.Errorf("%d activities", len(l.activities))
	}
}

// FuzzBuildLog feeds what nix, or a host in its name, may print.
func FuzzBuildLog(f *testing.F) {
	for _, file := range []string{"build-2.8.log", "build-2.26.log"} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("@nix {\"action\":\"result\",\"type\":105,\"fields\":[-1,\"a\",null,{}]}\n@nix {\n\x1b[31merror: x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(text string) {
			if strings.ContainsAny(text, "\x1b\x00") {
				t.Errorf("%q has control characters", text)
			}
		}
		l := &BuildLog{Line: check, Emit: func(e plan.Event) { check(e.Message) }}
		if n, err := l.Write(data); n != len(data) || err != nil {
			t.Fatalf("wrote %d of %d bytes: %v", n, len(data), err)
		}
		l.Close()
		check(l.Failure("host", "/nix/store/x.drv").Error())
	})
}

func TestBuildLogOfSeveralVersions(t *testing.T) {
	for _, version := range []string{"2.8", "2.26"} {
		data, err := os.ReadFile(filepath.Join("testdata", "build-"+version+".log"))
		if err != nil {
			t.Fatal(err)
		}
		var last plan.Event
		l := &BuildLog{Emit: func(e plan.Event) {
			if e.Kind == plan.EventProgress {
				last = e
			}
		}}
		if _, err := l.Write(data); err != nil {
			t.Fatal(err)
		}
		failed := l.Failure("web", "/nix/store/00000000000000000000000000000000-web.drv")
		if !strings.HasSuffix(failed.Drv, "-dep.drv") || len(failed.LogTail) != tailLines || failed.LogTail[tailLines-1] != "line 29" {
			t.Errorf("%s: got %+v", version, failed)
		}
		if last.Unit != "derivations" || last.Message != "building dep" {
			t.Errorf("%s: last progress %+v", version, last)
		}
		text := failed.Error()
		if strings.Contains(text, "For full logs") || strings.Count(text, "line 29") != 1 || !strings.Contains(text, "failed with exit code 3") {
			t.Errorf("%s: got %s", version, text)
		}
	}
}
