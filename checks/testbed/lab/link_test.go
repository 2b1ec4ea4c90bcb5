//go:build cluster

package lab

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if Supervise() {
		return
	}
	os.Exit(m.Run())
}

// pair boots two hosts of a lab of their own.
func pair(t *testing.T) (a, b *Host) {
	t.Helper()
	l, err := Open("links", "../../..")
	if err != nil {
		t.Fatal(err)
	}
	release, err := l.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	if err := l.Down(t.Context()); err != nil { // what an earlier run left
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil { // the test's own context has ended
			t.Error(err)
		}
	})
	hosts := make([]*Host, 2)
	for i := range hosts {
		if hosts[i], err = l.Up(t.Context(), "host"+strconv.Itoa(i), Spec{Address: Subnet + "." + strconv.Itoa(11+i)}, func(line string) { t.Log(line) }); err != nil {
			t.Fatal(err)
		}
	}
	return hosts[0], hosts[1]
}

var pingTimes = regexp.MustCompile(`= ([0-9.]+)/`)

// ping is the shortest of a few round trips.
func ping(t *testing.T, from *Host, to string) time.Duration {
	t.Helper()
	out, err := from.Exec(t.Context(), "ping", "-q", "-c", "5", "-i", "0.1", to)
	found := pingTimes.FindStringSubmatch(out)
	if err != nil || found == nil {
		t.Fatal(err, out)
	}
	milliseconds, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(milliseconds * float64(time.Millisecond))
}

func TestALinkOnAHost(t *testing.T) {
	a, b := pair(t)
	const rtt, rate, size = 40 * time.Millisecond, 80e6, 4 << 20
	release, err := b.Shape(t.Context(), Link{Rate: rate, RTT: rtt})
	if err != nil {
		t.Fatal(err)
	}
	if got := ping(t, a, b.Spec.Address); got < rtt || got > rtt+10*time.Millisecond {
		t.Errorf("a round trip takes %s, want %s", got, rtt)
	}
	received, _, err := b.Wire()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	key, err := os.ReadFile(a.lab.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sh(t.Context(), `umask 077; printf %s "$1" >/root/key; echo >>/root/key
head -c `+strconv.Itoa(size)+` /dev/urandom | ssh -o StrictHostKeyChecking=no -i /root/key root@"$2" 'cat >/dev/null'`, string(key), b.Spec.Address); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if least := time.Duration(size * 8 / rate * float64(time.Second)); took < least {
		t.Errorf("%d bytes took %s, want at least %s", size, took, least)
	}
	if after, _, err := b.Wire(); err != nil || after-received < size || after-received > size*11/10 {
		t.Errorf("%d bytes were received for %d, %v", after-received, size, err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if got := ping(t, a, b.Spec.Address); got > 10*time.Millisecond {
		t.Errorf("a round trip still takes %s", got)
	}
}

func TestASavedStateComesBackOnAHost(t *testing.T) {
	h, _ := pair(t)
	do := func(text string) {
		t.Helper()
		if out, err := h.Sh(t.Context(), text); err != nil {
			t.Fatal(err, out)
		}
	}
	do("echo kept >/root/kept; rm /root/.profile")
	if err := h.Save(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Restore(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		do("test ! -e /root/lost; test ! -e /root/.profile; grep -q kept /root/kept; rm /root/kept; echo lost >/root/lost")
	}
}

func TestBoundsOnAHost(t *testing.T) {
	h, _ := pair(t)
	if err := h.Confine(t.Context(), Bounds{CPUs: 0.5, Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	before, err := h.CPU()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := h.Exec(t.Context(), "systemd-run", "--wait", "--quiet", "timeout", "2", "sh", "-c", "while :; do :; done"); err == nil {
		t.Error("the loop ended by itself")
	}
	after, err := h.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if share := (after - before).Seconds() / time.Since(start).Seconds(); share > 0.7 {
		t.Errorf("a host with half a processor used %.2f", share)
	}
	if _, err := h.Exec(t.Context(), "systemd-run", "--wait", "--quiet", "sh", "-c", "head -c 200000000 /dev/zero | tail"); err == nil {
		t.Error("a host with 64 MiB held 200 MB")
	}
}
