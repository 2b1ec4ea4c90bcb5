package lab

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
)

// Subnet is the network of every lab; labs do not see each other, so they may share it.
const Subnet = "10.77.0"

// subnet6 is the network of every lab in IPv6.
const subnet6 = "fd77::"

// Address6 is the host's IPv6 address: the last number of its IPv4 address in [subnet6].
func (s Spec) Address6() string { return subnet6 + s.Address[strings.LastIndexByte(s.Address, '.')+1:] }

const netnsDir = "/run/netns"

func (l *Lab) bridgeNS() string { return "ft-" + l.Name }

func (h *Host) netNS() string { return "ft-" + h.lab.Name + "-" + h.Name }

// veth is the name of the host's link on the bridge's side: interface names hold 15 bytes, host names are longer.
func (h *Host) veth() string {
	sum := fnv.New32a()
	sum.Write([]byte(h.Name))
	return fmt.Sprintf("v%08x", sum.Sum32())
}

// mac follows the address: a host that is made anew must not be looked for under an old one in its neighbours' caches.
func (h *Host) mac() string {
	sum := fnv.New32a()
	sum.Write([]byte(h.Spec.Address))
	n := sum.Sum32()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// ensureBridge makes the lab's namespace with its bridge.
func (l *Lab) ensureBridge(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(netnsDir, l.bridgeNS())); err == nil {
		return nil
	}
	return script(ctx, `
ip netns add "$1"
ip -n "$1" link add br0 type bridge
ip -n "$1" link set br0 up
ip -n "$1" link set lo up`, l.bridgeNS())
}

// removeBridge removes the bridge, and what an earlier run may have left of hosts that are not known any more.
func (l *Lab) removeBridge(ctx context.Context) error {
	left, err := filepath.Glob(filepath.Join(netnsDir, l.bridgeNS()+"-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := removeNetNS(ctx, filepath.Base(path)); err != nil {
			return err
		}
	}
	return removeNetNS(ctx, l.bridgeNS())
}

func removeNetNS(ctx context.Context, name string) error {
	if _, err := os.Stat(filepath.Join(netnsDir, name)); os.IsNotExist(err) {
		return nil
	}
	_, err := command(ctx, "ip", "netns", "del", name)
	return err
}

// ensureNetwork makes the host's namespace and links it to the bridge.
func (h *Host) ensureNetwork(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(netnsDir, h.netNS())); err == nil {
		return nil
	}
	return script(ctx, `
ip netns add "$1"
ip -n "$2" link add "$3" type veth peer name eth0 netns "$1"
ip -n "$2" link set "$3" master br0 up
ip -n "$1" link set eth0 address "$5"
ip -n "$1" link set lo up
ip -n "$1" address add "$4/24" dev eth0
[ ! -e /proc/sys/net/ipv6 ] || ip -n "$1" address add "$6/64" dev eth0 nodad
ip -n "$1" link set eth0 up`, h.netNS(), h.lab.bridgeNS(), h.veth(), h.Spec.Address, h.mac(), h.Spec.Address6())
}

// ends are the two ends of the host's link, each as namespace and device.
func (h *Host) ends() [2][2]string {
	return [...][2]string{{h.netNS(), "eth0"}, {h.lab.bridgeNS(), h.veth()}}
}

// Limit bounds the host's link to a rate of tc's notation ("100mbit") in both directions; empty lifts the bound.
func (h *Host) Limit(ctx context.Context, rate string) error {
	for _, link := range h.ends() {
		args := []string{"ip", "netns", "exec", link[0], "tc", "qdisc", "replace", "dev", link[1], "root", "tbf", "rate", rate, "burst", "256kbit", "latency", "300ms"}
		if rate == "" {
			args = []string{"ip", "netns", "exec", link[0], "tc", "qdisc", "del", "dev", link[1], "root"}
		}
		if _, err := command(ctx, args...); err != nil && rate != "" {
			return err
		}
	}
	return nil
}

// Cut takes the host's link away without telling either side, as a pulled cable does, or gives it back.
func (h *Host) Cut(ctx context.Context, cut bool) error {
	state := "up"
	if cut {
		state = "down"
	}
	_, err := command(ctx, "ip", "-n", h.lab.bridgeNS(), "link", "set", h.veth(), state)
	return err
}

// script runs shell text of ours with arguments.
func script(ctx context.Context, text string, args ...string) error {
	_, err := command(ctx, append([]string{"sh", "-euc", strings.TrimSpace(text), "sh"}, args...)...)
	return err
}
