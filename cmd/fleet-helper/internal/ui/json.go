package ui

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// JSONVersion is the version of the JSON lines. It changes when a field changes its meaning or goes; new fields and types may come.
const JSONVersion = 1

// line is one line of --json output: what Type says, and only that.
type line struct {
	FormatVersion int    `json:"formatVersion"`
	Type          string `json:"type"`
	*runLine
	*plan.Event
	*reportLine
	*errorLine
}

type errorLine struct {
	Error    string   `json:"error"`
	Hints    []string `json:"hints,omitempty"`
	ExitCode int      `json:"exitCode"`
}

type runLine struct {
	Action string   `json:"action"`
	Fleet  string   `json:"fleet"`
	Source string   `json:"source"`
	Hosts  []string `json:"hosts"`
}

type reportLine struct {
	Action      string        `json:"action"`
	Fleet       string        `json:"fleet"`
	ExitCode    int           `json:"exitCode"`
	Seconds     float64       `json:"seconds"`
	HostReports []HostSummary `json:"reports"`
}

// HostSummary is the JSON form of a host's report.
type HostSummary struct {
	Host    string         `json:"host"`
	Outcome deploy.Outcome `json:"outcome"`
	// Steps maps a step to its seconds.
	Steps           map[string]float64 `json:"steps"`
	Paths           uint64             `json:"paths"`
	NarBytes        uint64             `json:"narBytes"`
	WireBytes       uint64             `json:"wireBytes"`
	Generation      int                `json:"generation,omitempty"`
	Old             string             `json:"old,omitempty"`
	New             string             `json:"new,omitempty"`
	Txn             string             `json:"txn,omitempty"`
	RunsNewBootsOld bool               `json:"runsNewBootsOld,omitempty"`
	FailedUnits     []UnitSummary      `json:"failedUnits,omitempty"`
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
	err error
}

func newJSON(w io.Writer) *jsonDisplay {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &jsonDisplay{out: enc}
}

func (d *jsonDisplay) write(l line) {
	l.FormatVersion = JSONVersion
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = d.out.Encode(l)
	}
}

func (d *jsonDisplay) Emit(e plan.Event) {
	e.Time = e.Time.UTC().Round(time.Millisecond)
	d.write(line{Type: "event", Event: &e})
}

func (d *jsonDisplay) Begin(r Run) {
	d.write(line{Type: "run", runLine: &runLine{Action: string(r.Action), Fleet: r.Fleet, Source: r.Source, Hosts: r.Hosts}})
}

func (d *jsonDisplay) Finish(r *deploy.Report) error {
	l := &reportLine{Action: string(r.Action), Fleet: r.Fleet, ExitCode: int(r.ExitCode()), Seconds: seconds(r.Duration), HostReports: []HostSummary{}}
	for _, h := range r.Hosts {
		l.HostReports = append(l.HostReports, Summarize(h))
	}
	d.write(line{Type: "report", reportLine: l})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Fail prints the error as the last line.
func (d *jsonDisplay) Fail(err error) {
	d.write(line{Type: "error", errorLine: &errorLine{Error: text.Clean(err.Error()), Hints: cli.Hints(err), ExitCode: cli.ExitCode(err)}})
}

func (d *jsonDisplay) Suspend() func() { return func() {} }
func (d *jsonDisplay) Close()          {}

// Summarize makes a host's report fit for JSON.
func Summarize(h deploy.HostReport) HostSummary {
	s := HostSummary{
		Host: h.Host, Outcome: h.Outcome, Steps: map[string]float64{}, Paths: h.Paths, NarBytes: h.NarBytes, WireBytes: h.WireBytes,
		Generation: h.Generation, Old: h.Old, New: h.New, Txn: h.Txn, RunsNewBootsOld: h.RunsNewBootsOld,
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
