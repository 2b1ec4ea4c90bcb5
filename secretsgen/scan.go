package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fleet/secretsgen/state"
	"fleet/secretsgen/trust"
)

// KeysInUse are the fingerprints of the keys that the state's copies are encrypted to, by host, sorted. Where the key of a host is another one, it has
// changed: see [trust.Candidate].
func (e *Engine) KeysInUse() (map[string][]string, error) {
	tree, err := e.State.Load()
	if err != nil {
		return nil, err
	}
	return keysInUse(tree), nil
}

func keysInUse(tree *state.Tree) map[string][]string {
	used := map[string][]string{}
	for _, entry := range tree.Secrets {
		for owner, copied := range entry.Owners {
			if copied.Key != "" && !slices.Contains(used[owner], copied.Key) {
				used[owner] = append(used[owner], copied.Key)
			}
		}
	}
	for owner := range used {
		slices.Sort(used[owner])
	}
	return used
}

// ScanHostKeys compares the keys that hosts' SSH servers show with those that are pinned and accepted. It pins and accepts nothing. A host that
// cannot be reached is said to be so and is no error.
func (e *Engine) ScanHostKeys(ctx context.Context, hosts []string) ([]HostKey, error) {
	v, err := e.stored()
	if err != nil {
		return nil, err
	}
	o := v.operation()
	keys := make([]HostKey, len(hosts))
	done := make(chan struct{})
	for i, host := range hosts {
		go func() {
			defer func() { done <- struct{}{} }()
			keys[i], _ = with(ctx, o.remote, func() (HostKey, error) { return o.scan(ctx, host), nil })
		}()
	}
	for range hosts {
		<-done
	}
	return keys, ctx.Err()
}

func (o *operation) scan(ctx context.Context, host string) HostKey {
	key := HostKey{Host: host, Pinned: []string{}}
	h := o.keys.hosts[host]
	if h == nil {
		key.Problem = "the fleet has no such host"
		return key
	}
	for _, pin := range o.Pins(host) {
		if fingerprint, err := trust.Fingerprint(pin); err == nil {
			key.Pinned = append(key.Pinned, fingerprint)
		}
	}
	key.Recipient = h.to.Fingerprint
	err := o.present(ctx, host, &key)
	key.Matches = key.Presented != "" && slices.Contains(key.Pinned, key.Presented)
	problem, found := keyProblem(host, h, o.keys.check(ctx, host))
	key.Accepted = key.Recipient != "" && !found
	switch {
	case err != nil:
		key.Problem, key.Hint = err.Error(), hintOf(err)
	case found:
		key.Problem, key.Hint = problem.Message, problem.Hint
	}
	if !key.Matches && key.Presented != "" {
		key.Hint = fmt.Sprintf("compare it with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its console), then: fleet secrets host-key accept %s %s", host, key.Presented)
		if len(key.Pinned) > 0 {
			key.Problem = fmt.Sprintf("it shows the key %s, and another one is pinned: it was installed anew, or something else answers", key.Presented)
		}
	}
	return key
}

// present asks the host for its key.
func (o *operation) present(ctx context.Context, host string, key *HostKey) error {
	if o.Hosts == nil {
		return fmt.Errorf("reach %q: %w: this command connects to no host", host, ErrUnreachable)
	}
	text, err := o.Hosts.Key(ctx, host)
	var presented interface{ PresentedKey() string }
	if err != nil && errors.As(err, &presented) {
		text = presented.PresentedKey()
	}
	if text == "" {
		return err
	}
	fingerprint, parseErr := trust.Fingerprint(text)
	if parseErr != nil {
		return parseErr
	}
	key.Presented, key.PresentedKey = fingerprint, text
	return err
}
