package deploy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/push"
)

func TestAnInterruptionBeforeActivationLeavesNothing(t *testing.T) {
	for _, at := range []string{"connect", "evaluate", "build", "push", "refresh"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("a", "b")
				ctx, cancel := context.WithCancel(t.Context())
				w.hook = func(ctx context.Context, host, what string) error {
					if what == at {
						cancel()
						<-ctx.Done()
						return ctx.Err()
					}
					return ctx.Err()
				}
				report := w.run(ctx, t, nil)
				if diff := cmp.Diff(map[string]Outcome{"a": OutcomeInterrupted, "b": OutcomeInterrupted}, outcomes(report)); diff != "" {
					t.Error(diff)
				}
				if report.ExitCode() != ExitInterrupted || w.did("a begin") || w.did("b begin") {
					t.Errorf("exit %d, log %v", report.ExitCode(), w.log)
				}
				for name, h := range w.hosts {
					if w.did(name+" connect") && at != "connect" && h.closed == 0 {
						t.Errorf("the session with %s was left open", name)
					}
				}
			})
		})
	}
}

func TestAnInterruptionDuringActivationDetaches(t *testing.T) {
	for _, at := range []string{"begin", "attach"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld("a")
			ctx, cancel := context.WithCancel(t.Context())
			w.hook = func(ctx context.Context, host, what string) error {
				if what == at {
					cancel()
				}
				return ctx.Err()
			}
			report := w.run(ctx, t, nil)
			got := report.Hosts[0]
			if got.Outcome != OutcomeDetached || got.Txn != "txn-a" || report.ExitCode() != ExitInterrupted {
				t.Errorf("got %q, txn %q, exit %d", got.Outcome, got.Txn, report.ExitCode())
			}
			var detached *DetachedError
			if !errors.As(got.Err, &detached) || detached.Hint() != "fleet attach a txn-a" {
				t.Errorf("got %v", got.Err)
			}
		})
	}
}

func TestAHostThatNeverComesBackIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a")
		w.hook = func(_ context.Context, _, what string) error {
			if what == "attach" {
				return &push.LostError{Host: "a", Tries: 5, Err: errors.New("timeout")}
			}
			return nil
		}
		began := time.Now()
		report := w.run(t.Context(), t, nil)
		var detached *DetachedError
		if report.ExitCode() != ExitHostsFailed || !errors.As(report.Err(), &detached) || !detached.Guarded {
			t.Errorf("exit %d, %v", report.ExitCode(), report.Err())
		}
		// By then its guard has ended, whatever it did.
		if took := time.Since(began); took < 30*time.Minute || took > time.Hour {
			t.Errorf("it took %v", took)
		}
	})
}
