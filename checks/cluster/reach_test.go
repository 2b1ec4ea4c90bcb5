//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// transports are the ways to make an SSH connection; both must mean the same by a configuration.
var transports = []string{"native", "openssh"}

// sshConfig adds settings to the operator's ssh configuration, where a test keeps to host names of its own.
func sshConfig(t *testing.T, name, text string) {
	t.Helper()
	if _, err := shared.operator.Sh(t.Context(), `
mkdir -p /root/.ssh/config.d
[ -e /root/.ssh/config ] || echo 'Include config.d/*' >/root/.ssh/config
printf '%s\n' "$2" >"/root/.ssh/config.d/$1"`, name, text); err != nil {
		t.Fatal(err)
	}
}

// know adds lines to the operator's known_hosts.
func know(t *testing.T, lines ...string) {
	t.Helper()
	if _, err := shared.operator.Sh(t.Context(), `printf '%s\n' "$@" >>/root/.ssh/known_hosts`, lines...); err != nil {
		t.Fatal(err)
	}
}

func hostKey(t *testing.T, h *lab.Host, kind string) string {
	t.Helper()
	key, err := h.HostKeyOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAHostBehindAnotherIsReachedThroughIt(t *testing.T) {
	relay := take(t)
	h := boot(t, "inner", lab.Spec{Address: lab.Subnet + ".38"})
	// As a firewall does: what the operator sends is dropped without an answer, and what the relay sends is not.
	on(t, h, "ip route add blackhole "+shared.operator.Spec.Address+"/32")
	if _, err := shared.operator.Sh(t.Context(), `timeout 1 bash -c ": </dev/tcp/$1/22"`, h.Spec.Address); err == nil {
		t.Fatal("the operator reaches the host without the relay")
	}
	for _, transport := range transports {
		text := "through a relay by " + transport
		p := newProject(t, map[string]hostSpec{h.Name: {Content: text, Deploy: map[string]any{
			"address": h.Spec.Address, "transport": transport, "jumpHosts": []string{"sudoer@" + relay.Spec.Address},
		}}})
		before := logins(t, []*lab.Host{relay})[relay.Name]
		p.deploy("switch").want(0)
		if got := content(t, h); got != text {
			t.Errorf("%s: the host holds %q", transport, got)
		}
		if logins(t, []*lab.Host{relay})[relay.Name] == before {
			t.Errorf("%s: nobody logged in to the relay", transport)
		}
	}
}

func TestTheUsersSSHConfigurationDecides(t *testing.T) {
	t.Parallel()
	h := boot(t, "aliased", lab.Spec{Address: lab.Subnet + ".39"})
	on(t, h, `printf 'Port 22\nPort 2222\n' >/etc/ssh/sshd_config.d/ports.conf; systemctl restart ssh.service`)
	sshConfig(t, "aliased", "Host friendly\n  HostName "+h.Spec.Address+"\n  Port 2222\n  User sudoer")
	know(t, "["+h.Spec.Address+"]:2222 "+hostKey(t, h, "ed25519"))
	// The ordinary port is closed for the operator, so that only the alias leads anywhere.
	on(t, h, `nft add table inet test; nft 'add chain inet test in { type filter hook input priority 0; }'; nft add rule inet test in tcp dport 22 reject with tcp reset`)
	for _, transport := range transports {
		text := "by its alias, " + transport
		p := newProject(t, map[string]hostSpec{h.Name: {Content: text, Deploy: map[string]any{"address": "friendly", "transport": transport}}})
		p.deploy("switch").want(0)
		if got := content(t, h); got != text {
			t.Errorf("%s: the host holds %q", transport, got)
		}
	}
	users := on(t, h, "journalctl --quiet --no-pager --boot --unit=ssh.service --grep='Accepted publickey'")
	if strings.Contains(users, "for root") || !strings.Contains(users, "for sudoer") {
		t.Errorf("the configured user did not log in:\n%s", users)
	}
}

func TestAKeyThatIsKnownOfAnOlderKindIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	h, err := shared.lab.Up(t.Context(), "elder", lab.Spec{Address: lab.Subnet + ".40"}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer remove(t, h)
	key := hostKey(t, h, "rsa")
	know(t, h.Spec.Address+" "+key)
	for _, transport := range transports {
		p := newProject(t, map[string]hostSpec{h.Name: {Content: "known by RSA", Deploy: map[string]any{"address": h.Spec.Address, "transport": transport}}})
		p.deploy("switch").want(0)
		if got := content(t, h); got != "known by RSA" {
			t.Errorf("the host holds %q", got)
		}
		if state := p.sh(`cat "$1"/fleet-state/default/hosts/` + h.Name + `.json`); !strings.Contains(state, key) || strings.Contains(state, "ssh-ed25519") {
			t.Errorf("%s: another key was pinned than the one that is known: %s", transport, state)
		}
		p.deploy("switch").want(0, "unchanged")
	}
}

func TestAHostIsReachedByIPv6(t *testing.T) {
	h := take(t)
	address := h.Spec.Address6()
	know(t, address+" "+hostKey(t, h, "ed25519"))
	for _, transport := range transports {
		text := "by IPv6, " + transport
		p := newProject(t, map[string]hostSpec{h.Name: {Content: text, Deploy: map[string]any{"address": address, "transport": transport}}})
		p.deploy("switch").want(0)
		if got := content(t, h); got != text {
			t.Errorf("%s: the host holds %q", transport, got)
		}
	}
}
