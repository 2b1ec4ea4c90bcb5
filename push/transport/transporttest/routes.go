package transporttest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"fleet/push/transport"
)

func routeTests() map[string]func(*testing.T, Env) {
	return map[string]func(*testing.T, Env){
		"a jump host of the plan is passed through":           jumpByPlan,
		"jump hosts of the user's configuration are too":      jumpByConfig,
		"a machine of ours is passed through by its pins":     vantage,
		"a machine of ours with another key is refused":       vantageWrongKey,
		"several jump hosts are passed in order":              jumpChain,
		"a jump host's key is checked by its own entry":       jumpUnknownKey,
		"a jump host that refuses the next hop is named":      jumpRefused,
		"a jump host that does not answer is named":           jumpDown,
		"an empty list of jump hosts forbids the configured":  jumpForbidden,
		"jump hosts in a circle are refused":                  jumpCircle,
		"a ProxyCommand is used":                              proxyCommand,
		"a ProxyCommand that fails is told with what it said": proxyFails,
		"Host, Match and Include mean what ssh means":         matchInclude,
		"the plan's port and user win":                        planWins,
		"an IPv6 address is reached":                          ipv6,
		"a scoped IPv6 address is reached":                    scopedIPv6,
		"a configuration that ssh refuses is told":            badConfig,
	}
}

// withJump adds a second server, which lets the same user in, as the host "jump".
func withJump(t *testing.T, env Env, r *rig) (Server, Key) {
	key := NewKey(t)
	jump := env.Server(t, ServerOptions{HostKeys: []Key{key}, AuthorizedKeys: []ssh.PublicKey{r.userKey.Public()}})
	return jump, key
}

func known(server Server, key Key) string {
	return fmt.Sprintf("[%s]:%d %s", server.Host(), server.Port(), key.Text())
}

func hostPort(server Server) string {
	return net.JoinHostPort(server.Host(), strconv.Itoa(server.Port()))
}

func jumpByPlan(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, key := withJump(t, env, r)
	r.setKnownHosts(known(jump, key))
	r.target.HostKeys = []string{r.hostKey.Text()}
	r.target.JumpHosts = []string{jump.User() + "@" + hostPort(jump)}
	conn := r.dial()
	if got := execute(t, conn, "echo through", ""); got.stdout != "through\n" || got.err != nil {
		t.Errorf("%+v", got)
	}
	jump.Drop()
	typed[*transport.LostError](t, within(t, conn.Wait))
}

// vantage leads through a machine that no known_hosts file knows, and past the jump hosts that the target has itself.
func vantage(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, key := withJump(t, env, r)
	r.target.HostKeys = []string{r.hostKey.Text()}
	r.target.JumpHosts = []string{"nowhere.invalid"}
	r.target.Via = &transport.Target{Host: "peer", Address: jump.Host(), Port: jump.Port(), User: jump.User(), HostKeys: []string{key.Text()}}
	conn := r.dial()
	if got := execute(t, conn, "echo through", ""); got.stdout != "through\n" || got.err != nil {
		t.Errorf("%+v", got)
	}
	if got, _ := conn.HostKey(); got != r.hostKey.Text() {
		t.Errorf("the key of the connection is %q", got)
	}
	jump.Drop()
	typed[*transport.LostError](t, within(t, conn.Wait))
}

func vantageWrongKey(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, _ := withJump(t, env, r)
	r.target.HostKeys = []string{r.hostKey.Text()}
	r.target.Via = &transport.Target{Host: "peer", Address: jump.Host(), Port: jump.Port(), User: jump.User(), HostKeys: []string{NewKey(t).Text()}}
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyChanged || err.Host != "peer" {
		t.Errorf("error is %+v", err)
	}
}

func jumpByConfig(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, key := withJump(t, env, r)
	r.setKnownHosts(known(jump, key), r.knownLine(r.hostKey))
	r.target.Address = "target"
	r.config = []string{
		"IdentityFile " + r.path("id"), "Host target", "HostName " + r.server.Host(), "ProxyJump hop",
		"Host hop", "HostName " + jump.Host(), "Port " + strconv.Itoa(jump.Port()), "User " + jump.User(), "Host *",
	}
	jumped := r.dial()
	if got := execute(t, jumped, "echo through", ""); got.stdout != "through\n" {
		t.Errorf("%+v", got)
	}
	jump.Close()
	err := refused[*transport.JumpError](r)
	if err.Host != r.target.Host || err.Jump != "hop" || typed[*transport.UnreachableError](t, err).Kind != transport.UnreachableRefused {
		t.Errorf("error is %v", err)
	}
}

func jumpChain(t *testing.T, env Env) {
	r := newRig(t, env)
	first, firstKey := withJump(t, env, r)
	second, secondKey := withJump(t, env, r)
	r.setKnownHosts(known(first, firstKey), known(second, secondKey), r.knownLine(r.hostKey))
	r.target.JumpHosts = []string{hostPort(first), "ssh://root@" + hostPort(second)}
	conn := r.dial()
	if got := execute(t, conn, "cat", "data"); got.stdout != "data" {
		t.Errorf("%+v", got)
	}
}

func jumpUnknownKey(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, _ := withJump(t, env, r)
	r.target.JumpHosts = []string{hostPort(jump)}
	r.target.AcceptNewHostKey = true // which is about the target alone
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyUnknown || err.Address != hostPort(jump) {
		t.Errorf("error is %+v", err)
	}
}

func jumpRefused(t *testing.T, env Env) {
	r := newRig(t, env)
	jump, key := withJump(t, env, r)
	r.setKnownHosts(known(jump, key))
	r.target.JumpHosts = []string{hostPort(jump)}
	r.target.Port = freePort(t, "127.0.0.1")
	unreachable(r, transport.UnreachableProxy)
}

func jumpDown(t *testing.T, env Env) {
	r := newRig(t, env)
	port := strconv.Itoa(freePort(t, "127.0.0.1"))
	r.target.JumpHosts = []string{"127.0.0.1:" + port}
	err := refused[*transport.JumpError](r)
	if err.Host != r.target.Host || err.Jump != "127.0.0.1" || !strings.Contains(err.Err.Error(), "127.0.0.1:"+port) {
		t.Errorf("error is %v", err)
	}
}

func jumpForbidden(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "Host 127.*", "ProxyJump nowhere.invalid", "Host *")
	r.target.JumpHosts = []string{}
	r.dial()
	r.target.JumpHosts = nil
	refused[*transport.UnreachableError](r)
}

func jumpCircle(t *testing.T, env Env) {
	r := newRig(t, env)
	r.target.Address = "a"
	r.config = append(r.config, "Host a", "ProxyJump b", "Host b", "ProxyJump a", "Host *")
	if err := refused[*transport.ConfigError](r); !strings.Contains(err.Error(), "circle") {
		t.Errorf("error is %v", err)
	}
}

// relay is a ProxyCommand that connects by itself.
const relay = `bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3; kill $!'`

func proxyCommand(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "ProxyCommand "+relay)
	conn := r.dial()
	if got := execute(t, conn, "cat", "through a command"); got.stdout != "through a command" || got.err != nil {
		t.Errorf("%+v", got)
	}
}

func proxyFails(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, `ProxyCommand sh -c 'echo "no way to %h" >&2; exit 3'`)
	err := refused[*transport.UnreachableError](r)
	if err.Kind != transport.UnreachableProxy {
		t.Errorf("kind is %q: %v", err.Kind, err)
	}
	if env.OwnBanner && !strings.Contains(err.Error(), "no way to 127.0.0.1") {
		t.Errorf("error is %v", err)
	}
}

func matchInclude(t *testing.T, env Env) {
	r := newRig(t, env)
	writeFile(t, r.path("more"), "Match host web*.example exec \"true\"\n  HostName "+r.server.Host()+"\n  Port "+strconv.Itoa(r.server.Port())+"\n")
	r.config = append([]string{"Include " + r.path("more"), "Match originalhost web1.example", "User " + r.server.User(), "Host *"}, r.config...)
	r.target.Address, r.target.Port, r.target.User = "web1.example", 0, ""
	conn := r.dial()
	if got := conn.User(); got != r.server.User() {
		t.Errorf("user is %q", got)
	}
	r.target.Address = "db1.example"
	refused[*transport.UnreachableError](r)
}

func planWins(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "Port 1", "User nobody")
	r.dial()
}

func ipv6(t *testing.T, env Env) {
	r := newRig(t, env, func(_ *rig, o *ServerOptions) { o.Address = "::1" })
	r.dial()
	r.target.Address = "[::1]"
	r.dial()
}

// scopedIPv6 needs an interface with a link-local address; the loopback has none.
func scopedIPv6(t *testing.T, env Env) {
	address := linkLocal()
	if address == "" {
		t.Skip("no interface here has a link-local IPv6 address")
	}
	r := newRig(t, env, func(_ *rig, o *ServerOptions) { o.Address = address })
	r.dial()
}

func linkLocal() string {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() && i.Flags&net.FlagUp != 0 {
				return n.IP.String() + "%" + i.Name
			}
		}
	}
	return ""
}

func badConfig(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "NoSuchOption yes")
	if err := refused[*transport.ConfigError](r); !strings.Contains(strings.ToLower(err.Error()), "nosuchoption") {
		t.Errorf("error is %v", err)
	}
}
