package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
	"fleet/push/proto"
)

var _ = [...]Display{(*plain)(nil), (*live)(nil), (*jsonDisplay)(nil), (*quiet)(nil)}

type hinted struct{ error }

func (hinted) Hint() string { return "turn it on" }

// report has a host of every sort.
func report() *deploy.Report {
	failed := func(step plan.Step, err error) error { return &deploy.HostError{Host: "x", Step: step, Err: err} }
	return &deploy.Report{Action: deploy.ActionSwitch, Fleet: "default", Duration: 83 * time.Second, Hosts: []deploy.HostReport{
		{Host: "db", Outcome: deploy.OutcomeFailed, Generation: 4, RunsNewBootsOld: true, Txn: "t1",
			Steps:       []deploy.StepTime{{Step: plan.StepConnect, Duration: 400 * time.Millisecond}, {Step: plan.StepActivate, Duration: 12 * time.Second}},
			FailedUnits: []proto.FailedUnit{{Name: "postgresql.service", Log: []string{"no \x1b[31mspace left"}}},
			Err:         failed(plan.StepActivate, errors.New("units failed"))},
		{Host: "down", Outcome: deploy.OutcomeFailed, Steps: []deploy.StepTime{{Step: plan.StepConnect, Duration: 15 * time.Second}}, Err: failed(plan.StepConnect, hinted{errors.New("no route\x1b]0;x\x07\nto host")})},
		{Host: "web-1", Outcome: deploy.OutcomeSwitched, Generation: 7, NarBytes: 5 << 20, WireBytes: 1 << 20, Paths: 12,
			Steps: []deploy.StepTime{{Step: plan.StepConnect, Duration: time.Second}, {Step: plan.StepPush, Duration: 2 * time.Second}, {Step: plan.StepActivate, Duration: 3 * time.Second}}},
		{Host: "web-2", Outcome: deploy.OutcomeUnchanged, Generation: 7, Steps: []deploy.StepTime{{Step: plan.StepConnect, Duration: time.Second}}},
		{Host: "web-3", Outcome: deploy.OutcomeDetached, Txn: "t9", Steps: []deploy.StepTime{{Step: plan.StepConnect, Duration: time.Second}}, Err: failed(plan.StepActivate, context.Canceled)},
	}}
}

const wantSummary = `HOST   RESULT                       CONNECT  PUSH  ACTIVATE  SENT     GENERATION
db     failed, runs new, boots old  0.4s     -     12s       -        4
down   failed                       15s      -     -         -        -
web-1  switched                     1.0s     2.0s  3.0s      1.0 MiB  7
web-2  unchanged                    1.0s     -     -         -        7
web-3  detached                     1.0s     -     -         -        -

db: activate failed
  units failed
  postgresql.service failed:
    no space left

down: connect failed
  no route
  to host
  hint: turn it on

web-3: the activation goes on there; attach with:
  fleet attach web-3 t9

2 failed, 1 switched, 1 unchanged, 1 detached in 1m23s
`

func TestTheSummarySaysEverything(t *testing.T) {
	if diff := cmp.Diff(wantSummary, Summary(report(), "fleet attach", style{}, 0)); diff != "" {
		t.Error(diff)
	}
}

func TestTheTableIsCutToTheTerminal(t *testing.T) {
	table := Table{Header: []string{"HOST", "RESULT"}, Rows: [][]Cell{{{Text: "a-rather-long-name"}, {Text: "failed with a long story", Color: red}}}, Width: 24}
	for _, line := range strings.Split(table.render(style{}), "\n") {
		if len([]rune(line)) > 24 {
			t.Errorf("%q is too long", line)
		}
	}
	if painted := table.render(style{on: true}); !strings.Contains(painted, "\x1b[31m") {
		t.Errorf("no colours in %q", painted)
	}
}

func at(seconds float64) time.Time {
	return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

func events() []plan.Event {
	return []plan.Event{
		{Time: at(0), Step: plan.StepPlan, Kind: plan.EventStarted},
		{Time: at(1), Step: plan.StepPlan, Kind: plan.EventDone, Seconds: 1, Message: "2 hosts in /src"},
		{Time: at(1), Host: "a", Step: plan.StepConnect, Kind: plan.EventStarted},
		{Time: at(1), Host: "b", Step: plan.StepConnect, Kind: plan.EventStarted},
		{Time: at(2), Host: "a", Step: plan.StepConnect, Kind: plan.EventDone, Seconds: 1},
		{Time: at(3), Host: "b", Step: plan.StepConnect, Kind: plan.EventFailed, Message: "no route\nmore", Hint: "VPN?", Seconds: 2},
		{Time: at(3), Host: "a", Step: plan.StepBuild, Kind: plan.EventStarted},
		{Time: at(4), Host: "a", Step: plan.StepBuild, Kind: plan.EventLog, Message: "cc main.c"},
		{Time: at(5), Host: "a", Step: plan.StepBuild, Kind: plan.EventProgress, Done: 1, Total: 9, Unit: "derivations", Message: "linux"},
		{Time: at(20), Host: "a", Step: plan.StepBuild, Kind: plan.EventProgress, Done: 4, Total: 9, Unit: "derivations", Message: "systemd"},
		{Time: at(21), Host: "a", Step: plan.StepBuild, Kind: plan.EventProgress, Done: 5, Total: 9, Unit: "derivations", Message: "etc"},
		{Time: at(22), Host: "a", Step: plan.StepBuild, Kind: plan.EventWarning, Message: "disk is \x1b[5mnearly full", Hint: "collect garbage"},
		{Time: at(30), Host: "a", Step: plan.StepPush, Kind: plan.EventDone, Seconds: 8, Done: 3 << 20, Unit: "bytes", WireBytes: 1 << 20},
		{Time: at(31), Host: "a", Step: plan.StepActivate, Kind: plan.EventLog, Message: "setting up /etc"},
	}
}

const wantPlain = `plan done in 1.0s: 2 hosts in /src
a: connect done in 1.0s
b: connect failed: no route …
a: build: 4/9 derivations systemd
a: warning: disk is nearly full
  hint: collect garbage
a: push done in 8.0s, 3.0 MiB (1.0 MiB sent, 33 %)
a> setting up /etc
`

func TestPlainLinesTellWhatMatters(t *testing.T) {
	var out, err bytes.Buffer
	p := newPlain(&out, &err, style{})
	for _, e := range events() {
		p.Emit(e)
	}
	if diff := cmp.Diff(wantPlain, err.String()); diff != "" {
		t.Error(diff)
	}
	if out.Len() > 0 {
		t.Errorf("progress on standard output: %q", out.String())
	}
	if failed := p.Finish(report()); failed != nil || !strings.Contains(out.String(), "web-2  unchanged") {
		t.Errorf("got %v, %q", failed, out.String())
	}
}

func TestAReportThatCannotBePrintedIsAnError(t *testing.T) {
	p := newPlain(brokenPipe{}, io.Discard, style{})
	if p.Finish(report()) == nil {
		t.Error("no error")
	}
	j := newJSON(brokenPipe{}, io.Discard)
	if j.Finish(report()) == nil {
		t.Error("no error")
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestTheReportEndsWithTheFilesToCommit(t *testing.T) {
	var out, err bytes.Buffer
	r := report()
	r.Uncommitted = deploy.Uncommitted{Dir: "/src", Files: []string{"fleet-state/default/hosts/a.json", "fleet-state/default/hosts/b\x1b[31m.json"}}
	if failed := newPlain(&out, &err, style{}).Finish(r); failed != nil {
		t.Fatal(failed)
	}
	want := `
commit these files of /src, other operators and Nix rely on them:
  fleet-state/default/hosts/a.json
  fleet-state/default/hosts/b.json
`
	if diff := cmp.Diff(want, err.String()); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(out.String(), "commit") {
		t.Errorf("on standard output: %q", out.String())
	}
	r.Uncommitted.Files = make([]string, 1000)
	if text := CommitText(r.Uncommitted); strings.Count(text, "\n") != maxCommit+3 || !strings.HasSuffix(text, "… and 980 more below fleet-state\n") {
		t.Errorf("a thousand files: %q", text)
	}
}

const wantJSON = `{"formatVersion":1,"type":"run","action":"switch","fleet":"default","source":"/src","hosts":["a","b"]}
{"formatVersion":1,"type":"event","time":"2026-11-01T12:00:03Z","host":"b","step":"connect","kind":"failed","message":"no route","hint":"VPN?","seconds":2.001}
{"formatVersion":1,"type":"report","action":"switch","fleet":"default","exitCode":3,"seconds":1.5,"hosts":[{"host":"b","outcome":"failed","steps":{"connect":2.001},"paths":0,"narBytes":0,"wireBytes":0,"step":"connect","error":"no <route>","hints":["turn it on"]}],"filesToCommit":["fleet-state/default/hosts/b.json"]}
{"formatVersion":1,"type":"error","error":"boom","exitCode":1}
`

func TestJSONLinesAreStable(t *testing.T) {
	var out, log bytes.Buffer
	d := newJSON(&out, &log)
	d.Begin(Run{Action: deploy.ActionSwitch, Fleet: "default", Source: "/src", Hosts: []string{"a", "b"}})
	d.Emit(plan.Event{Time: at(3), Host: "b", Step: plan.StepConnect, Kind: plan.EventFailed, Message: "no route", Hint: "VPN?", Seconds: 2.0009})
	r := &deploy.Report{Action: deploy.ActionSwitch, Fleet: "default", Duration: 1500 * time.Millisecond, Uncommitted: deploy.Uncommitted{Dir: "/src", Files: []string{"fleet-state/default/hosts/b.json"}}, Hosts: []deploy.HostReport{
		{Host: "b", Outcome: deploy.OutcomeFailed, Steps: []deploy.StepTime{{Step: plan.StepConnect, Duration: 2000900 * time.Microsecond}},
			Err: &deploy.HostError{Host: "b", Step: plan.StepConnect, Err: hinted{errors.New("no <route>")}}},
	}}
	if err := d.Finish(r); err != nil {
		t.Fatal(err)
	}
	d.Fail(errors.New("boom"))
	d.Log("a line of the log")
	if diff := cmp.Diff(wantJSON, out.String()); diff != "" {
		t.Error(diff)
	}
	if log.String() != "a line of the log\n" {
		t.Errorf("log %q", log.String())
	}
	for line := range strings.Lines(out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is no JSON", line)
		}
	}
}

func TestTheStatusAreaShowsALineAHost(t *testing.T) {
	m := newModel()
	m.begin(Run{Action: deploy.ActionSwitch, Fleet: "default", Hosts: []string{"a", "b", "c"}}, at(0))
	for _, e := range events() {
		m.apply(e)
	}
	m.apply(plan.Event{Time: at(31), Host: "a", Step: plan.StepActivate, Kind: plan.EventStarted})
	m.apply(plan.Event{Time: at(32), Host: "a", Step: plan.StepActivate, Kind: plan.EventLog, Message: "setting \x1b[1mup /etc"})
	want := []string{
		"a  activate        4.0s   setting up /etc",
		"c  waiting",
		"b  connect failed         no route …",
		"switch default: 3 hosts: 1 at work, 0 done, 1 failed  35s",
	}
	if diff := cmp.Diff(want, m.frame(at(35), 60, 24, style{})); diff != "" {
		t.Error(diff)
	}
}

func TestTheStatusAreaFitsTheTerminal(t *testing.T) {
	m := newModel()
	run := Run{Action: deploy.ActionSwitch, Fleet: "default"}
	for i := range 200 {
		run.Hosts = append(run.Hosts, strings.Repeat("host", i%9+1)+string(rune('a'+i%26))+strings.Repeat("x", i/26))
	}
	m.begin(run, at(0))
	for _, name := range run.Hosts {
		m.apply(plan.Event{Time: at(0), Host: name, Step: plan.StepBuild, Kind: plan.EventStarted})
		m.apply(plan.Event{Time: at(0), Host: name, Step: plan.StepBuild, Kind: plan.EventLog, Message: strings.Repeat("long ", 50)})
	}
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}, {200, 60}} {
		frame := m.frame(at(1), size[0], size[1], style{})
		if len(frame) > max(4, size[1]/2+1) {
			t.Errorf("%v: %d lines", size, len(frame))
		}
		for _, line := range frame {
			if n := len([]rune(line)); n >= max(size[0], 30) {
				t.Errorf("%v: a line of %d cells", size, n)
			}
		}
	}
}

// screen keeps what a terminal that knows cursor up and erase below would show.
type screen struct {
	mu    sync.Mutex
	lines []string
}

// shown is what is on the screen now.
func (s *screen) shown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(p)
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			n := 0
			for rest[0] >= '0' && rest[0] <= '9' {
				n = n*10 + int(rest[0]-'0')
				rest = rest[1:]
			}
			if rest[0] == 'A' {
				s.lines = s.lines[:len(s.lines)-n]
			}
			text = strings.TrimPrefix(rest[1:], "\r")
			continue
		}
		line, rest, _ := strings.Cut(text, "\n")
		s.lines = append(s.lines, line)
		text = rest
	}
	return len(p), nil
}

func TestTheLiveDisplayNeverTearsAndLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tty := &screen{}
		var out bytes.Buffer
		d := newLive(&cli.Env{Stdout: &out, Stderr: tty, Size: func() (int, int) { return 60, 24 }})
		d.Begin(Run{Action: deploy.ActionSwitch, Fleet: "default", Hosts: []string{"a", "b"}})
		for _, e := range events() {
			d.Emit(e)
			time.Sleep(150 * time.Millisecond)
		}
		if area := strings.Join(tty.shown(), "\n"); strings.Count(area, "2 hosts: ") != 1 {
			t.Errorf("the area is there more than once:\n%s", area)
		}
		resume := d.Suspend()
		if area := strings.Join(tty.shown(), "\n"); strings.Contains(area, "2 hosts: ") {
			t.Errorf("the area stands in the way of a prompt:\n%s", area)
		}
		d.Log("logged meanwhile")
		time.Sleep(time.Second)
		resume()
		resume()
		time.Sleep(time.Second)
		if err := d.Finish(report()); err != nil {
			t.Fatal(err)
		}
		d.Close()
		want := []string{"b: connect failed: no route …", "a: warning: disk is nearly full", "  hint: collect garbage", "a> setting up /etc", "logged meanwhile"}
		if diff := cmp.Diff(want, tty.shown()); diff != "" {
			t.Error(diff)
		}
		if !strings.HasPrefix(out.String(), "HOST   RESULT  ") {
			t.Errorf("no table in %q", out.String())
		}
	})
}

// person is a terminal with a person who answers.
type person struct {
	bytes.Buffer
	answer string
	closed bool
}

func (p *person) Close() error { p.closed = true; return nil }
func (p *person) ReadPassword(_ context.Context, prompt string) ([]byte, error) {
	p.WriteString(prompt)
	return []byte(p.answer), nil
}
func (p *person) ReadLine(context.Context) (string, error) { return p.answer, nil }

func TestOnlyYesIsYes(t *testing.T) {
	for answer, want := range map[string]bool{"y": true, "YES": true, " yes ": true, "": false, "n": false, "yep": false, "ja": false} {
		p := &person{answer: answer}
		prompter := &Prompter{Env: &cli.Env{OpenTTY: func() (cli.TTY, error) { return p, nil }}, Display: &quiet{}}
		got, err := prompter.Confirm(t.Context(), "switch these 2 hosts?", []deploy.Change{{Host: "a", New: "/nix/store/new"}, {Host: "b\x1b[31m", Old: "/nix/store/old", New: "/nix/store/new"}})
		if err != nil || got != want || !p.closed {
			t.Errorf("%q: %v, %v", answer, got, err)
		}
		if text := p.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "(nothing)") || !strings.HasSuffix(text, "switch these 2 hosts? [y/N] ") {
			t.Errorf("asked %q", text)
		}
	}
}

func TestWithoutATerminalNobodyIsAsked(t *testing.T) {
	prompter := &Prompter{Env: &cli.Env{OpenTTY: func() (cli.TTY, error) { return nil, errors.New("ENXIO") }}, Display: &quiet{}}
	if _, err := prompter.Password(t.Context(), "sudo password:"); !errors.Is(err, ErrNoTerminal) || len(cli.Hints(err)) != 1 {
		t.Errorf("got %v", err)
	}
	p := &person{answer: "secret"}
	prompter.Env.OpenTTY = func() (cli.TTY, error) { return p, nil }
	got, err := prompter.Password(t.Context(), "sudo password for admin on web\x1b[2J: ")
	if err != nil || string(got) != "secret" || p.String() != "sudo password for admin on web: \n" {
		t.Errorf("got %q, %v, asked %q", got, err, p.String())
	}
}

func TestAResultIsPrecededByWarningsAlone(t *testing.T) {
	var err bytes.Buffer
	q := ForResult(&cli.Env{Stdout: io.Discard, Stderr: &err})
	for _, e := range events() {
		q.Emit(e)
	}
	if diff := cmp.Diff("a: warning: disk is nearly full\n  hint: collect garbage\n", err.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTheDisplayFitsTheOutput(t *testing.T) {
	env := &cli.Env{Stdout: io.Discard, Stderr: io.Discard, Size: func() (int, int) { return 80, 24 }}
	if _, ok := New(env, false).(*plain); !ok {
		t.Error("a pipe gets plain lines")
	}
	env.LiveStatus = true
	d := New(env, false)
	if _, ok := d.(*live); !ok {
		t.Error("a terminal gets the live area")
	}
	d.Close()
	if _, ok := New(env, true).(*jsonDisplay); !ok {
		t.Error("--json wins")
	}
}

func TestHowSafeAHostIsStandsBesideItsOutcome(t *testing.T) {
	for _, test := range []struct {
		report deploy.HostReport
		want   string
	}{
		{deploy.HostReport{Host: "a", Outcome: deploy.OutcomeSwitched, Verdict: deploy.VerdictPersistent, Generation: 3}, "a: switched (new, confirmed, persistent), generation 3\n"},
		{deploy.HostReport{Host: "a", Outcome: deploy.OutcomeStaged, Verdict: deploy.VerdictNextBoot, Notices: []string{"a rollback cannot\x1b[31m reboot"}},
			"a: staged (old, and new from the next boot on if that goes well)\n\na: note: a rollback cannot reboot\n"},
		{deploy.HostReport{Host: "a", Outcome: deploy.OutcomeRolledBack, Verdict: deploy.VerdictOld, Err: &deploy.HostError{Host: "a", Step: plan.StepActivate, Err: errors.New("boom")}},
			"a: rolled-back (old, verified)\n\na: activate rolled-back\n  boom\n"},
	} {
		if diff := cmp.Diff(test.want, HostText(test.report)); diff != "" {
			t.Error(diff)
		}
	}
	table := Summary(&deploy.Report{Hosts: []deploy.HostReport{
		{Host: "a", Outcome: deploy.OutcomeRolledBack, Verdict: deploy.VerdictOld},
		{Host: "b", Outcome: deploy.OutcomeFailed, Verdict: deploy.VerdictRetrying, RunsNewBootsOld: true},
		{Host: "c", Outcome: deploy.OutcomeFailed, Verdict: deploy.VerdictLeft, RunsNewBootsOld: true},
	}}, "fleet attach", style{}, 0)
	for _, want := range []string{
		"rolled-back (old, verified)", "failed (failed, the old system does not stand yet, the host still tries)", "failed, runs new, boots old", "1 rolled-back, 2 failed",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is missing in:\n%s", want, table)
		}
	}
}

func TestATransferSaysHowFarItIs(t *testing.T) {
	for want, e := range map[string]plan.Event{
		"1.0 MiB of 3.0 MiB": {Unit: "bytes", Done: 1 << 20, Total: 3 << 20},
		"1.0 MiB of 3.0 MiB, 512.0 KiB sent, 256.0 KiB/s, 8.0s left": {Unit: "bytes", Done: 1 << 20, Total: 3 << 20, WireBytes: 512 << 10, BytesPerSecond: 256 << 10, SecondsLeft: 8.2},
		"1.0 MiB of 3.0 MiB, 512.0 KiB sent":                         {Unit: "bytes", Done: 1 << 20, Total: 3 << 20, WireBytes: 512 << 10, SecondsLeft: 0.4},
	} {
		if got := progress(e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTransfersOfManyHostsAreAddedUp(t *testing.T) {
	m := newModel()
	for _, name := range []string{"a", "b", "c"} {
		m.apply(plan.Event{Host: name, Step: plan.StepPush, Kind: plan.EventStarted})
	}
	for i, name := range []string{"a", "b"} {
		m.apply(plan.Event{Host: name, Step: plan.StepPush, Kind: plan.EventProgress, Unit: "bytes", Done: 1 << 20, Total: 4 << 20, BytesPerSecond: 1 << 20, SecondsLeft: float64(3 + i)})
	}
	if line := m.countLine(time.Time{}, 200, style{}); !strings.Contains(line, "2.0 MiB of 8.0 MiB, 2.0 MiB/s, 4.0s left") {
		t.Error(line)
	}
}
