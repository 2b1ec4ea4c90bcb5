package deploy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator"
	"fleet/push"
	"fleet/push/transport"
)

func TestAPushDoesWithoutTheHelperWhereItCannotRun(t *testing.T) {
	unable := &push.NoElevationError{Host: "a", User: "ann"}
	changed := &transport.HostKeyError{Host: "a", Kind: transport.HostKeyChanged}
	for name, tt := range map[string]struct {
		err    error
		change func(*world, *Request)
		log    []string
		// hint is what the failure's says; empty where the push works.
		hint string
	}{
		"nobody becomes root":     {unable, nil, []string{"a connect", "a plain", "a evaluate", "a build", "a push"}, ""},
		"no helper for a system":  {&evaluator.HelperError{System: "riscv64-linux"}, nil, []string{"a connect", "a plain", "a evaluate", "a build", "a push"}, ""},
		"a changed host key":      {changed, nil, []string{"a connect"}, changed.Hint()},
		"a wrong password":        {&push.PasswordError{Host: "a"}, nil, []string{"a connect"}, "password"},
		"a switch":                {unable, func(_ *world, r *Request) { r.Action = ActionSwitch }, []string{"a connect"}, "activating a system needs the helper"},
		"a build on the host":     {unable, func(w *world, _ *Request) { buildOn(w, "a", "target") }, []string{"a connect", "a plain", "a evaluate"}, "building there needs the helper"},
		"only a build on a host":  {unable, func(w *world, r *Request) { buildOn(w, "a", "target"); r.Action = ActionBuild }, []string{"a connect"}, "building there needs the helper"},
		"a switch, with its hint": {unable, func(_ *world, r *Request) { r.Action = ActionSwitch }, []string{"a connect"}, unable.Hint()},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld("a")
			w.hosts["a"].connect = tt.err
			report := w.run(t.Context(), t, func(_ *Deployer, r *Request) {
				r.Action = ActionPush
				if tt.change != nil {
					tt.change(w, r)
				}
			})
			if diff := cmp.Diff(tt.log, w.log); diff != "" {
				t.Error(diff)
			}
			got := report.Hosts[0]
			if closed := w.hosts["a"].closed; (closed == 1) != slices.Contains(w.log, "a plain") {
				t.Errorf("it was closed %d times", closed)
			}
			if tt.hint == "" {
				if got.Outcome != OutcomePushed || got.Paths == 0 || !cmp.Equal(got.Notices, []string{withoutNotice}) {
					t.Errorf("%+v", got)
				}
				return
			}
			var hinted interface{ Hint() string }
			if got.Outcome != OutcomeFailed || !errors.Is(got.Err, tt.err) || !errors.As(got.Err, &hinted) || !strings.Contains(hinted.Hint(), tt.hint) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func buildOn(w *world, name, place string) {
	host := w.plan.Hosts[name]
	host.Deploy.BuildOn = place
	w.plan.Hosts[name] = host
}
