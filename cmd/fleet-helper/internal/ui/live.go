package ui

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
	"fleet/push/deploy"
)

// frameInterval is the time between two frames while something moves.
const frameInterval = 100 * time.Millisecond

// live keeps a status area at the bottom of a terminal, a line a host, and prints what stays above it.
type live struct {
	size   func() (width, height int)
	stdout *sink
	// onTerminal says that the report goes to the terminal too.
	onTerminal bool
	style      style

	mu    sync.Mutex
	err   *sink
	model model
	// above are lines to be printed before the next frame.
	above []string
	// drawn is how many lines the area has on the screen.
	drawn int
	// last is what the area shows.
	last      string
	suspended int
	closed    bool
	stop      chan struct{}
	stopped   chan struct{}
	attach    string
}

func newLive(env *cli.Env) *live {
	l := &live{
		size: env.Size, onTerminal: env.StdoutTerminal, style: style{on: env.Color}, stdout: &sink{w: env.Stdout}, err: &sink{w: env.Stderr},
		model: newModel(), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go l.loop()
	return l
}

func (l *live) loop() {
	defer close(l.stopped)
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			l.mu.Lock()
			l.draw(now)
			l.mu.Unlock()
		case <-l.stop:
			return
		}
	}
}

func (l *live) Emit(e plan.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.model.apply(e)
	switch e.Kind {
	case plan.EventLog, plan.EventWarning, plan.EventFailed:
		l.above = append(l.above, eventLines(e, l.style)...)
	}
	if l.closed {
		l.flush()
	}
}

func (l *live) Begin(r Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attach = r.Attach
	l.model.begin(r, time.Now())
}

func (l *live) Finish(r *deploy.Report) error {
	l.Close()
	if width, _ := l.size(); l.onTerminal {
		l.stdout.print(Summary(r, l.attach, l.style, width))
	} else {
		l.stdout.print(Summary(r, l.attach, style{}, 0))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err.print(CommitText(r.Uncommitted))
	return l.stdout.err
}

// Log prints the line above the area.
func (l *live) Log(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.above = append(l.above, text.Clean(line))
	if l.closed {
		l.flush()
	}
}

// Fail has nothing to add to the message that follows.
func (l *live) Fail(error) {}

// Suspend takes the area off the screen, so that a prompt can stand there.
func (l *live) Suspend() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	l.suspended++
	var once sync.Once
	return func() {
		once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.suspended--
		})
	}
}

// Close takes the area off the screen for good. It may be called more than once.
func (l *live) Close() {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return
	}
	close(l.stop)
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// flush clears the area and prints what waits above it.
func (l *live) flush() {
	if l.suspended > 0 {
		return
	}
	l.err.print(l.clear() + joinLines(l.above))
	l.above = nil
}

// clear returns what takes the area off the screen: cursor up (CUU), erase to the end of the screen (ED).
func (l *live) clear() string {
	if l.drawn == 0 {
		return ""
	}
	n := l.drawn
	l.drawn = 0
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", n)
}

func (l *live) draw(now time.Time) {
	if l.suspended > 0 || l.closed {
		return
	}
	width, height := l.size()
	frame := l.model.frame(now, width, height, l.style)
	if len(frame) == 0 && len(l.above) == 0 && l.drawn == 0 {
		return
	}
	picture := joinLines(frame)
	if picture == l.last && len(l.above) == 0 && l.drawn > 0 {
		return
	}
	l.err.print(l.clear() + joinLines(l.above) + picture)
	l.above, l.drawn, l.last = nil, len(frame), picture
}

func joinLines(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// model is what the status area shows. It knows no terminal.
type model struct {
	title string
	start time.Time
	// last is the step after which a host is done.
	last plan.Step
	// fleet is the step of the whole run that is under way, nil where there is none.
	fleet *hostLine
	hosts map[string]*hostLine
	order []string
}

// hostLine is the state of one host.
type hostLine struct {
	step   plan.Step
	since  time.Time
	detail string
	// ended is set once no step is under way; failed and finished say how the host stands then.
	ended, failed, finished bool
	// moved is the last event of a transfer that is under way.
	moved plan.Event
}

func newModel() model { return model{hosts: map[string]*hostLine{}, last: plan.StepActivate} }

func (m *model) begin(r Run, now time.Time) {
	m.title, m.start = fmt.Sprintf("%s %s", r.Action, r.Fleet), now
	switch r.Action {
	case deploy.ActionBuild:
		m.last = plan.StepBuild
	case deploy.ActionPush:
		m.last = plan.StepPush
	}
	for _, name := range r.Hosts {
		m.host(name)
	}
}

func (m *model) host(name string) *hostLine {
	h, ok := m.hosts[name]
	if !ok {
		h = &hostLine{ended: true}
		m.hosts[name] = h
		m.order = append(m.order, name)
	}
	return h
}

func (m *model) apply(e plan.Event) {
	if e.Host == "" {
		m.applyFleet(e)
		return
	}
	if m.hosts[e.Host] == nil && m.title != "" {
		return // a host that builds for others and is not deployed itself
	}
	h := m.host(e.Host)
	switch e.Kind {
	case plan.EventStarted:
		*h = hostLine{step: e.Step, since: e.Time}
	case plan.EventProgress:
		h.detail = progress(e)
		if e.Unit == "bytes" {
			h.moved = e
		}
	case plan.EventLog:
		h.detail = text.Line(e.Message)
	case plan.EventDone:
		h.ended, h.detail = true, doneText(e)
		h.finished = e.Step == m.last
	case plan.EventSkipped:
		h.step, h.ended, h.finished, h.detail = e.Step, true, true, text.Line(e.Message)
	case plan.EventFailed:
		h.step, h.ended, h.failed, h.detail = e.Step, true, true, firstLine(e.Message)
	}
}

// applyFleet takes an event about the whole run: a line of its own while the step lasts.
func (m *model) applyFleet(e plan.Event) {
	switch e.Kind {
	case plan.EventStarted:
		m.fleet = &hostLine{step: e.Step, since: e.Time}
	case plan.EventProgress, plan.EventLog:
		if m.fleet != nil {
			m.fleet.detail = text.Line(e.Message)
		}
	case plan.EventDone, plan.EventFailed, plan.EventSkipped:
		m.fleet = nil
	}
}

// frame renders the area: hosts at work first, then those that wait, failed ones, finished ones, as many as
// fit into half of the screen, and a line of counts.
func (m *model) frame(now time.Time, width, height int, s style) []string {
	if width < 1 {
		return nil
	}
	var lines []string
	if m.fleet != nil {
		lines = append(lines, m.fleet.render("fleet", len("fleet"), width-1, now, s))
	}
	if len(m.order) == 0 {
		return lines
	}
	room := max(3, height/2)
	nameWidth := 0
	for _, name := range m.order {
		nameWidth = max(nameWidth, text.Width(text.Line(name)))
	}
	nameWidth = min(nameWidth, max(8, width/3))
	for _, name := range m.ranked() {
		if len(lines) == room {
			break
		}
		lines = append(lines, m.hosts[name].render(name, nameWidth, width-1, now, s))
	}
	return append(lines, m.countLine(now, width-1, s))
}

// ranked orders the hosts for the area.
func (m *model) ranked() []string {
	var groups [4][]string
	for _, name := range m.order {
		h := m.hosts[name]
		switch {
		case !h.ended:
			groups[0] = append(groups[0], name)
		case h.failed:
			groups[2] = append(groups[2], name)
		case h.finished:
			groups[3] = append(groups[3], name)
		default:
			groups[1] = append(groups[1], name)
		}
	}
	return append(append(append(groups[0], groups[1]...), groups[2]...), groups[3]...)
}

func (h *hostLine) render(name string, nameWidth, width int, now time.Time, s style) string {
	name = text.Pad(text.Cut(text.Line(name), nameWidth), nameWidth)
	state, color := string(h.step), bold
	switch {
	case h.failed:
		state, color = string(h.step)+" failed", red
	case h.finished:
		state, color = "done", green
	case h.ended && h.step == "":
		state, color = "waiting", dim
	case h.ended:
		state, color = string(h.step)+" ✓", dim
	}
	state = text.Pad(state, 15)
	clock := ""
	if !h.ended {
		clock = text.Duration(now.Sub(h.since).Truncate(time.Second / 10))
	}
	rest := text.Cut(text.Pad(clock, 6)+" "+h.detail, width-nameWidth-2-text.Width(state)-1)
	return strings.TrimRight(name+"  "+s.paint(color, state)+" "+rest, " ")
}

func (m *model) countLine(now time.Time, width int, s style) string {
	var working, failed, finished, moving int
	sum := plan.Event{Unit: "bytes"}
	for _, h := range m.hosts {
		switch {
		case !h.ended:
			working++
			sum.Done, sum.Total, sum.WireBytes, sum.BytesPerSecond = sum.Done+h.moved.Done, sum.Total+h.moved.Total, sum.WireBytes+h.moved.WireBytes, sum.BytesPerSecond+h.moved.BytesPerSecond
			// The last one to be done decides.
			sum.SecondsLeft = max(sum.SecondsLeft, h.moved.SecondsLeft)
			moving += min(1, int(h.moved.Total))
		case h.failed:
			failed++
		case h.finished:
			finished++
		}
	}
	line := fmt.Sprintf("%s: %d at work, %d done, %d failed", plural(len(m.order), "host"), working, finished, failed)
	if m.title != "" {
		line = m.title + ": " + line
	}
	if moving > 1 {
		line += "  " + progress(sum)
	}
	if !m.start.IsZero() {
		line += "  " + text.Duration(now.Sub(m.start))
	}
	return s.paint(dim, text.Cut(line, width))
}
