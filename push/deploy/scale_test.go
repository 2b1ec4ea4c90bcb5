package deploy

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/evaluator/plan"
)

// counter counts events, as a display that shows nothing.
type counter struct{ events atomic.Int64 }

func (c *counter) Emit(plan.Event) { c.events.Add(1) }

// The bounds of the orchestration alone, for each of 1,000 hosts and for the whole process.
const (
	scaleHosts  = 1000
	cpuPerHost  = 50 * time.Millisecond
	maxResident = 400 << 20
)

func TestAThousandHostsAreCheap(t *testing.T) {
	var names []string
	for i := range scaleHosts {
		names = append(names, fmt.Sprintf("host-%04d", i))
	}
	w := newWorld(names...)
	w.hook = func(ctx context.Context, _, _ string) error {
		time.Sleep(time.Millisecond)
		return ctx.Err()
	}
	events := &counter{}
	before := cpuTime(t)
	report := w.run(t.Context(), t, func(d *Deployer, r *Request) {
		d.Reporter = events
		r.Confirm = func(context.Context, []Change) (bool, error) { return true, nil }
	})
	perHost := (cpuTime(t) - before) / scaleHosts
	if report.ExitCode() != 0 {
		t.Fatal(report.Err())
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	resident := int64(usage.Maxrss) << 10 // getrusage(2): kibibytes
	t.Logf("%v CPU a host, %d MiB, %d events, %v", perHost, resident>>20, events.events.Load(), report.Duration)
	if perHost > cpuPerHost {
		t.Errorf("%v CPU a host, at most %v", perHost, cpuPerHost)
	}
	if resident > maxResident {
		t.Errorf("%d MiB, at most %d", resident>>20, maxResident>>20)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
