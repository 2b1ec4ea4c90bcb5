//go:build cluster

package cluster

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/checks/testbed/lab"
	"fleet/closure/storepath"
)

// brokenLink is one over which a push of brokenPaths paths and a large one takes some seconds.
var brokenLink = lab.Link{Rate: 100_000_000, RTT: 20 * time.Millisecond}

const (
	brokenPaths = 600
	// What is under way as a unit of 8 MiB comes twice, so all of it has to be much more.
	brokenSize  = 200_000
	brokenLarge = 120_000_000
)

// wire is what has gone over a host's link, in bytes.
func wire(t *testing.T, h *lab.Host) uint64 {
	t.Helper()
	in, out, err := h.Wire()
	if err != nil {
		t.Fatal(err)
	}
	return in + out
}

// sleep is how long a laptop is asleep.
const sleep = 15 * time.Second

// cutSessions ends all SSH sessions of a host, as when both ends of its connections die at once.
func cutSessions(t *testing.T, h *lab.Host) {
	t.Helper()
	on(t, h, `pkill --signal KILL --full '[s]shd-session|[s]shd: root@'`)
}

func TestABreakCostsAPushHardlyAnything(t *testing.T) {
	t.Parallel()
	h := boot(t, "breaking", lab.Spec{Address: lab.Subnet + ".72"})
	p := newPusher(t, h)
	// The helper is sent once in a host's life.
	first := newMade("prime")
	prime := first.add(t, "prime-1.0", 100)
	first.install(t, prime)
	p.push(prime.String())
	release, err := h.Shape(t.Context(), brokenLink)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var undisturbed uint64
	for number, disturb := range []struct {
		rule string
		at   func(operator *exec.Cmd)
	}{
		{rule: "undisturbed"},
		{"all sessions end", func(*exec.Cmd) { cutSessions(t, h) }},
		{"the operator sleeps, and the host's network is gone meanwhile", func(operator *exec.Cmd) { sleepCut(t, p, h, operator) }},
	} {
		m := newMade("one salt for all")
		top := breakable(t, m, number)
		m.install(t, top)
		before := wire(t, h)
		began := time.Now()
		cmd := p.command(t.Context(), p.argv(top.String())...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if disturb.at != nil {
			waitFor(t, "half of the push", func() bool { return wire(t, h)-before > undisturbed/2 })
			disturb.at(cmd)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v\n%s", disturb.rule, err, out.String())
		}
		sent := wire(t, h) - before
		t.Logf("%s: %d bytes in %s", disturb.rule, sent, time.Since(began).Round(time.Millisecond))
		if disturb.at == nil {
			undisturbed = sent
		} else if limit := undisturbed + undisturbed/20 + 1_000_000; sent > limit {
			t.Errorf("%s: %d bytes went over the wire, more than %d; undisturbed it was %d", disturb.rule, sent, limit, undisturbed)
		}
		if disturb.at != nil && !strings.Contains(out.String(), "connection lost") {
			t.Errorf("%s: nothing was broken\n%s", disturb.rule, out.String())
		}
		if !valid(t, h, top.String()) {
			t.Errorf("%s: %s is not valid", disturb.rule, top)
		}
	}
}

// breakable makes paths that no earlier push has anything of, of the same sizes every time.
func breakable(t *testing.T, m *made, number int) storepath.Path {
	t.Helper()
	all := []storepath.Path{m.add(t, fmt.Sprintf("large%c-1.0", 'a'+number), brokenLarge)}
	for i := range brokenPaths {
		all = append(all, m.add(t, fmt.Sprintf("piece%c-%03d", 'a'+number, i), brokenSize))
	}
	return m.add(t, fmt.Sprintf("top%c", 'a'+number), 1000, all...)
}

// sleepCut stops the operator's process, as a laptop that sleeps does, and takes the host's network and the sessions away meanwhile.
func sleepCut(t *testing.T, p *pusher, h *lab.Host, operator *exec.Cmd) {
	t.Helper()
	p.signal("STOP")
	if err := h.Cut(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	cutSessions(t, h)
	time.Sleep(sleep) // the laptop's, not ours: nothing happens that could be waited for
	if err := h.Cut(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	// The nsenter that we have started has stopped itself with its child, and takes it along.
	if err := operator.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
