package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

type native struct {
	options  NativeOptions
	resolver *resolver
	keyring  *keyring
	ciphers  []string
}

// NewNative returns a dialer that speaks SSH itself. How a host is reached is what the user's ssh would do, asked from `ssh -G`
// where OpenSSH is installed; else ssh's defaults hold. It logs in with keys: those of an agent, key files, and user
// certificates. FIDO key files, PKCS#11, GSSAPI, passwords and KnownHostsCommand need [NewOpenSSH].
func NewNative(options NativeOptions) Dialer {
	options = options.withDefaults()
	return &native{
		options:  options,
		resolver: options.resolver(),
		keyring:  newKeyring(options.Prompt),
		ciphers:  preferredCiphers(),
	}
}

// preferredCiphers puts AES-GCM first where the processor has instructions for it: three times as fast as ChaCha20 then.
func preferredCiphers() []string {
	list := ssh.SupportedAlgorithms().Ciphers
	if cpu.X86.HasAES || cpu.ARM64.HasAES || cpu.S390X.HasAES {
		return list
	}
	fast := slices.Index(list, ssh.CipherChaCha20Poly1305)
	return append([]string{list[fast]}, slices.Delete(slices.Clone(list), fast, fast+1)...)
}

// slowHuman is how long a person may take to type before servers lose their patience (sshd's LoginGraceTime is 120 s).
const slowHuman = 20 * time.Second

// Dial implements [Dialer].
func (d *native) Dial(ctx context.Context, target Target) (Conn, error) {
	hops, pins, err := d.resolver.routeAndPins(ctx, target)
	if err != nil {
		return nil, err
	}
	conn, waited, err := d.connect(ctx, target, hops, pins)
	var closed *LostError
	if waited > slowHuman && ctx.Err() == nil && errors.As(err, &closed) {
		// The passphrase is known now.
		conn, _, err = d.connect(ctx, target, hops, pins)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// connect logs in to one hop after the other.
func (d *native) connect(ctx context.Context, target Target, hops []settings, pins []ssh.PublicKey) (_ *sshConn, waited time.Duration, err error) {
	var last *sshConn
	for i := range hops {
		h := newHop(target, hops, i, d.options.Timeouts, pins)
		next, took, err := d.login(ctx, h, last)
		waited += took
		if err != nil {
			if last != nil {
				_ = last.Close()
			}
			return nil, waited, h.blame(target.Host, err)
		}
		last = next
	}
	return last, waited, nil
}

// hop is one server on the way, with what decides about it.
type hop struct {
	*settings
	// host is what errors call it: the target by its name in the fleet, a jump host as the user called it.
	host string
	// final says that it is the target itself.
	final     bool
	pins      []ssh.PublicKey
	acceptNew bool
	timeouts  Timeouts
}

// newHop is hop i on the way to a target. Pins are the target's, and no jump host's new key is ever accepted.
func newHop(target Target, hops []settings, i int, timeouts Timeouts, pins []ssh.PublicKey) *hop {
	h := &hop{settings: &hops[i], host: hops[i].given.host, pins: hops[i].pins, timeouts: timeouts.forHost(&hops[i])}
	if hops[i].name != "" {
		h.host = hops[i].name
	}
	if h.final = i == len(hops)-1; h.final {
		h.host, h.pins, h.acceptNew = target.Host, pins, target.AcceptNewHostKey
	}
	return h
}

// blame says in an error whose way a jump host was on.
func (h *hop) blame(target string, err error) error {
	if h.final {
		return err
	}
	return &JumpError{Host: target, Jump: h.host, Err: err}
}

// login reaches one server and authenticates both sides. The new connection owns the one that it goes through.
func (d *native) login(ctx context.Context, h *hop, through *sshConn) (_ *sshConn, waited time.Duration, err error) {
	policy, err := d.hostKeyPolicy(h)
	if err != nil {
		return nil, 0, err
	}
	// Before the server is reached: an agent may be slow, and servers are impatient.
	var dog *watchdog
	auth := newAuthenticator(ctx, d.resolver.operator, d.keyring, h.settings, func(f func()) { dog.human(f) })
	defer auth.close()
	link, err := d.reach(ctx, h, through)
	if err != nil {
		return nil, 0, err
	}
	dog = newWatchdog(h.timeouts.Connect, func() { _ = link.Close() })
	defer dog.stop()
	conn, err := d.handshake(ctx, h, policy, auth, link, dog)
	waited = dog.waitedForHuman()
	if err != nil {
		_ = link.Close()
		return nil, waited, err
	}
	if through != nil {
		conn.onClose(func() { _ = through.Close() })
	}
	if policy.provenance == ProvenanceAccepted && d.options.RecordHostKey != nil {
		if err := d.options.RecordHostKey(h.host, h.address(), keyText(policy.key), ProvenanceAccepted); err != nil {
			_ = conn.Close()
			return nil, waited, &ConfigError{Host: h.host, Address: h.address(), Err: fmt.Errorf("record the new host key: %w", err)}
		}
	}
	return conn, waited, nil
}

func (d *native) hostKeyPolicy(h *hop) (*hostKeyPolicy, error) {
	bad := func(err error, remedy string) error {
		return &ConfigError{Host: h.host, Address: h.address(), Err: fmt.Errorf("read known hosts: %w", err), Remedy: remedy}
	}
	files, err := d.resolver.operator.knownHostsFiles(h.settings)
	if err != nil {
		return nil, bad(err, "mend UserKnownHostsFile in the ssh configuration")
	}
	known, err := loadKnownHosts(files)
	if err != nil {
		return nil, bad(err, "mend or remove the known_hosts file")
	}
	revoked, err := d.resolver.operator.revokedKeys(h.settings)
	if err != nil {
		return nil, bad(err, "set deploy.transport = \"openssh\", which reads all kinds of RevokedHostKeys")
	}
	return &hostKeyPolicy{
		host: h.host, address: h.address(), name: h.keyName(), pins: h.pins, known: known, revoked: revoked,
		acceptNew: h.acceptNew, command: h.knownHostsCommand != "",
	}, nil
}

// handshake turns a byte stream into a connection.
func (d *native) handshake(ctx context.Context, h *hop, policy *hostKeyPolicy, auth *authenticator, link net.Conn, dog *watchdog) (*sshConn, error) {
	active := &activeConn{Conn: link}
	defer context.AfterFunc(ctx, func() { _ = link.Close() })()
	c, channels, requests, err := ssh.NewClientConn(active, h.keyName(), d.clientConfig(h, policy, auth))
	if err == nil && ctx.Err() != nil {
		go ssh.DiscardRequests(requests)
		_ = c.Close()
	}
	if ctx.Err() != nil {
		return nil, dialContextError(ctx, h)
	}
	if err != nil {
		return nil, h.handshakeError(err, policy, auth, active, dog)
	}
	conn := newSSHConn(h.host, h.address(), h.timeouts, active, ssh.NewClient(c, channels, requests))
	conn.user, conn.hostKey, conn.provenance = h.user, keyText(policy.key), policy.provenance
	go conn.keepalive()
	return conn, nil
}

func (d *native) clientConfig(h *hop, policy *hostKeyPolicy, auth *authenticator) *ssh.ClientConfig {
	config := &ssh.ClientConfig{
		User:              h.user,
		HostKeyCallback:   policy.check,
		HostKeyAlgorithms: policy.algorithms(h.algorithms.hostKeys),
		AuthCallback:      auth.method,
		BannerCallback: func(text string) error {
			if d.options.Banner != nil {
				d.options.Banner(h.host, cleanLines(text, maxBanner))
			}
			return nil
		},
	}
	supported := ssh.SupportedAlgorithms()
	config.Ciphers = onlySupported(h.algorithms.ciphers, d.ciphers)
	config.MACs = onlySupported(h.algorithms.macs, supported.MACs)
	config.KeyExchanges = onlySupported(h.algorithms.kex, supported.KeyExchanges)
	return config
}

// maxBanner bounds what is passed on of a login banner, in bytes.
const maxBanner = 4096

// onlySupported keeps the user's choice and order as far as we have the algorithms, and ours where there is no choice.
func onlySupported(chosen, ours []string) []string {
	var out []string
	for _, name := range chosen {
		if slices.Contains(ours, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return ours
	}
	return out
}

// handshakeError tells which step of the handshake went wrong.
func (h *hop) handshakeError(err error, policy *hostKeyPolicy, auth *authenticator, link *activeConn, dog *watchdog) error {
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case policy.err != nil:
		return policy.err
	case dog.fired.Load():
		stage := "the SSH handshake"
		if auth.began {
			stage = "the login"
		}
		return &UnreachableError{Host: h.host, Address: h.address(), Kind: UnreachableTimeout,
			Err: fmt.Errorf("%s did not end within %v", stage, h.timeouts.Connect)}
	case auth.began && !link.cut():
		return &AuthError{Host: h.host, Address: h.address(), User: h.user, Methods: auth.methods, Offered: auth.offered, Skipped: auth.skipped, Err: err}
	case auth.began:
		return &LostError{Host: h.host, Address: h.address(), Err: fmt.Errorf("during the login: %w", err)}
	case errors.As(err, &negotiation), !link.cut():
		return &UnreachableError{Host: h.host, Address: h.address(), Kind: UnreachableProtocol, Err: err}
	}
	kind := UnreachableClosed
	if h.proxyCommand != "" {
		kind = UnreachableProxy
	}
	return &UnreachableError{Host: h.host, Address: h.address(), Kind: kind, Err: fmt.Errorf("connection closed during the SSH handshake: %w", err)}
}

// dialContextError is what a dial ends with when its context has.
func dialContextError(ctx context.Context, h *hop) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &UnreachableError{Host: h.host, Address: h.address(), Kind: UnreachableTimeout, Err: ctx.Err()}
	}
	return fmt.Errorf("dial host %q: %w", h.host, ctx.Err())
}
