package plan

import "time"

// Step names a part of a deployment that is timed and reported.
type Step string

// The steps, in the order in which a host goes through them.
const (
	StepPlan     Step = "plan"
	StepConnect  Step = "connect"
	StepEvaluate Step = "evaluate"
	// StepSecrets is only there where a host waits for secrets, or cannot read its own.
	StepSecrets  Step = "secrets"
	StepBuild    Step = "build"
	StepPush     Step = "push"
	StepActivate Step = "activate"
)

// EventKind says what an [Event] tells.
type EventKind string

// The kinds of events. A step begins with one EventStarted and ends with one EventDone, EventSkipped or EventFailed.
const (
	EventStarted  EventKind = "started"
	EventProgress EventKind = "progress"
	EventLog      EventKind = "log"
	EventWarning  EventKind = "warning"
	EventDone     EventKind = "done"
	EventSkipped  EventKind = "skipped"
	EventFailed   EventKind = "failed"
)

// Event is one thing that happened to a host, or to the whole run where Host is empty. Its JSON form
// is what --json prints, one a line, with FormatVersion of its own.
type Event struct {
	Time time.Time `json:"time"`
	Host string    `json:"host,omitempty"`
	Step Step      `json:"step,omitempty"`
	Kind EventKind `json:"kind"`
	// Message is one line for a person; for EventLog it is one line of a foreign program's output, free of escape codes.
	Message string `json:"message,omitempty"`
	// Hint is the command or the setting that mends a failure.
	Hint string `json:"hint,omitempty"`
	// Done and Total count Unit; Total is 0 where it is not known.
	Done  uint64 `json:"done,omitempty"`
	Total uint64 `json:"total,omitempty"`
	// Unit is "bytes", "paths", "derivations" or empty.
	Unit string `json:"unit,omitempty"`
	// WireBytes is what went over the network for this step so far.
	WireBytes uint64 `json:"wireBytes,omitempty"`
	// BytesPerSecond is how fast the network was used lately, and SecondsLeft what is left of the step at the speed that Done has grown with lately; both are 0
	// where nobody knows yet.
	BytesPerSecond uint64  `json:"bytesPerSecond,omitempty"`
	SecondsLeft    float64 `json:"secondsLeft,omitempty"`
	// Seconds is how long the step took, in its last event.
	Seconds float64 `json:"seconds,omitempty"`
}
