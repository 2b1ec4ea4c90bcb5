package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push/hostkeys"
	"fleet/push/transport"
	"fleet/secretsgen/trust"
)

// scanState says how a host's key stands after a scan.
type scanState string

// The states.
const (
	// scanKnown: it is the pinned one, and this machine has accepted it.
	scanKnown scanState = "known"
	// scanPinned: it was pinned and accepted now; scanAccepted: it was pinned, and is accepted now.
	scanPinned   scanState = "pinned"
	scanAccepted scanState = "accepted"
	// scanReplaced: it was pinned in place of another one.
	scanReplaced scanState = "replaced"
	// scanUnconfirmed: a person has to compare it; scanDeclined: one said no.
	scanUnconfirmed scanState = "needs you"
	scanDeclined    scanState = "declined"
	// scanChanged: another one is pinned. scanShared: another host has it. scanRefused: it is revoked, or cannot be taken for another reason.
	scanChanged scanState = "changed"
	scanShared  scanState = "shared"
	scanRefused scanState = "refused"
	// scanUnreachable: the host did not show one.
	scanUnreachable scanState = "unreachable"
)

// scanRow is the result for one host.
type scanRow struct {
	Host        string    `json:"host"`
	State       scanState `json:"state"`
	Type        string    `json:"type,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Key         string    `json:"key,omitempty"`
	Error       string    `json:"error,omitempty"`
	Hints       []string  `json:"hints,omitempty"`
}

func (r *scanRow) fail(state scanState, err error) {
	r.State, r.Error, r.Hints = state, err.Error(), cli.Hints(err)
}

func (r *scanRow) present(key string) {
	kind, _, _ := strings.Cut(key, " ")
	// The transport has parsed it.
	r.Fingerprint, _ = hostkeys.Fingerprint(key)
	r.Key, r.Type = key, strings.TrimPrefix(kind, "ssh-")
}

// checkFingerprint checks what a person typed or pasted.
func checkFingerprint(text string) error {
	sum, ok := strings.CutPrefix(text, "SHA256:")
	if raw, err := base64.RawStdEncoding.DecodeString(sum); !ok || err != nil || len(raw) != 32 {
		return &cli.UsageError{Err: fmt.Errorf("%q is no fingerprint", text), Remedy: `it has the form "SHA256:…", as ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints it on the host`}
	}
	return nil
}

// scanKeys asks all hosts at the same time, then decides on one after the other.
func (v *vault) scanKeys(ctx context.Context, hosts []string) ([]scanRow, error) {
	rows := make([]scanRow, len(hosts))
	var group errgroup.Group
	group.SetLimit(32)
	for i, host := range hosts {
		group.Go(func() error {
			rows[i] = v.shownKey(ctx, host)
			return nil
		})
	}
	_ = group.Wait() // the errors are in the rows
	used, err := v.engine.KeysInUse()
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if rows[i].Key == "" {
			continue
		}
		if err := v.judgeShown(ctx, &rows[i], used[rows[i].Host]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// shownKey is the key that a host shows. Its state is empty where that has yet to be decided on.
func (v *vault) shownKey(ctx context.Context, host string) scanRow {
	row := scanRow{Host: host}
	key, err := v.hosts.Key(ctx, host)
	var refused *transport.HostKeyError
	switch {
	case err == nil:
		row.present(key)
	case errors.As(err, &refused):
		if refused.Host != host || refused.Key == "" {
			row.fail(scanUnreachable, err) // that of a jump host, or one that ssh does not tell
			break
		}
		row.present(refused.Key)
		switch {
		case refused.Kind == transport.HostKeyChanged:
			row.fail(scanChanged, err)
		case refused.Kind == transport.HostKeyRevoked:
			row.fail(scanRefused, err)
		}
	default:
		row.fail(scanUnreachable, err)
	}
	return row
}

// judgeShown decides on a key: whether another host has it, and, where nothing contradicts it, whether it is accepted. used are the keys that the
// host's secrets are encrypted to now: another one is a changed one.
func (v *vault) judgeShown(ctx context.Context, row *scanRow, used []string) error {
	other, err := v.otherOwner(row.Host, row.Key)
	if err != nil {
		return err
	}
	if other != "" {
		row.fail(scanShared, &hostkeys.SharedKeyError{Host: row.Host, Other: other, Fingerprint: row.Fingerprint})
		return nil
	}
	if row.State != "" {
		return nil
	}
	pinned := slices.ContainsFunc(v.pinsOf(row.Host), func(pin string) bool { return samePublicKey(pin, row.Key) })
	if !pinned && len(v.pinsOf(row.Host)) > 0 {
		row.fail(scanChanged, cli.WithHint(errors.New("other keys are pinned for it"), ""))
		return nil
	}
	candidate := trust.Candidate{Host: row.Host, Key: row.Key, Address: v.op.plan.Hosts[row.Host].Deploy.Address, Former: used}
	known, err := v.accepted(row.Host, row.Fingerprint)
	if err != nil {
		return err
	}
	if pinned && known != "" {
		row.State = scanKnown
		return nil
	}
	err = v.trust.Judge(ctx, candidate)
	var unaccepted *trust.UnacceptedError
	switch {
	case errors.As(err, &unaccepted) && unaccepted.Declined:
		row.fail(scanDeclined, err)
		return nil
	case errors.As(err, &unaccepted):
		row.State = scanUnconfirmed // what to do is listed at the end
		if len(unaccepted.Former)+len(unaccepted.Others) > 0 {
			row.fail(scanUnconfirmed, err)
			row.Hints = nil
		}
		return nil
	case err != nil:
		return err
	}
	row.State = scanAccepted
	if pinned {
		return nil
	}
	row.State = scanPinned
	return v.pin(ctx, row.Host, row.Key)
}

// accepted says how this machine has accepted a host's key, empty where it has not.
func (v *vault) accepted(host, fingerprint string) (trust.How, error) {
	list, err := v.trust.Store.Host(host)
	for _, a := range list {
		if a.Fingerprint == fingerprint {
			return a.How, err
		}
	}
	return "", err
}

// pin writes a key into the state, in place of the one of its type, with the provenance that this machine accepted it with.
func (v *vault) pin(ctx context.Context, host, key string) error {
	fingerprint, err := hostkeys.Fingerprint(key)
	if err != nil {
		return err
	}
	how, err := v.accepted(host, fingerprint)
	if err != nil {
		return err
	}
	verified := hostkeys.Accepted
	if how == trust.KnownHost {
		verified = hostkeys.KnownHosts
	}
	err = v.op.state.Replace(ctx, host, key, verified, time.Now())
	var untracked *hostkeys.UntrackedError
	if errors.As(err, &untracked) {
		v.connector.warn(host, err)
		return nil
	}
	return err
}

// otherOwner names another host of the fleet that has the key, in the plan or in the state.
func (v *vault) otherOwner(host, key string) (string, error) {
	for other, described := range v.op.plan.Hosts {
		if other != host && slices.ContainsFunc(described.Deploy.HostKeys, func(pin string) bool { return samePublicKey(pin, key) }) {
			return other, nil
		}
	}
	return v.op.state.OwnerOf(key, host)
}

// samePublicKey compares keys without their comments.
func samePublicKey(a, b string) bool {
	fa, fb := strings.Fields(a), strings.Fields(b)
	return len(fa) >= 2 && len(fb) >= 2 && fa[0] == fb[0] && fa[1] == fb[1]
}

// acceptKey accepts the key of a host that has this fingerprint: a pinned one, or the one that the host shows.
func (v *vault) acceptKey(ctx context.Context, host, fingerprint string) (scanRow, error) {
	row := scanRow{Host: host, State: scanAccepted}
	key := ""
	for _, pin := range v.pinsOf(host) {
		if f, err := hostkeys.Fingerprint(pin); err == nil && f == fingerprint {
			key = strings.Join(strings.Fields(pin)[:2], " ")
		}
	}
	pinned := key != ""
	if !pinned {
		shown := v.shownKey(ctx, host)
		switch {
		case shown.Key == "":
			return row, cli.WithHint(fmt.Errorf("accept the key of %q: %s", host, shown.Error), strings.Join(shown.Hints, "; "))
		case shown.State == scanRefused:
			return row, cli.WithHint(fmt.Errorf("accept the key of %q: %s", host, shown.Error), strings.Join(shown.Hints, "; "))
		case shown.Fingerprint != fingerprint:
			return row, cli.WithHint(fmt.Errorf("accept the key of %q: the host shows %s, not %s", host, shown.Fingerprint, fingerprint), "read the fingerprint again on the host's own console; if it really is the one that you gave, somebody is in between")
		case len(v.op.plan.Hosts[host].Deploy.HostKeys) > 0:
			return row, cli.WithHint(fmt.Errorf("accept the key of %q: the flake pins another one", host), fmt.Sprintf("set hosts.%s.deploy.hostKeys = [ %q ], then run this again", host, shown.Key))
		}
		key = shown.Key
		row.State = scanPinned
		if len(v.pins[host]) > 0 {
			row.State = scanReplaced
		}
	}
	row.present(key)
	other, err := v.otherOwner(host, key)
	if err != nil {
		return row, err
	}
	if other != "" {
		return row, &hostkeys.SharedKeyError{Host: host, Other: other, Fingerprint: fingerprint}
	}
	// Before the pin: with the pin alone a host would be open to who has the repository.
	if err := v.trust.Store.Accept(host, key, trust.Confirmed, time.Now()); err != nil || pinned {
		return row, err
	}
	return row, v.pin(ctx, host, key)
}
