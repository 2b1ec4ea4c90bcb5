package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// count is how often the log has an entry.
func (w *world) count(entry string) int {
	return len(slices.DeleteFunc(slices.Clone(w.log), func(other string) bool { return other != entry }))
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
	if filled := w.count("gate push"); filled != 2 {
		t.Errorf("%d pushes to the relay", filled)
	}
	for _, h := range report.Hosts {
		if h.Outcome != OutcomeSwitched || h.Paths != 5 || h.NarBytes != 500 || h.WireBytes != 110 {
			t.Errorf("%+v", h)
		}
		w.order(t, h.Host+" take gate", "gate push", "gate offer", h.Host+" push")
	}
	if n := w.count("gate connect"); n != 1 || w.hosts["gate"].closed != 1 {
		t.Errorf("the relay was connected to %d times, and %d sessions were closed", n, w.hosts["gate"].closed)
	}
	if texts := slices.Concat(w.warnings("a"), w.warnings("b")); len(texts) > 0 {
		t.Errorf("warnings: %q", texts)
	}
}

func TestARelayKeepsWhatTheHostsBehindItRun(t *testing.T) {
	w := newWorld("a", "b", "c", "direct", "gate", "other")
	withRelay(w, "gate", "a", "b", "c")
	withRelay(w, "other", "direct")
	w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Hosts = []string{"a", "b"} })
	group := relayRoots(w.plan)
	var names []string
	tidied := 0
	for _, request := range w.hosts["gate"].pushes {
		names = append(names, request.RootName)
		if request.RootGroup == "" {
			continue
		}
		tidied++
		// c is not deployed to, and what it runs stays nevertheless.
		if request.RootGroup != group || !slices.Equal(request.RootKeep, []string{group + "a", group + "b", group + "c"}) {
			t.Errorf("of %q, %q are kept", request.RootGroup, request.RootKeep)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{group + "a", group + "b"}) || tidied != 1 {
		t.Errorf("the roots %q were set, and others removed %d times", names, tidied)
	}
}

func TestARelayIsNotFilledWhileItIsPushedTo(t *testing.T) {
	w := newWorld("a", "b", "gate")
	withRelay(w, "gate", "a", "b")
	var pushing atomic.Int32
	w.hook = func(ctx context.Context, host, what string) error {
		if host == "gate" && what == "push" {
			if pushing.Add(1) > 1 {
				t.Error("two pushes to the relay at once")
			}
			time.Sleep(10 * time.Millisecond) // another one would come meanwhile
			pushing.Add(-1)
		}
		return ctx.Err()
	}
	for host, outcome := range outcomes(w.run(t.Context(), t, nil)) {
		if outcome != OutcomeSwitched {
			t.Errorf("%s: %s", host, outcome)
		}
	}
	if pushes := w.count("gate push"); pushes != 3 {
		t.Errorf("%d pushes to the relay", pushes)
	}
}

func TestWhoWaitsForARelayHoldsUpNobodyElse(t *testing.T) {
	w := newWorld("a", "other", "gate")
	withRelay(w, "gate", "a")
	pushed := make(chan struct{})
	w.hook = func(ctx context.Context, host, what string) error {
		switch {
		case host == "other" && what == "push":
			close(pushed)
		case host == "a" && what == "take gate":
			select {
			case <-pushed:
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	report := w.run(ctx, t, func(d *Deployer, r *Request) {
		d.Limits.Hosts, r.Hosts = 1, []string{"a", "other"}
	})
	for host, outcome := range outcomes(report) {
		if outcome != OutcomeSwitched {
			t.Errorf("%s: %s", host, outcome)
		}
	}
}

// hostOf is a host's way through a run that has not begun.
func (w *world) hostOf(ctx context.Context, name string) *hostRun {
	d := &Deployer{Backend: w, Plan: w.plan, Connector: w, Reporter: w}
	return &hostRun{deployment: newDeployment(ctx, d, Request{Hosts: []string{name}}), name: name, host: w.plan.Hosts[name]}
}

func TestNobodyWaitsForARelayThatDoesNotGetOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "gate")
		withRelay(w, "gate", "a")
		h := w.hostOf(t.Context(), "a")
		defer h.cancel(nil)
		filling := h.relays["gate"].filling
		filling <- struct{}{}
		session := &fakeSession{w: w, name: "gate", host: w.hosts["gate"]}
		// It gets on for an hour, and then only keeps its connection.
		var others sync.WaitGroup
		defer others.Wait()
		others.Go(func() {
			for i := range 24 * 60 {
				time.Sleep(time.Minute)
				if session.host.moved.Add(1 << 10); i < 60 {
					session.host.moved.Add(1 << 20)
				}
			}
		})
		began := time.Now()
		err := h.await("gate", filling, moving(session))
		stalled, ok := errors.AsType[*stalledError](err)
		if took := time.Since(began); !ok || stalled.relay != "gate" || took < time.Hour || took > time.Hour+2*relayPatience {
			t.Errorf("%v after %s", err, took)
		}
		// Whoever gets done with it lets others wait on.
		takers := make(chan struct{}, 1)
		takers <- struct{}{}
		others.Go(func() {
			for range 5 {
				time.Sleep(relayPatience * 3 / 4)
				h.relays["gate"].served.Add(1)
			}
			<-takers
		})
		if err := h.await("gate", takers, serving(h.relays["gate"])); err != nil {
			t.Error(err)
		}
	})
}

func TestAPushToARelayThatDoesNotGetOnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "gate")
		withRelay(w, "gate", "a")
		w.hook = func(ctx context.Context, _, what string) error {
			if what == "push" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		h := w.hostOf(t.Context(), "a")
		defer h.cancel(nil)
		began := time.Now()
		for range 2 {
			if _, err := h.fillRelay("gate", push.PushRequest{}); err == nil || !strings.Contains(err.Error(), "nothing has moved there") {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(began); took != fillPatience || w.count("gate push") != 1 {
			t.Errorf("%d pushes within %s", w.count("gate push"), took)
		}
	})
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
		// pushes is how often it is pushed to.
		pushes int
	}{
		"it cannot be reached":       {func(w *world) { w.hosts["gate"].connect = unreachable }, []string{"no route to gate", "mend the route"}, 0},
		"it is full":                 {func(w *world) { w.hosts["gate"].push = &push.StoreFullError{Host: "gate"} }, []string{`"gate"`}, 1},
		"it cannot be reached again": {func(w *world) { w.hosts["gate"].push = &push.LostError{Host: "gate", Err: unreachable} }, []string{"no route to gate"}, 1},
		"a path is corrupt":          {func(w *world) { w.hosts["gate"].push = &push.CorruptError{Reason: "other bytes"} }, []string{"other bytes"}, 2},
		"it has other paths": {func(w *world) {
			w.hosts["a"].take = &push.RelayError{Host: "a", Relay: "gate", Err: unreachable}
			w.hosts["b"].take = w.hosts["a"].take
		}, []string{"no route to gate"}, 2},
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
			if pushes := w.count("gate push"); pushes != tt.pushes {
				t.Errorf("%d pushes to the relay", pushes)
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
