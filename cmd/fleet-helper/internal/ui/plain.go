package ui

import (
	"fmt"
	"io"
	"sync"
	"time"

	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// plainInterval is how often a long step of a host says how far it is.
const plainInterval = 15 * time.Second

// plain prints a line for everything that matters, as it happens. It is for logs of CI and for pipes.
type plain struct {
	mu       sync.Mutex
	out, err *sink
	style    style
	attach   string
	// said is when a host's step last said something.
	said map[string]time.Time
}

func newPlain(stdout, stderr io.Writer, s style) *plain {
	return &plain{out: &sink{w: stdout}, err: &sink{w: stderr}, style: s, said: map[string]time.Time{}}
}

func (p *plain) Emit(e plan.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case plan.EventStarted:
		p.said[e.Host] = e.Time
		return
	case plan.EventProgress:
		if e.Time.Sub(p.said[e.Host]) < plainInterval {
			return
		}
		p.said[e.Host] = e.Time
	}
	for _, l := range eventLines(e, p.style) {
		p.err.print(l + "\n")
	}
}

func (p *plain) Begin(r Run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attach = r.Attach
	p.err.print(fmt.Sprintf("%s %s of fleet %s (%s)\n", r.Action, plural(len(r.Hosts), "host"), text.Line(r.Fleet), text.Line(r.Source)))
}

func (p *plain) Finish(r *deploy.Report) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.print(Summary(r, p.attach, style{}, 0))
	p.err.print(CommitText(r.Uncommitted))
	return p.out.err
}

// Log prints the line as it is.
func (p *plain) Log(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err.print(line + "\n")
}

func (p *plain) Fail(error)      {}
func (p *plain) Suspend() func() { return func() {} }
func (p *plain) Close()          {}

// eventLines are the lines that an event is worth, where the reader sees a list of lines.
func eventLines(e plan.Event, s style) []string {
	prefix := ""
	if e.Host != "" {
		prefix = text.Line(e.Host) + ": "
	}
	message := text.Line(e.Message)
	switch e.Kind {
	case plan.EventLog:
		if e.Step == plan.StepActivate {
			return []string{s.paint(dim, text.Line(e.Host)+"> "+text.Clean(e.Message))}
		}
	case plan.EventWarning:
		lines := []string{s.paint(yellow, prefix+"warning: "+message)}
		return append(lines, hintLines([]string{e.Hint})...)
	case plan.EventProgress:
		return []string{prefix + string(e.Step) + ": " + progress(e)}
	case plan.EventSkipped:
		return []string{prefix + string(e.Step) + " skipped: " + message}
	case plan.EventDone:
		return []string{prefix + doneText(e)}
	case plan.EventFailed:
		if e.Host == "" {
			return nil // it ends the command, which prints the whole error
		}
		return []string{s.paint(red, prefix+string(e.Step)+" failed: "+firstLine(e.Message))}
	}
	return nil
}

func doneText(e plan.Event) string {
	line := fmt.Sprintf("%s done in %s", e.Step, text.Duration(time.Duration(e.Seconds*float64(time.Second))))
	if e.Unit == "bytes" && e.Done > 0 {
		line += fmt.Sprintf(", %s (%s sent, %.2g %%)", text.Bytes(e.Done), text.Bytes(e.WireBytes), 100*float64(e.WireBytes)/float64(e.Done))
	}
	if e.Message != "" {
		line += ": " + text.Line(e.Message)
	}
	return line
}

// progress renders how far a step is.
func progress(e plan.Event) string {
	var s string
	switch {
	case e.Unit == "bytes" && e.Total > 0:
		s = fmt.Sprintf("%s of %s", text.Bytes(e.Done), text.Bytes(e.Total))
	case e.Unit == "bytes":
		s = text.Bytes(e.Done)
	case e.Total > 0:
		s = fmt.Sprintf("%d/%d %s", e.Done, e.Total, e.Unit)
	case e.Done > 0:
		s = fmt.Sprintf("%d %s", e.Done, e.Unit)
	}
	s += wireText(e)
	if m := text.Line(e.Message); m != "" {
		if s != "" {
			s += " "
		}
		s += m
	}
	return s
}

// wireText says what of a transfer has gone over the network, how fast, and how long it goes on.
func wireText(e plan.Event) string {
	var s string
	if e.WireBytes > 0 && e.Unit == "bytes" {
		s += fmt.Sprintf(", %s sent", text.Bytes(e.WireBytes))
	}
	if e.BytesPerSecond > 0 {
		s += fmt.Sprintf(", %s/s", text.Bytes(e.BytesPerSecond))
	}
	if e.SecondsLeft >= 1 {
		s += fmt.Sprintf(", %s left", text.Duration(time.Duration(e.SecondsLeft*float64(time.Second)).Round(time.Second)))
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func hintLines(hints []string) []string {
	var lines []string
	for _, h := range hints {
		if h != "" {
			lines = append(lines, "  hint: "+text.Line(h))
		}
	}
	return lines
}
