package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Link is what lies between a host and all others.
type Link struct {
	// Rate bounds either direction, in bits a second; 0 leaves it to the machine.
	Rate uint64
	// RTT is what a packet's way there and back takes longer, half of it in each direction.
	RTT time.Duration
}

// A token bucket has to hold what comes between two looks of the kernel at it, or the rate is not reached; and a queue of
// 300 ms is what routers in front of slow links have.
const (
	bucketTime = 2 * time.Millisecond
	minBucket  = 32 << 10
	queueTime  = 300 * time.Millisecond
)

// Shape gives the host's link a rate and a delay, until release is called. The rate is the kernel's (tbf), the delay a line of packets in this
// process (the kernel of a small machine has no netem): it ends with the process, and the host is cut off then until release or [Host.Remove].
func (h *Host) Shape(ctx context.Context, link Link) (release func() error, err error) {
	undo := []func() error{}
	release = func() error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		undo = nil
		return errors.Join(errs...)
	}
	if link.RTT > 0 {
		stop, err := h.delay(ctx, link.RTT/2)
		if err != nil {
			return nil, fmt.Errorf("delay the link of host %q: %w", h.Name, err)
		}
		undo = append(undo, stop)
	}
	if link.Rate > 0 {
		if err := h.bound(ctx, link.Rate); err != nil {
			return nil, errors.Join(fmt.Errorf("bound the link of host %q: %w", h.Name, err), release())
		}
		undo = append(undo, func() error { return h.Limit(context.WithoutCancel(ctx), "") })
	}
	return release, nil
}

func (h *Host) bound(ctx context.Context, rate uint64) error {
	bucket := max(minBucket, rate/8*uint64(bucketTime)/uint64(time.Second))
	for _, end := range h.ends() {
		_, err := command(ctx, "ip", "netns", "exec", end[0], "tc", "qdisc", "replace", "dev", end[1], "root", "tbf",
			"rate", fmt.Sprintf("%dbit", rate), "burst", strconv.FormatUint(bucket, 10), "latency", fmt.Sprintf("%dms", queueTime.Milliseconds()))
		if err != nil {
			return err
		}
	}
	return nil
}

// Wire is what has gone over the host's link since it was made, in bytes, headers included. Where the kernel hands on several
// segments as one, their headers are counted once.
func (h *Host) Wire() (received, sent uint64, err error) {
	pid := h.PID()
	if pid == 0 {
		return 0, 0, fmt.Errorf("count the bytes of host %q: it is down", h.Name)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		name, counters, _ := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(counters)
		if name != "eth0" || len(f) < 9 {
			continue
		}
		if received, err = strconv.ParseUint(f[0], 10, 64); err != nil {
			return 0, 0, err
		}
		sent, err = strconv.ParseUint(f[8], 10, 64)
		return received, sent, err
	}
	return 0, 0, fmt.Errorf("count the bytes of host %q: it has no eth0", h.Name)
}
