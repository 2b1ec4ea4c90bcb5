package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"fleet/secretsgen/decide"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/state"
	"fleet/secretsgen/trust"
)

// ErrUnreachable is what errors.Is finds where a host did not answer, as told from a host that answered with an error: another one is tried then.
var ErrUnreachable = errors.New("it cannot be reached")

// SharedKeyError says that hosts have a key in common: whatever is encrypted to one could be read on the others.
type SharedKeyError struct {
	Host   string
	Others []string
}

func (e *SharedKeyError) Error() string {
	return fmt.Sprintf("use the key of %q: %s has the same one", e.Host, strings.Join(e.Others, ", "))
}

// Hint says how a host gets a key of its own.
func (e *SharedKeyError) Hint() string {
	return fmt.Sprintf("give %s a key of its own: on its console, rm /etc/ssh/ssh_host_*_key*, make new ones with ssh-keygen -A, restart sshd; then: fleet secrets host-key scan", e.Host)
}

// keyring is the fleet's host keys during one operation: which one a host's secrets are encrypted to, and whether it may be used. It is safe for
// concurrent use.
type keyring struct {
	engine *Engine
	hosts  map[string]*hostKey
	// asking is held while a person may be asked: one question at a time.
	asking sync.Mutex
}

// hostKey is one host's key.
type hostKey struct {
	// to is the recipient; unusable says why there is none although keys are pinned. Both are empty for a keyless host.
	to       seal.Recipient
	unusable error
	shared   *SharedKeyError
	// others are the fingerprints of the other pinned keys, former those that the state's copies are encrypted to: with
	// copies for another key than its present one, a host has changed it.
	others, former []string
	address        string

	// judging is held for judged and verdict, reaching for reached and reach: a host that is slow to answer keeps nobody from encrypting to it.
	judging, reaching sync.Mutex
	// judged and reached say that verdict and reach are known.
	judged, reached bool
	verdict, reach  error
}

func newKeyring(e *Engine, tree *state.Tree) *keyring {
	pins := make(map[string][]string, len(e.Plan.Hosts))
	for host := range e.Plan.Hosts {
		pins[host] = e.Pins(host)
	}
	shared := trust.Shared(pins)
	used := keysInUse(tree)
	k := &keyring{engine: e, hosts: make(map[string]*hostKey, len(pins))}
	for host, keys := range pins {
		h := &hostKey{address: e.Plan.Hosts[host].Deploy.Address, former: used[host]}
		if len(keys) > 0 {
			h.to, h.unusable = seal.Choose(keys)
		}
		for _, key := range keys {
			if fingerprint, err := trust.Fingerprint(key); err == nil && fingerprint != h.to.Fingerprint {
				h.others = append(h.others, fingerprint)
			}
		}
		if others := shared[host]; len(others) > 0 {
			h.shared = &SharedKeyError{Host: host, Others: others}
		}
		k.hosts[host] = h
	}
	return k
}

// decideHosts is the keyring as decisions see it.
func (k *keyring) decideHosts() map[string]decide.Host {
	hosts := make(map[string]decide.Host, len(k.hosts))
	for name, h := range k.hosts {
		hosts[name] = decide.Host{Key: h.to.Fingerprint, Others: h.others}
	}
	return hosts
}

// problem is what is known against a host's keys without asking anybody; nil for keyless hosts too.
func (h *hostKey) problem() error {
	switch {
	case h.unusable != nil:
		return h.unusable
	case h.shared != nil:
		return h.shared
	}
	return nil
}

func (h *hostKey) candidate(host, key string) trust.Candidate {
	return trust.Candidate{Host: host, Key: key, Address: h.address, Former: h.former}
}

// recipient is the key that a host's secrets are encrypted to, once it is known to be the host's: a person may be asked.
func (k *keyring) recipient(ctx context.Context, host string) (seal.Recipient, error) {
	h := k.hosts[host]
	switch {
	case h == nil:
		return seal.Recipient{}, fmt.Errorf("encrypt to %q: the fleet has no such host", host)
	case h.problem() != nil:
		return seal.Recipient{}, h.problem()
	case h.to.Key == "":
		return seal.Recipient{}, fmt.Errorf("encrypt to %q: no key is pinned for it", host)
	}
	h.judging.Lock()
	defer h.judging.Unlock()
	if !h.judged {
		verdict := k.judge(ctx, h.candidate(host, h.to.Key))
		if ctx.Err() != nil {
			return seal.Recipient{}, context.Cause(ctx)
		}
		h.judged, h.verdict = true, verdict
	}
	return h.to, h.verdict
}

// recipients are the keys of several hosts, by host; and those that may not be used, with the reasons.
func (k *keyring) recipients(ctx context.Context, hosts []string) (map[string]seal.Recipient, map[string]error) {
	to, refused := map[string]seal.Recipient{}, map[string]error{}
	for _, host := range hosts {
		recipient, err := k.recipient(ctx, host)
		if err != nil {
			refused[host] = err
			continue
		}
		to[host] = recipient
	}
	return to, refused
}

// check is what [keyring.recipient] would come to without a person, and without being remembered.
func (k *keyring) check(ctx context.Context, host string) error {
	h := k.hosts[host]
	switch {
	case h == nil || h.to.Key == "" && h.unusable == nil:
		return nil // keyless, or no host: decisions speak of it
	case h.problem() != nil:
		return h.problem()
	}
	h.judging.Lock()
	defer h.judging.Unlock()
	if !h.judged {
		h.judged, h.verdict = true, k.engine.Trust.Check(ctx, h.candidate(host, h.to.Key))
	}
	return h.verdict
}

func (k *keyring) judge(ctx context.Context, c trust.Candidate) error {
	k.asking.Lock()
	defer k.asking.Unlock()
	return k.engine.Trust.Judge(ctx, c)
}

// reachable opens the way to a host and makes sure that what answers is the host whose key this machine has accepted: addresses come
// from git. The error wraps [ErrUnreachable] where nothing answered or the wrong key did.
func (k *keyring) reachable(ctx context.Context, host string) error {
	h := k.hosts[host]
	switch {
	case h == nil:
		return fmt.Errorf("reach %q: %w: the fleet has no such host any more", host, ErrUnreachable)
	case k.engine.Hosts == nil:
		return fmt.Errorf("reach %q: %w: this command connects to no host", host, ErrUnreachable)
	case h.problem() != nil:
		return fmt.Errorf("reach %q: %w: %w", host, ErrUnreachable, h.problem())
	}
	h.reaching.Lock()
	defer h.reaching.Unlock()
	if h.reached {
		return h.reach
	}
	err := k.handshake(ctx, host, h)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	h.reached, h.reach = true, err
	return err
}

func (k *keyring) handshake(ctx context.Context, host string, h *hostKey) error {
	presented, err := k.engine.Hosts.Key(ctx, host)
	if err != nil {
		return fmt.Errorf("reach %q: %w: %w", host, ErrUnreachable, err)
	}
	fingerprint, err := trust.Fingerprint(presented)
	if err != nil {
		return fmt.Errorf("reach %q: %w: %w", host, ErrUnreachable, err)
	}
	if fingerprint != h.to.Fingerprint && !slices.Contains(h.others, fingerprint) {
		return fmt.Errorf("reach %q: %w: it shows the key %s, which is not pinned", host, ErrUnreachable, fingerprint)
	}
	if err := k.judge(ctx, h.candidate(host, presented)); err != nil {
		return fmt.Errorf("reach %q: %w: %w", host, ErrUnreachable, err)
	}
	return nil
}

// problems lists the hosts of the fleet among these whose keys are in the way, by name. A key that nothing had to be encrypted to is not in
// the way because nobody has accepted it.
func (k *keyring) problems(hosts []string) []HostProblem {
	problems := []HostProblem{}
	for _, host := range hosts {
		h := k.hosts[host]
		if h == nil {
			continue
		}
		err := h.problem()
		if err == nil {
			h.judging.Lock()
			err = h.verdict
			h.judging.Unlock()
		}
		if p, ok := keyProblem(host, h, err); ok {
			problems = append(problems, p)
		}
	}
	return problems
}

func keyProblem(host string, h *hostKey, err error) (HostProblem, bool) {
	p := HostProblem{Host: host}
	switch {
	case h.unusable != nil:
		p.Kind = KindKeyType
		p.Hint = fmt.Sprintf("give %s an ssh-ed25519 host key (ssh-keygen -A), then: fleet secrets host-key scan %s", host, host)
	case h.shared != nil:
		p.Kind = KindSharedKey
	case err != nil:
		p.Kind = KindUnaccepted
	case h.to.Key == "":
		p.Kind, p.Message = KindKeyless, "no key is pinned for it; its secrets wait"
		p.Hint = "fleet secrets host-key scan " + host
		return p, true
	default:
		return p, false
	}
	p.Message = err.Error()
	if hint := hintOf(err); hint != "" {
		p.Hint = hint
	}
	return p, true
}

// hintOf finds the command that mends an error.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// sortedKeys are the keys of a map, in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
