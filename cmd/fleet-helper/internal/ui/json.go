package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// JSONVersion is the version of the JSON lines. It changes when a field changes its meaning or goes; new fields and types may come.
const JSONVersion = 1

// header begins every line of --json output.
type header struct {
	FormatVersion int `json:"formatVersion"`
	// Type is "run", "event", "report" or "error", and says what else is in the line.
	Type string `json:"type"`
}

type runLine struct {
	header
	Action string   `json:"action"`
	Fleet  string   `json:"fleet"`
	Source string   `json:"source"`
	Hosts  []string `json:"hosts"`
}

type eventLine struct {
	header
	plan.Event
}

type reportLine struct {
	header
	Action   string        `json:"action"`
	Fleet    string        `json:"fleet"`
	ExitCode int           `json:"exitCode"`
	Seconds  float64       `json:"seconds"`
	Hosts    []HostSummary `json:"hosts"`
	// FilesToCommit are relative to the folder of the flake.
	FilesToCommit []string `json:"filesToCommit,omitempty"`
}

type errorLine struct {
	header
	Error    string   `json:"error"`
	Hints    []string `json:"hints,omitempty"`
	ExitCode int      `json:"exitCode"`
}

// HostSummary is the JSON form of a host's report.
type HostSummary struct {
	Host    string         `json:"host"`
	Outcome deploy.Outcome `json:"outcome"`
	// Steps maps a step to its seconds.
	Steps      map[string]float64 `json:"steps"`
	Paths      uint64             `json:"paths"`
	NarBytes   uint64             `json:"narBytes"`
	WireBytes  uint64             `json:"wireBytes"`
	Generation int                `json:"generation,omitempty"`
	Old        string             `json:"old,omitempty"`
	New        string             `json:"new,omitempty"`
	Txn        string             `json:"txn,omitempty"`
	// Verdict says how safe the host is after an activation, for people.
	Verdict         deploy.Verdict `json:"verdict,omitempty"`
	Notices         []string       `json:"notices,omitempty"`
	RunsNewBootsOld bool           `json:"runsNewBootsOld,omitempty"`
	FailedUnits     []UnitSummary  `json:"failedUnits,omitempty"`
	// Step and Error are those of a failure, Hints its remedies.
	Step  plan.Step `json:"step,omitempty"`
	Error string    `json:"error,omitempty"`
	Hints []string  `json:"hints,omitempty"`
}

// UnitSummary is a failed unit.
type UnitSummary struct {
	Name string   `json:"name"`
	Log  []string `json:"log"`
}

type jsonDisplay struct {
	mu  sync.Mutex
	out *json.Encoder
	log io.Writer
	err error
}

func newJSON(stdout, stderr io.Writer) *jsonDisplay {
	enc := json.NewEncoder(stdout)
	enc.SetEscapeHTML(false)
	return &jsonDisplay{out: enc, log: stderr}
}

// Log keeps the log apart from the JSON.
func (d *jsonDisplay) Log(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.log, line)
}

func headerOf(kind string) header { return header{FormatVersion: JSONVersion, Type: kind} }

func (d *jsonDisplay) write(line any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = d.out.Encode(line)
	}
}

func (d *jsonDisplay) Emit(e plan.Event) {
	e.Time = e.Time.UTC().Round(time.Millisecond)
	e.Seconds = math.Round(e.Seconds*1000) / 1000
	d.write(eventLine{header: headerOf("event"), Event: e})
}

func (d *jsonDisplay) Begin(r Run) {
	d.write(runLine{header: headerOf("run"), Action: string(r.Action), Fleet: r.Fleet, Source: r.Source, Hosts: r.Hosts})
}

func (d *jsonDisplay) Finish(r *deploy.Report) error {
	line := reportLine{
		header: headerOf("report"), Action: string(r.Action), Fleet: r.Fleet, ExitCode: int(r.ExitCode()), Seconds: seconds(r.Duration),
		Hosts: []HostSummary{}, FilesToCommit: r.Uncommitted.Files,
	}
	for _, h := range r.Hosts {
		line.Hosts = append(line.Hosts, Summarize(h))
	}
	d.write(line)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Fail prints the error as the last line.
func (d *jsonDisplay) Fail(err error) {
	d.write(errorLine{header: headerOf("error"), Error: text.Clean(err.Error()), Hints: cli.Hints(err), ExitCode: cli.ExitCode(err)})
}

func (d *jsonDisplay) Suspend() func() { return func() {} }
func (d *jsonDisplay) Close()          {}

// Summarize makes a host's report fit for JSON.
func Summarize(h deploy.HostReport) HostSummary {
	s := HostSummary{
		Host: h.Host, Outcome: h.Outcome, Steps: map[string]float64{}, Paths: h.Paths, NarBytes: h.NarBytes, WireBytes: h.WireBytes,
		Generation: h.Generation, Old: h.Old, New: h.New, Txn: h.Txn, Verdict: h.Verdict, Notices: h.Notices, RunsNewBootsOld: h.RunsNewBootsOld,
	}
	for _, step := range h.Steps {
		s.Steps[string(step.Step)] = seconds(step.Duration)
	}
	for _, u := range h.FailedUnits {
		s.FailedUnits = append(s.FailedUnits, UnitSummary{Name: u.Name, Log: append([]string{}, u.Log...)})
	}
	if step, err := cause(h.Err); err != nil {
		s.Step, s.Error, s.Hints = step, err.Error(), cli.Hints(err)
	}
	return s
}

// seconds is a span in seconds, to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
