package push

import (
	"context"
	"math/rand/v2"
	"time"
)

// Retry says how a broken connection is dialed again. The zero value of a field means its default.
type Retry struct {
	// Tries is how often is dialed after a break before it counts as final; default 6, negative for never.
	Tries int
	// First is the pause before the second try; it doubles, with some jitter, up to Max. Defaults 500 ms and 15 s.
	First, Max time.Duration
	// Total bounds the time from the break to the last try; default 2 minutes.
	Total time.Duration
}

func (r Retry) withDefaults() Retry {
	if r.Tries == 0 {
		r.Tries = 6
	}
	if r.First <= 0 {
		r.First = 500 * time.Millisecond
	}
	if r.Max <= 0 {
		r.Max = 15 * time.Second
	}
	if r.Total <= 0 {
		r.Total = 2 * time.Minute
	}
	return r
}

// pause returns how long to wait before try number n (from 0). Jitter keeps many hosts behind one broken
// router from coming back in step: the pause is between half of the doubled one and all of it.
func (r Retry) pause(n int, jitter float64) time.Duration {
	if n == 0 {
		return 0
	}
	d := r.First
	for i := 1; i < n && d < r.Max; i++ {
		d *= 2
	}
	d = min(d, r.Max)
	return d/2 + time.Duration(jitter*float64(d/2))
}

// do calls attempt until it returns nil or an error that again refuses, or until the policy is used up. The
// returned count is the number of attempts made.
func (r Retry) do(ctx context.Context, attempt func(context.Context) error, again func(error) bool) (int, error) {
	r = r.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, r.Total, context.DeadlineExceeded)
	defer cancel()
	err := context.Canceled
	for n := 0; n < r.Tries; n++ {
		select {
		case <-ctx.Done():
			return n, err
		case <-time.After(r.pause(n, rand.Float64())):
		}
		if err = attempt(ctx); err == nil || !again(err) {
			return n + 1, err
		}
	}
	return max(r.Tries, 0), err
}
