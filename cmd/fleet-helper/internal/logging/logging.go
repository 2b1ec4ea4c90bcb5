// Package logging sets logrus up. Nothing below the command line logs: engines emit events, and only here is decided
// which of them become log lines. On the operator's side the log is for finding faults and is silent by default.
package logging

import (
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"

	"fleet/cmd/fleet-helper/internal/text"
	"fleet/evaluator/plan"
)

// The names of the fields, the same everywhere.
const (
	FieldHost     = "host"
	FieldStep     = "step"
	FieldKind     = "kind"
	FieldDuration = "dur"
	FieldError    = "err"
)

// Formats are the names of the formats.
func Formats() []string { return []string{"text", "json"} }

// Levels are the names of the levels that a person may choose.
func Levels() []string { return []string{"error", "warn", "info", "debug", "trace"} }

// New returns a logger that writes to w. Lines have no time: journald adds its own, and a person reads along.
func New(w io.Writer, level, format string) (*logrus.Logger, error) {
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q: want one of %s", level, strings.Join(Levels(), ", "))
	}
	log := logrus.New()
	log.SetOutput(w)
	log.SetLevel(parsed)
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{DisableTimestamp: true})
	default:
		return nil, fmt.Errorf("log format %q: want one of %s", format, strings.Join(Formats(), ", "))
	}
	return log, nil
}

// Reporter logs events at the level that fits their kind, and hands them on.
type Reporter struct {
	Log  logrus.FieldLogger
	Next interface{ Emit(plan.Event) }
}

// Emit satisfies the Reporter of every engine.
func (r *Reporter) Emit(e plan.Event) {
	if r.Next != nil {
		r.Next.Emit(e)
	}
	fields := logrus.Fields{FieldKind: string(e.Kind)}
	if e.Host != "" {
		fields[FieldHost] = text.Line(e.Host)
	}
	if e.Step != "" {
		fields[FieldStep] = string(e.Step)
	}
	if e.Seconds > 0 {
		fields[FieldDuration] = fmt.Sprintf("%.3fs", e.Seconds)
	}
	if e.Message != "" {
		fields["text"] = text.Clean(e.Message)
	}
	r.Log.WithFields(fields).Debug("event")
}
