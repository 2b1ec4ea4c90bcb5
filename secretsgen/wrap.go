package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet/closure/run"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// wrapping is a value that gets copies for more owners or other keys, and loses those of former owners. The value stays.
type wrapping struct {
	entry *state.Entry
	// to are the keys of the owners that get a copy; refused says that some are left out, whose keys nobody accepted.
	to      map[string]seal.Recipient
	refused error
	remove  []string
	// sources are the owners that may make the copies, in the order in which they are tried; tried are the errors of those that did not.
	sources []string
	tried   error
	made    map[string]secret.Owner
	via     string
}

// maxBatch bounds the sealed files in one request to a host, in bytes: a frame of the agent's protocol has at most 32 MiB.
const maxBatch = 16 << 20

// wrapAll carries out decisions that keep the value. What one host has to do is asked of it together.
func (o *operation) wrapAll(ctx context.Context, decisions map[secret.ID]decide.Decision) {
	var open []*wrapping
	for _, id := range sortIDs(slices.Collect(maps.Keys(decisions))) {
		w, err := o.wrapping(ctx, id, decisions[id])
		switch {
		case err != nil:
			o.fail(ctx, id, err)
		case len(w.to) > 0 && len(w.entry.Meta.Encrypted()) > 0:
			open = append(open, w)
		default:
			o.finish(ctx, w) // nothing that only a host can do
		}
	}
	for len(open) > 0 && ctx.Err() == nil {
		open = o.wrapRound(ctx, open)
	}
	for _, w := range open {
		o.fail(ctx, w.entry.ID, ctx.Err())
	}
}

func (o *operation) wrapping(ctx context.Context, id secret.ID, d decide.Decision) (*wrapping, error) {
	w := &wrapping{entry: o.entry(id), remove: d.Remove, sources: d.Sources, made: map[string]secret.Owner{}}
	to, refused := o.keys.recipients(ctx, d.Wrap)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w.to = to
	for _, host := range sortedKeys(refused) {
		w.refused = refusal(refused[host])
		break
	}
	for _, fault := range w.entry.Faults() {
		_, mended := to[fault.Owner]
		if !fault.Stray() && !mended && !slices.Contains(d.Remove, fault.Owner) {
			return nil, fault // the file would be gone, and with it what a person could still find in it
		}
	}
	return w, nil
}

// wholeFault is what keeps a secret of the state from being used at all; nil where nothing does.
func wholeFault(entry *state.Entry) error {
	for _, fault := range entry.Faults() {
		if !fault.Stray() && fault.Owner == "" || fault.Conflict() {
			return fault
		}
	}
	return nil
}

// wrapRound asks the next source of each, and returns what needs another round.
func (o *operation) wrapRound(ctx context.Context, open []*wrapping) []*wrapping {
	batches := map[string][]*wrapping{}
	for _, w := range open {
		if len(w.sources) == 0 {
			o.fail(ctx, w.entry.ID, w.noSource())
			continue
		}
		key := w.sources[0] + " " + strings.Join(sortedKeys(w.to), " ")
		batches[key] = append(batches[key], w)
	}
	var again []*wrapping
	var mu sync.Mutex
	var hosts sync.WaitGroup
	for _, key := range sortedKeys(batches) {
		for _, batch := range split(batches[key]) {
			hosts.Go(func() {
				rest := o.wrapBatch(ctx, batch)
				mu.Lock()
				defer mu.Unlock()
				again = append(again, rest...)
			})
		}
	}
	hosts.Wait()
	slices.SortFunc(again, func(a, b *wrapping) int { return strings.Compare(a.entry.ID.String(), b.entry.ID.String()) })
	return again
}

// split cuts a batch into requests of a size that hosts take.
func split(batch []*wrapping) [][]*wrapping {
	var out [][]*wrapping
	size := maxBatch + 1
	for _, w := range batch {
		own := 0
		for _, part := range w.entry.Owners[w.sources[0]].Parts {
			own += len(part.Armor)
		}
		if size += own; size > maxBatch {
			out, size = append(out, nil), own
		}
		out[len(out)-1] = append(out[len(out)-1], w)
	}
	return out
}

// wrapBatch has one host seal the values of a batch, which all go to the same owners, and returns those that need another source.
func (o *operation) wrapBatch(ctx context.Context, batch []*wrapping) []*wrapping {
	host := batch[0].sources[0]
	result, err := o.rewrap(ctx, host, batch)
	if ctx.Err() != nil {
		return batch
	}
	var again []*wrapping
	at := 0
	for _, w := range batch {
		count := len(w.entry.Meta.Encrypted())
		failed := err
		if err == nil {
			failed = w.take(result.Parts[at : at+count])
		}
		at += count
		if failed == nil {
			w.via = host
			o.finish(ctx, w)
			continue
		}
		var lie *LieError
		if errors.As(failed, &lie) {
			o.hostProblem(HostProblem{Host: host, Kind: KindLie, Message: fmt.Sprintf("what it sent for %s: %v", w.entry.ID, failed), Hint: lie.Hint()})
		}
		w.sources, w.tried = w.sources[1:], errors.Join(w.tried, fmt.Errorf("%s: %w", host, failed))
		again = append(again, w)
	}
	return again
}

func (o *operation) rewrap(ctx context.Context, host string, batch []*wrapping) (seal.RewrapResult, error) {
	request := seal.RewrapRequest{To: map[string]string{}}
	for owner, to := range batch[0].to {
		request.To[owner] = to.Key
	}
	for _, w := range batch {
		for _, part := range w.entry.Meta.Encrypted() {
			ref, ok := w.entry.Ref(o.Plan.Fleet, host, part)
			if !ok {
				return seal.RewrapResult{}, fmt.Errorf("it has no copy of part %q of %s", part, w.entry.ID)
			}
			request.Parts = append(request.Parts, ref)
		}
	}
	if err := o.reach(ctx, host); err != nil {
		return seal.RewrapResult{}, err
	}
	result, err := with(ctx, o.remote, func() (seal.RewrapResult, error) { return o.Hosts.Rewrap(ctx, host, request) })
	if err == nil && len(result.Parts) != len(request.Parts) {
		err = &LieError{fmt.Errorf("%d parts came back for %d", len(result.Parts), len(request.Parts))}
	}
	return result, err
}

// take checks the copies that a host made, part by part, and keeps them.
func (w *wrapping) take(parts []seal.RewrappedPart) error {
	made := map[string]map[string]secret.SealedPart{}
	encrypted := w.entry.Meta.Encrypted()
	for i, part := range encrypted {
		if parts[i].Error != "" {
			return fmt.Errorf("part %q: %s", part, clean(parts[i].Error))
		}
		for host, sealed := range parts[i].Sealed {
			if _, ok := w.to[host]; !ok {
				return &LieError{fmt.Errorf("part %q is encrypted to %q, which was not asked for", part, shorten(host))}
			}
			if made[host] == nil {
				made[host] = map[string]secret.SealedPart{}
			}
			made[host][part] = sealed
		}
	}
	for host, to := range w.to {
		if err := checkSealed(made[host], encrypted, to); err != nil {
			return &LieError{fmt.Errorf("for owner %q: %w", host, err)}
		}
	}
	for host, to := range w.to {
		w.made[host] = secret.Owner{Format: secret.Format, Gen: w.entry.Meta.Gen, Key: to.Fingerprint, Parts: made[host]}
	}
	return nil
}

// clean is what a host said, as one line for a message.
func clean(text string) string {
	const most = 500
	text = strings.Join(strings.Fields(run.StripEscapes(text)), " ")
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// noSource says that nobody who can open the value could be asked: the state stays as it was.
func (w *wrapping) noSource() error {
	e := &personError{hint: fmt.Sprintf("start one of its owners and run: fleet secrets sync; or make a new value: fleet secrets regenerate %s", w.entry.ID), err: w.tried}
	if w.tried == nil {
		e.text = "no owner that could open it is left"
		return e
	}
	e.text = "none of its owners could encrypt it to " + joinNames(sortedKeys(w.to)) + ": " + strings.ReplaceAll(w.tried.Error(), "\n", "; ")
	return e
}

// finish writes the new copies and removes the former owners'.
func (o *operation) finish(ctx context.Context, w *wrapping) {
	next := w.result(o.now)
	if next == nil {
		o.fail(ctx, w.entry.ID, w.refused)
		return
	}
	wrapped := sortedKeys(w.to)
	removed := slices.DeleteFunc(sortedKeys(w.entry.Owners), func(host string) bool { _, still := next.Owners[host]; return still })
	if len(wrapped) > 0 || len(removed) > 0 {
		err := o.save(ctx, next, func(one *Outcome) { one.Via, one.Wrapped, one.Removed = w.via, wrapped, removed })
		if err != nil {
			o.fail(ctx, w.entry.ID, err)
			return
		}
	}
	if w.refused != nil {
		o.fail(ctx, w.entry.ID, w.refused)
	}
}

// result is the secret as it will be; nil where nothing can be done. Former owners lose their copies only if another copy is left.
func (w *wrapping) result(now time.Time) *state.Entry {
	next := &state.Entry{ID: w.entry.ID, Meta: w.entry.Meta, Public: w.entry.Public, Owners: maps.Clone(w.entry.Owners)}
	if next.Owners == nil {
		next.Owners = map[string]secret.Owner{}
	}
	for host, to := range w.to {
		owner, ok := w.made[host]
		if !ok { // public parts alone
			owner = secret.Owner{Format: secret.Format, Gen: w.entry.Meta.Gen, Key: to.Fingerprint, Parts: map[string]secret.SealedPart{}}
		}
		next.Owners[host] = owner
	}
	left := maps.Clone(next.Owners)
	maps.DeleteFunc(left, func(host string, owner secret.Owner) bool {
		return owner.Gen != next.Meta.Gen || slices.Contains(w.remove, host)
	})
	if len(left) == 0 {
		return nil
	}
	for _, note := range w.entry.Revoked {
		if _, again := w.to[note.Owner]; !again {
			next.Revoked = append(next.Revoked, note)
		}
	}
	for _, host := range w.remove {
		delete(next.Owners, host)
		note := secret.Revoked{At: now.UTC().Truncate(time.Second), Format: secret.Format, Gen: next.Meta.Gen, Owner: host}
		if !slices.ContainsFunc(next.Revoked, func(r secret.Revoked) bool { return r.Owner == host && r.Gen == note.Gen }) {
			next.Revoked = append(next.Revoked, note)
		}
	}
	return next
}
