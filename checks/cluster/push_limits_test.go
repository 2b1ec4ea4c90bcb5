//go:build cluster

package cluster

import (
	"context"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// What a small host must do with: its own programs have the same memory.
const (
	tightMemory = 512 << 20
	// agentMemory bounds what the agent holds for itself on any host, in bytes.
	agentMemory = 128_000_000
)

// watchAgent returns how much memory the host's agent held at most, in bytes, once stop is called.
func watchAgent(t *testing.T, h *lab.Host) (stop func() uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	peak := make(chan uint64, 1)
	go func() {
		var most uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			n, err := h.MemoryOf("fleet-helper")
			if err != nil {
				t.Error(err)
			}
			most = max(most, n)
			select {
			case <-ctx.Done():
				peak <- most
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		cancel()
		return <-peak
	}
}

func TestASmallHostTakesALargePush(t *testing.T) {
	t.Parallel()
	const paths, size, large = 1500, 100_000, 300 << 20
	h := boot(t, "tight", lab.Spec{Address: lab.Subnet + ".71"})
	p := newPusher(t, h)
	var before string
	for _, salt := range []string{"fresh", "rebuilt"} {
		m := newMade(salt)
		top := m.system(t, paths, size, m.add(t, "large-1.0", large))
		m.install(t, top)
		if before == "" {
			if err := h.Confine(t.Context(), lab.Bounds{CPUs: 1, Memory: tightMemory}); err != nil {
				t.Fatal(err)
			}
		} else {
			p.runsNow(before)
		}
		stop := watchAgent(t, h)
		began := time.Now()
		sent := p.push(top.String())
		peak := stop()
		t.Logf("%s: %d paths by %d bytes in %s, the agent held %d MB", salt, sent.Paths, sent.WireBytes, time.Since(began).Round(time.Millisecond), peak/1_000_000)
		if sent.Paths != paths+2 || before != "" && sent.WireBytes > 2<<20 {
			t.Errorf("%s: %+v", salt, sent)
		}
		if peak > agentMemory || peak == 0 {
			t.Errorf("%s: the agent held %d bytes, more than %d", salt, peak, agentMemory)
		}
		if !valid(t, h, top.String()) {
			t.Errorf("%s: %s is not valid", salt, top)
		}
		before = top.String()
	}
	if killed, err := h.Killed(); err != nil || killed > 0 {
		t.Errorf("%d processes were killed for want of memory: %v", killed, err)
	}
	if out, err := h.Sh(t.Context(), "nix store verify --all --no-trust"); err != nil {
		t.Errorf("the store is damaged: %v\n%s", err, out)
	}
}
