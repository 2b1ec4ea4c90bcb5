package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// KnownHosts looks keys up in the operator's own known_hosts.
type KnownHosts interface {
	// Vouches says whether known_hosts has this key, "type base64", for the host of the fleet. That no file is there is false and no error.
	Vouches(ctx context.Context, host, key string) (bool, error)
}

// Candidate is a key that secrets are to be encrypted to, or that a host proved to have that is to be relied on.
type Candidate struct {
	Host string
	// Key is "type base64".
	Key string
	// Address is where the host is said to be; it is shown to a person.
	Address string
	// Former are the fingerprints of other keys that the host's secrets are encrypted to now: with any, this key is a changed one.
	Former []string
}

// Question is what a person is asked.
type Question struct {
	Host, Address string
	// Kind is the key's type, Fingerprint "SHA256:…".
	Kind, Fingerprint string
	// Former are the fingerprints that were accepted before, or that the host's secrets are encrypted to.
	Former []string
	// Others are hosts that the key was accepted for: it should be theirs.
	Others []string
}

// Policy decides on keys. Its fields are set before it is used; it is safe for concurrent use if what it calls is.
type Policy struct {
	Store *Store
	// KnownHosts may be nil: nothing is looked up.
	KnownHosts KnownHosts
	// Confirm asks a person; nil where there is nobody.
	Confirm func(context.Context, Question) (bool, error)
	Now     func() time.Time
}

// ErrUnaccepted is what errors.Is finds where a key waits for a person.
var ErrUnaccepted = errors.New("nobody on this machine has accepted it")

// UnacceptedError says that nothing may be encrypted to a key yet.
type UnacceptedError struct {
	Question
	// Declined says that a person was asked and said no.
	Declined bool
}

func (e *UnacceptedError) Error() string {
	switch {
	case e.Declined:
		return fmt.Sprintf("use the %s key %s of %q: it was declined", e.Kind, e.Fingerprint, e.Host)
	case len(e.Former) > 0:
		return fmt.Sprintf("use the %s key %s of %q: it has changed (it was %s), and %v", e.Kind, e.Fingerprint, e.Host, strings.Join(e.Former, ", "), ErrUnaccepted)
	case len(e.Others) > 0:
		return fmt.Sprintf("use the %s key %s of %q: it was accepted as the key of %s, and for this host %v", e.Kind, e.Fingerprint, e.Host, strings.Join(e.Others, ", "), ErrUnaccepted)
	}
	return fmt.Sprintf("use the %s key %s of %q: %v", e.Kind, e.Fingerprint, e.Host, ErrUnaccepted)
}

// Is makes errors.Is(err, ErrUnaccepted) true.
func (e *UnacceptedError) Is(target error) bool { return target == ErrUnaccepted }

// Hint is how a person accepts the key.
func (e *UnacceptedError) Hint() string {
	return fmt.Sprintf("compare it with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on its console), then: fleet secrets host-key accept %s %s", e.Host, e.Fingerprint)
}

// Judge says whether a key may be used: nil, or a [*UnacceptedError], or what kept it from finding out. Where a person can be asked it
// asks, and it remembers what was accepted.
func (p *Policy) Judge(ctx context.Context, c Candidate) error {
	q, how, err := p.look(ctx, c)
	if err != nil || how == accepted {
		return err
	}
	if how == KnownHost {
		return p.Store.Accept(c.Host, c.Key, KnownHost, p.Now())
	}
	if p.Confirm == nil {
		return &UnacceptedError{Question: q}
	}
	yes, err := p.Confirm(ctx, q)
	switch {
	case err != nil:
		return fmt.Errorf("ask about the key of %q: %w", c.Host, err)
	case !yes:
		return &UnacceptedError{Question: q, Declined: true}
	}
	return p.Store.Accept(c.Host, c.Key, Confirmed, p.Now())
}

// Check is [Policy.Judge] that asks nobody and remembers nothing: what it would come to without a person.
func (p *Policy) Check(ctx context.Context, c Candidate) error {
	q, how, err := p.look(ctx, c)
	if err != nil || how != "" {
		return err
	}
	return &UnacceptedError{Question: q}
}

// accepted is not remembered: it is already.
const accepted How = "accepted"

// look says why a key may be used without asking, "" where it may not, and what would be asked.
func (p *Policy) look(ctx context.Context, c Candidate) (Question, How, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.Key))
	if err != nil {
		return Question{}, "", fmt.Errorf("use the key of %q: %w", c.Host, err)
	}
	q := Question{Host: c.Host, Address: c.Address, Kind: strings.TrimPrefix(key.Type(), "ssh-"), Fingerprint: ssh.FingerprintSHA256(key)}
	list, err := p.Store.Host(c.Host)
	if err != nil {
		return q, "", err
	}
	for _, a := range list {
		if a.Fingerprint == q.Fingerprint {
			return q, accepted, nil
		}
		q.Former = append(q.Former, a.Fingerprint)
	}
	q.addFormer(c.Former)
	if q.Others, err = p.Store.others(c.Host, q.Fingerprint); err != nil {
		return q, "", err
	}
	// known_hosts speaks of addresses, and those come from git: it can introduce a host, but not exchange its key, nor
	// pass one host off as another.
	if p.KnownHosts == nil || len(q.Former) > 0 || len(q.Others) > 0 {
		return q, "", nil
	}
	trusted, err := p.KnownHosts.Vouches(ctx, c.Host, keyOnly(c.Key))
	if err != nil {
		return q, "", fmt.Errorf("look up the key of %q in known_hosts: %w", c.Host, err)
	}
	if trusted {
		return q, KnownHost, nil
	}
	return q, "", nil
}

func (q *Question) addFormer(fingerprints []string) {
	for _, former := range fingerprints {
		if former != q.Fingerprint && !slices.Contains(q.Former, former) {
			q.Former = append(q.Former, former)
		}
	}
}

// Fingerprint is the SHA-256 fingerprint of a public key, "type base64", as OpenSSH writes it.
func Fingerprint(key string) (string, error) {
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil {
		return "", fmt.Errorf("parse host key: %w", err)
	}
	return ssh.FingerprintSHA256(parsed), nil
}

// Shared finds hosts that have a key in common: by host, the others, sorted. Machines that were copied from one image with its keys read
// each other's secrets, so none of them gets any. Keys that are none are left out.
func Shared(keys map[string][]string) map[string][]string {
	having := map[string][]string{}
	for host, list := range keys {
		seen := map[string]bool{}
		for _, key := range list {
			if fingerprint, err := Fingerprint(key); err == nil && !seen[fingerprint] {
				seen[fingerprint] = true
				having[fingerprint] = append(having[fingerprint], host)
			}
		}
	}
	shared := map[string][]string{}
	for _, hosts := range having {
		for _, host := range hosts {
			for _, other := range hosts {
				if other != host && !slices.Contains(shared[host], other) {
					shared[host] = append(shared[host], other)
				}
			}
		}
	}
	for host := range shared {
		slices.Sort(shared[host])
	}
	return shared
}

// keyOnly is a public key without its comment.
func keyOnly(key string) string {
	fields := strings.Fields(key)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

func typeOf(key string) string {
	kind, _, _ := strings.Cut(key, " ")
	return kind
}
