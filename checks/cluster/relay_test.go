//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// A relay of the tests, and those who take from it.
const (
	relayPort = "7171"
	// relayMiB are sizes of ballast that no other test has, so that no host has it.
	relayMiB, relayNewerMiB, relayDownMiB = 37, 38, 41
)

// farSite is a fleet of a relay and others that take from it.
func farSite(ballastMiB int, text string, relay *lab.Host, others ...*lab.Host) map[string]hostSpec {
	specs := map[string]hostSpec{relay.Name: {Content: text}}
	for _, h := range others {
		specs[h.Name] = hostSpec{Content: text, BallastMiB: ballastMiB, Deploy: map[string]any{"relay": relay.Name}}
	}
	return specs
}

// received is what came over a host's link since it was made, in bytes.
func received(t *testing.T, h *lab.Host) uint64 {
	t.Helper()
	bytes, _, err := h.Wire()
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// listens is who listens on the relays' port of a host.
func listens(t *testing.T, h *lab.Host) string {
	t.Helper()
	return on(t, h, "ss --no-header --listening --tcp --numeric 'sport = :"+relayPort+"'")
}

// nothingIsLeft checks that nobody listens for takers any more, and that the agents end.
func nothingIsLeft(t *testing.T, hosts ...*lab.Host) {
	t.Helper()
	for _, h := range hosts {
		if open := listens(t, h); open != "" {
			t.Errorf("%s still listens: %s", h.Name, open)
		}
		waitFor(t, "the end of the agent on "+h.Name, func() bool { return processes(t, h, "fleet-helper agent") == 0 })
	}
}

func TestHostsTakeFromTheirRelay(t *testing.T) {
	hosts := takeSome(t, 3)
	relay, others := hosts[0], hosts[1:]
	p := newProject(t, farSite(relayMiB, "by a relay", relay, others...))
	before := map[string]uint64{}
	for _, h := range hosts {
		before[h.Name] = received(t, h)
	}
	report := p.deploy("switch", "--json", "--on", others[0].Name, "--on", others[1].Name).want(0).report()
	const ballast = relayMiB << 20
	for _, h := range others {
		if got := content(t, h); got != "by a relay" {
			t.Errorf("%s holds %q", h.Name, got)
		}
		if sent := report[h.Name].WireBytes; sent > 2<<20 {
			t.Errorf("%d bytes were sent to %s from the operator", sent, h.Name)
		}
		if report[h.Name].Paths == 0 {
			t.Errorf("no paths are counted for %s", h.Name)
		}
		if came := received(t, h) - before[h.Name]; came < ballast {
			t.Errorf("%d bytes came to %s", came, h.Name)
		}
		if root := on(t, relay, "readlink /nix/var/nix/gcroots/fleet/relay:default:"+h.Name); root != runs(t, h) {
			t.Errorf("the relay keeps %q, and %s runs %q", root, h.Name, runs(t, h))
		}
	}
	// It went to the relay once, although two hosts have it.
	if came := received(t, relay) - before[relay.Name]; came < ballast || came > ballast+ballast/2 {
		t.Errorf("%d bytes came to the relay", came)
	}
	if got := content(t, relay); got == "by a relay" {
		t.Error("the relay was deployed, too")
	}
	nothingIsLeft(t, hosts...)
	p.deploy("switch", "--on", others[0].Name).want(0, "unchanged")
}

func TestAHostThatIsReachedThroughItsRelayTakesFromIt(t *testing.T) {
	relay := take(t)
	h := boot(t, "farther", lab.Spec{Address: lab.Subnet + ".58"})
	on(t, h, "ip route add blackhole "+shared.operator.Spec.Address+"/32")
	// The relay's address is another one at the site: the host finds it by what the relay says of itself.
	on(t, h, "echo 10.99.99.99 gate >>/etc/hosts; ip route add blackhole 10.99.99.99/32")
	sshConfig(t, "gate", "Host gate\n  HostName "+relay.Spec.Address)
	specs := farSite(relayNewerMiB, "from far away", relay, h)
	specs[relay.Name] = hostSpec{Deploy: map[string]any{"address": "gate"}}
	specs[h.Name].Deploy["address"], specs[h.Name].Deploy["jumpHosts"] = h.Spec.Address, []string{relay.Spec.Address}
	p := newProject(t, specs)
	report := p.deploy("switch", "--json", "--on", h.Name).want(0).report()
	if got := content(t, h); got != "from far away" {
		t.Errorf("the host holds %q", got)
	}
	if sent := report[h.Name].WireBytes; sent > 2<<20 {
		t.Errorf("%d bytes were sent from the operator", sent)
	}
	nothingIsLeft(t, relay, h)
}

func TestARelayIsNeverNeeded(t *testing.T) {
	hosts := takeSome(t, 2)
	relay, h := hosts[0], hosts[1]
	nowhere := lab.Subnet + ".59"
	for i, tt := range []struct {
		name, says string
		relay      map[string]any
		before     func(t *testing.T) (after func())
	}{
		{name: "it is down", says: "reach host", relay: map[string]any{"address": nowhere}},
		{name: "its port is closed", says: "deploy.relayPort", before: func(t *testing.T) (after func()) {
			on(t, relay, `nft add table inet relay; nft 'add chain inet relay in { type filter hook input priority 0; }'; nft add rule inet relay in tcp dport `+relayPort+` reject with tcp reset`)
			return func() { on(t, relay, "nft delete table inet relay") }
		}},
		{name: "its port is taken", says: "address already in use", before: func(t *testing.T) (after func()) {
			on(t, relay, "systemd-run --quiet --unit=squatter --collect systemd-socket-activate --listen="+relayPort+" cat")
			waitFor(t, "the port to be taken", func() bool { return listens(t, relay) != "" })
			return func() { on(t, relay, "systemctl stop squatter.service") }
		}},
		{name: "its agent dies", says: "", before: func(t *testing.T) (after func()) {
			if err := relay.Limit(t.Context(), "100mbit"); err != nil {
				t.Fatal(err)
			}
			killed := make(chan error, 1)
			go func() {
				_, err := relay.Sh(t.Context(), `timeout 60 bash -c 'until [ -n "$(ss --no-header --tcp --numeric state established "sport = :`+relayPort+`")" ]; do sleep 0.02; done'
pkill --signal KILL --full 'fleet-helper agent'`)
				killed <- err
			}()
			return func() {
				if err := <-killed; err != nil {
					t.Error(err)
				}
				if err := relay.Limit(t.Context(), ""); err != nil {
					t.Error(err)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			specs := farSite(relayDownMiB+i, tt.name, relay, h)
			if tt.relay != nil {
				specs[relay.Name] = hostSpec{Deploy: tt.relay}
			}
			if tt.before != nil {
				defer tt.before(t)()
			}
			p := newProject(t, specs)
			r := p.deploy("switch", "--on", h.Name).want(0, "warning: bring paths to", "what is missing is sent from here")
			if !strings.Contains(r.stderr, tt.says) {
				t.Errorf("the warning does not say %q:\n%s", tt.says, r.stderr)
			}
			if got := content(t, h); got != tt.name {
				t.Errorf("the host holds %q", got)
			}
		})
	}
	nothingIsLeft(t, relay, h)
}
