package push

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryPausesGrowToTheirBound(t *testing.T) {
	r := Retry{First: time.Second, Max: 5 * time.Second}.withDefaults()
	want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	for n, most := range want {
		if got := r.pause(n, 1); got != most {
			t.Errorf("try %d: at most %v, want %v", n, got, most)
		}
		if got := r.pause(n, 0); got != most/2 {
			t.Errorf("try %d: at least %v, want %v", n, got, most/2)
		}
	}
}

func TestRetryEnds(t *testing.T) {
	broken, final := errors.New("broken"), errors.New("final")
	always := func(err error) bool { return !errors.Is(err, final) }
	for rule, c := range map[string]struct {
		policy Retry
		// fails is how often the attempt fails before it works; block makes each attempt wait for its context.
		fails int
		block bool
		err   error
		want  error
		tries int
		most  time.Duration
	}{
		"works at once":      {tries: 1},
		"works later":        {fails: 3, err: broken, tries: 4, most: 4 * time.Second},
		"after all tries":    {fails: 99, err: broken, want: broken, tries: 6, most: 16 * time.Second},
		"with what is final": {fails: 99, err: final, want: final, tries: 1},
		"never":              {policy: Retry{Tries: -1}, want: context.Canceled},
		"at the end of its time": {policy: Retry{Tries: 1000, First: time.Second, Max: time.Second, Total: 10 * time.Second},
			fails: 9999, err: broken, want: broken, tries: 20, most: 10 * time.Second},
		"where an attempt hangs": {policy: Retry{Total: time.Minute}, block: true, fails: 9999, want: context.DeadlineExceeded, tries: 1, most: time.Minute},
	} {
		t.Run(rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, began := 0, time.Now()
				n, err := c.policy.do(t.Context(), func(ctx context.Context) error {
					if calls++; calls > c.fails {
						return nil
					}
					if c.block {
						<-ctx.Done()
						return ctx.Err()
					}
					return c.err
				}, always)
				if !errors.Is(err, c.want) || n != calls || n > c.tries || n == 0 && c.tries != 0 {
					t.Errorf("%d tries, %d calls, error %v", n, calls, err)
				}
				if took := time.Since(began); took > c.most {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
