package evaluator

import (
	"slices"
	"strings"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

const (
	// tailLines is how many lines of each build are kept for an error.
	tailLines = 25
	// maxTails bounds the ended builds whose lines are kept.
	maxTails = 64
	// maxActivities bounds what is remembered of a nix that never ends what it begins.
	maxActivities = 1 << 16
	// maxLogLine bounds a line of a build in events and errors, in bytes.
	maxLogLine = 2000
	// maxErrors bounds the errors that are kept.
	maxErrors = 100
	// countInterval is the least time between events that differ in their numbers only.
	countInterval = 100 * time.Millisecond
)

// BuildLog turns what nix prints with --log-format internal-json while it builds into events, and keeps what an error
// needs. Write the process' stderr to it, wherever the process runs. It is not safe for concurrent use.
type BuildLog struct {
	// Emit receives events without Time, Host and Step; nil means nobody listens.
	Emit func(plan.Event)
	// Line receives every line for a full log; nil means that there is none.
	Line func(string)

	messages   messageWriter
	activities map[uint64]*activity
	// ended are the last builds that have ended, oldest first.
	ended []*activity
	errs  []Message
	// builds and copies are the last numbers of nix.
	builds, copies count
	shown          plan.Event
	shownAt        time.Time
}

// activity is something that nix is doing now.
type activity struct {
	kind int
	// drv is the derivation of a build.
	drv  string
	tail []string
}

type count struct{ done, expected uint64 }

// Write takes a piece of the process' stderr. It never fails.
func (l *BuildLog) Write(data []byte) (int, error) {
	l.messages.each = l.message
	return l.messages.Write(data)
}

// Close handles a last line without a newline.
func (l *BuildLog) Close() {
	l.messages.each = l.message
	l.messages.flush()
}

func (l *BuildLog) message(m Message) {
	switch m.Action {
	case "start":
		l.start(m)
	case "stop":
		l.stop(m)
	case "result":
		l.result(m)
	case "msg":
		l.line(m.Text)
		l.said(m)
	default:
		l.line(m.Text)
		if isError(m) {
			l.said(m)
		}
	}
}

// said handles a message of nix itself.
func (l *BuildLog) said(m Message) {
	switch {
	case m.Text == "" || isHint(m):
	case isError(m):
		if len(l.errs) < maxErrors {
			l.errs = append(l.errs, m)
		}
	case m.Level <= levelWarning && !isBusy(m.Text):
		l.emit(plan.Event{Kind: plan.EventWarning, Message: oneLine(strings.TrimPrefix(m.Text, "warning: "))})
	}
}

func (l *BuildLog) start(m Message) {
	if l.activities == nil {
		l.activities = map[uint64]*activity{}
	}
	if len(l.activities) >= maxActivities {
		return
	}
	a := &activity{kind: m.Type}
	switch m.Type {
	case actBuild:
		a.drv = m.field(0).Text
		l.line("building " + a.drv)
		l.progress("building " + shortName(a.drv))
	case actCopyPath, actSubstitute:
		l.progress("fetching " + shortName(m.field(0).Text))
	case actBuilds, actCopyPaths:
	default:
		return
	}
	l.activities[m.ID] = a
}

func (l *BuildLog) stop(m Message) {
	a := l.activities[m.ID]
	delete(l.activities, m.ID)
	if a == nil || a.kind != actBuild {
		return
	}
	if l.ended = append(l.ended, a); len(l.ended) > maxTails {
		l.ended = slices.Delete(l.ended, 0, 1)
	}
}

func (l *BuildLog) result(m Message) {
	a := l.activities[m.ID]
	switch m.Type {
	case resBuildLogLine, resPostBuildLogLine:
		text := m.field(0).Text
		name := ""
		if a != nil && a.kind == actBuild {
			name = shortName(a.drv) + "> "
			if a.tail = append(a.tail, clip(text)); len(a.tail) > tailLines {
				a.tail = a.tail[1:]
			}
		}
		l.line(name + text)
		l.emit(plan.Event{Kind: plan.EventLog, Message: oneLine(name + text)})
	case resProgress:
		if a == nil {
			return
		}
		c := count{m.field(0).Number, m.field(1).Number}
		if c.expected == 0 {
			// Nix takes back what it expected once a build has failed.
			return
		}
		switch a.kind {
		case actBuilds:
			l.builds = c
		case actCopyPaths:
			l.copies = c
		default:
			return
		}
		l.progress(l.shown.Message)
	}
}

// progress emits the counts where they, or what is being done, changed. Builds are
// what takes long, so fetched paths are counted only while nothing is to be built.
func (l *BuildLog) progress(message string) {
	e := plan.Event{Kind: plan.EventProgress, Message: message}
	switch {
	case l.builds.expected > 0:
		e.Done, e.Total, e.Unit = l.builds.done, l.builds.expected, "derivations"
	case l.copies.expected > 0:
		e.Done, e.Total, e.Unit = l.copies.done, l.copies.expected, "paths"
	}
	// Nix finds what is to be built one by one, and tells each: nobody can read that.
	between := e.Message == l.shown.Message && e.Done < e.Total && time.Since(l.shownAt) < countInterval
	if e == l.shown || between || e.Message == "" && e.Total == 0 {
		return
	}
	l.shown, l.shownAt = e, time.Now()
	l.emit(e)
}

func (l *BuildLog) emit(e plan.Event) {
	if l.Emit != nil {
		l.Emit(e)
	}
}

func (l *BuildLog) line(text string) {
	if l.Line != nil && text != "" {
		l.Line(text)
	}
}

// Failure makes the error of a build that failed; drv is what was asked for. LogFile is left to the caller.
func (l *BuildLog) Failure(host, drv string) *BuildError {
	e := &BuildError{Host: host, Drv: drv}
	for _, m := range l.errs {
		for _, line := range errorLines(ownMessage(m)) {
			if len(e.Summary) < maxSummary && !slices.Contains(e.Summary, line) {
				e.Summary = append(e.Summary, line)
			}
		}
	}
	if failed := l.failedDrv(); failed != "" {
		e.Drv = failed
	}
	builds := slices.Clone(l.ended)
	for _, a := range l.activities {
		builds = append(builds, a)
	}
	for _, a := range builds {
		if a.drv == e.Drv {
			e.LogTail = a.tail
		}
	}
	return e
}

// failedDrv is the derivation that the first error speaks of: those of what depends on it come later.
func (l *BuildLog) failedDrv() string {
	for _, m := range l.errs {
		for text := m.Text; ; text = text[1:] {
			i := strings.Index(text, storepath.StoreDir+"/")
			if i < 0 {
				break
			}
			text = text[i:]
			name, _, _ := strings.Cut(text, ".drv")
			if p, err := storepath.Parse(name + ".drv"); err == nil {
				return p.String()
			}
		}
	}
	return ""
}

// errorLines drops from an error what is said elsewhere: nix repeats the end of the log in it.
func errorLines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if line == "" || strings.HasPrefix(line, ">") || strings.HasPrefix(lower, "for full logs, run") ||
			strings.HasPrefix(lower, "last ") && strings.HasSuffix(lower, "log lines:") {
			continue
		}
		out = append(out, clip(strings.TrimSuffix(line, ";")))
	}
	return out
}

// shortName is a store path without its folder and hash, and a derivation's without .drv.
func shortName(text string) string {
	p, err := storepath.Parse(text)
	if err != nil {
		return clip(text)
	}
	return strings.TrimSuffix(p.Name(), ".drv")
}

// oneLine makes a text fit for an event.
func oneLine(text string) string {
	if !strings.ContainsAny(text, "\n") {
		return clip(text)
	}
	return clip(strings.Join(strings.Fields(text), " "))
}

func clip(text string) string {
	if len(text) <= maxLogLine {
		return text
	}
	return strings.ToValidUTF8(text[:maxLogLine], "") + "…"
}
