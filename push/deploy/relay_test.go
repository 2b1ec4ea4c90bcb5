package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"fleet/evaluator/plan"
	"fleet/push"
)

// withRelay makes the relay that of the others of a world.
func withRelay(w *world, relay string, others ...string) {
	for _, name := range others {
		h := w.plan.Hosts[name]
		h.Deploy.Relay = &relay
		w.plan.Hosts[name] = h
	}
	h := w.plan.Hosts[relay]
	h.Deploy.RelayPort = 7171
	w.plan.Hosts[relay] = h
}

// order checks that there are such entries in the log, in that order.
func (w *world) order(t *testing.T, entries ...string) {
	t.Helper()
	rest := w.log
	for _, entry := range entries {
		at := slices.Index(rest, entry)
		if at < 0 {
			t.Errorf("%q is not where it should be in %q", entry, w.log)
			return
		}
		rest = rest[at+1:]
	}
}

func (w *world) warnings(host string) (texts []string) {
	for _, e := range w.events {
		if e.Host == host && e.Kind == plan.EventWarning {
			texts = append(texts, e.Message+" | "+e.Hint)
		}
	}
	return texts
}

func TestHostsTakeFromTheirRelayBeforeTheyArePushedTo(t *testing.T) {
	w := newWorld("a", "b", "gate")
	withRelay(w, "gate", "a", "b")
	var filling atomic.Int32
	w.hook = func(ctx context.Context, host, what string) error {
		if host == "gate" && what == "push" {
			if filling.Add(1) > 1 {
				t.Error("two pushes to the relay at once")
			}
			defer filling.Add(-1)
		}
		return ctx.Err()
	}
	report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Hosts = []string{"a", "b"} })
	for _, h := range report.Hosts {
		if h.Outcome != OutcomeSwitched || h.Paths != 5 || h.NarBytes != 500 || h.WireBytes != 110 {
			t.Errorf("%+v", h)
		}
		w.order(t, h.Host+" take gate", "gate push", "gate offer", h.Host+" push")
	}
	if n := len(slices.DeleteFunc(slices.Clone(w.log), func(entry string) bool { return entry != "gate connect" })); n != 1 || w.hosts["gate"].closed != 1 {
		t.Errorf("the relay was connected to %d times, and %d sessions were closed", n, w.hosts["gate"].closed)
	}
	if texts := slices.Concat(w.warnings("a"), w.warnings("b")); len(texts) > 0 {
		t.Errorf("warnings: %q", texts)
	}
}

func TestARelayKeepsItsSessionForOthers(t *testing.T) {
	w := newWorld("a", "gate")
	withRelay(w, "gate", "a")
	if kept := builders(w.plan, []string{"a", "gate"}); !kept["gate"] || kept["a"] {
		t.Errorf("kept are the sessions of %v", kept)
	}
}

func TestTheFailureOfARelayIsAWarning(t *testing.T) {
	unreachable := hinted{errors.New("no route to gate"), "mend the route"}
	for name, tt := range map[string]struct {
		change func(w *world)
		says   []string
	}{
		"it cannot be reached": {func(w *world) { w.hosts["gate"].connect = unreachable }, []string{"no route to gate", "mend the route"}},
		"it is full":           {func(w *world) { w.hosts["gate"].push = &push.StoreFullError{Host: "gate"} }, []string{`"gate"`}},
		"it has other paths": {func(w *world) {
			w.hosts["a"].take = &push.RelayError{Host: "a", Relay: "gate", Err: unreachable}
			w.hosts["b"].take = w.hosts["a"].take
		}, []string{"no route to gate"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a", "b", "gate")
			withRelay(w, "gate", "a", "b")
			tt.change(w)
			report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Hosts = []string{"a", "b"} })
			for host, outcome := range outcomes(report) {
				texts := w.warnings(host)
				if outcome != OutcomeSwitched || len(texts) != 1 {
					t.Fatalf("%s: %s, %q", host, outcome, texts)
				}
				for _, text := range append(tt.says, "what is missing is sent from here") {
					if !strings.Contains(texts[0], text) {
						t.Errorf("%q does not say %q", texts[0], text)
					}
				}
			}
			if pushes := len(slices.DeleteFunc(slices.Clone(w.log), func(entry string) bool { return entry != "gate push" })); name == "it is full" && pushes != 1 {
				t.Errorf("%d pushes to a relay that is full", pushes)
			}
		})
	}
}

func TestWhoNeedsNoRelayUsesNone(t *testing.T) {
	w := newWorld("here", "self", "gate")
	withRelay(w, "gate", "here", "self")
	here, self := w.plan.Hosts["here"], w.plan.Hosts["self"]
	here.Deploy.Address, self.Deploy.BuildOn = addressLocal, buildOnTarget
	w.plan.Hosts["here"], w.plan.Hosts["self"] = here, self
	w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Hosts = []string{"here", "self"} })
	for _, entry := range w.log {
		if strings.HasPrefix(entry, "gate ") || strings.Contains(entry, " take ") {
			t.Errorf("%q", entry)
		}
	}
}
