package logging

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
)

func TestEventsAreLoggedCleanAndHandedOn(t *testing.T) {
	for name, test := range map[string]struct{ level, format, want string }{
		"text":  {"debug", "text", "level=debug msg=event dur=1.500s host=web-1 kind=done step=push text=\"all there\"\n"},
		"json":  {"debug", "json", `{"dur":"1.500s","host":"web-1","kind":"done","level":"debug","msg":"event","step":"push","text":"all there"}` + "\n"},
		"quiet": {"warn", "text", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := New(&out, test.level, test.format)
			if err != nil {
				t.Fatal(err)
			}
			next := &recorder{}
			r := &Reporter{Log: log, Next: next}
			r.Emit(plan.Event{Host: "web-1", Step: plan.StepPush, Kind: plan.EventDone, Seconds: 1.5, Message: "all \x1b[1mthere"})
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Error(diff)
			}
			if next.n != 1 {
				t.Error("the event was not handed on")
			}
		})
	}
}

func TestUnknownLevelsAndFormatsAreRefused(t *testing.T) {
	if _, err := New(nil, "loud", "text"); err == nil {
		t.Error("level")
	}
	if _, err := New(nil, "info", "xml"); err == nil {
		t.Error("format")
	}
	for _, level := range Levels() {
		if _, err := New(nil, level, "json"); err != nil {
			t.Error(err)
		}
	}
}

type recorder struct{ n int }

func (r *recorder) Emit(plan.Event) { r.n++ }
