package secretsgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// Get returns the value of a part: from the state where it is public, else through an owner, the next one where one cannot be reached.
func (e *Engine) Get(ctx context.Context, id secret.ID, part string) (secret.Plain, error) {
	v, err := e.stored()
	if err != nil {
		return secret.Plain{}, err
	}
	entry := v.tree.Secrets[id]
	if entry == nil {
		all := map[secret.ID]bool{}
		for other := range v.tree.Secrets {
			all[other] = true
		}
		return secret.Plain{}, &UnknownError{ID: id, Similar: similar(id, all)}
	}
	return v.operation().openPart(ctx, entry, part)
}

// stored is a view of the state alone: no host is evaluated.
func (e *Engine) stored() (*view, error) {
	tree, err := e.State.Load()
	if err != nil {
		return nil, err
	}
	v := &view{
		Engine: e, limits: e.Limits.withDefaults(), tree: tree, decls: newDeclarations(e.Plan), now: e.Now(),
		keys: newKeyring(e, tree), force: map[secret.ID]bool{},
	}
	v.keysOfHosts = v.keys.decideHosts()
	return v, nil
}

// openPart returns the value of a part.
func (o *operation) openPart(ctx context.Context, entry *state.Entry, part string) (secret.Plain, error) {
	meta, ok := entry.Meta.Parts[part]
	switch {
	case wholeFault(entry) != nil:
		return secret.Plain{}, wholeFault(entry)
	case !ok:
		return secret.Plain{}, fmt.Errorf("read %s: it has no part %q; it has %s", entry.ID, part, strings.Join(sortedKeys(entry.Meta.Parts), ", "))
	case !meta.Encrypted:
		value, ok := entry.Public[part]
		if !ok {
			return secret.Plain{}, fmt.Errorf("read part %q of %s: %w", part, entry.ID, errors.Join(errors.New("its file is not there"), entry.Err))
		}
		return secret.NewPlain(bytes.Clone(value)), nil
	}
	var tried error
	for _, host := range sortedKeys(entry.Owners) {
		ref, ok := entry.Ref(o.Plan.Fleet, host, part)
		if !ok || !o.reads(host, entry) {
			continue
		}
		value, err := o.openOn(ctx, host, ref)
		if err == nil || ctx.Err() != nil {
			return value, err
		}
		tried = errors.Join(tried, fmt.Errorf("%s: %w", host, err))
	}
	if tried == nil {
		return secret.Plain{}, &personError{
			text: fmt.Sprintf("read part %q of %s: no host of the fleet has a copy that it can open", part, entry.ID),
			hint: fmt.Sprintf("fleet secrets status %s", entry.ID),
		}
	}
	return secret.Plain{}, fmt.Errorf("read part %q of %s through its owners: %w", part, entry.ID, tried)
}

func (o *operation) openOn(ctx context.Context, host string, ref seal.Ref) (secret.Plain, error) {
	if err := o.reach(ctx, host); err != nil {
		return secret.Plain{}, err
	}
	opened, err := with(ctx, o.remote, func() (seal.Opened, error) { return o.Hosts.Open(ctx, host, ref) })
	switch {
	case err != nil:
		return secret.Plain{}, err
	case seal.Commit(ref.Context(), opened.Salt, opened.Value) != ref.Commit:
		opened.Value.Wipe()
		return secret.Plain{}, &LieError{seal.ErrCommit}
	}
	return opened.Value, nil
}

// copyOf is a part as a host has it.
type copyOf struct {
	part string
	ref  seal.Ref
}

// Verify has the owners decrypt what they own and compare it with what meta.json commits to. It changes nothing.
func (e *Engine) Verify(ctx context.Context, selection Selection) (*Verification, error) {
	v, err := e.stored()
	if err != nil {
		return nil, err
	}
	o := v.operation()
	result := &Verification{Fleet: e.Plan.Fleet, Wrong: []WrongPart{}, Unreachable: []HostProblem{}}
	copies, err := o.copies(selection, result)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var hosts sync.WaitGroup
	for _, host := range sortedKeys(copies) {
		hosts.Go(func() {
			wrong, err := o.verifyOn(ctx, host, copies[host])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				result.Unreachable = append(result.Unreachable, HostProblem{Host: host, Kind: KindUnreachable, Message: err.Error(), Hint: hintOf(err)})
				return
			}
			result.Verified += len(copies[host]) - len(wrong)
			result.Wrong = append(result.Wrong, wrong...)
		})
	}
	hosts.Wait()
	slices.SortFunc(result.Wrong, func(a, b WrongPart) int {
		return strings.Compare(a.Host+"\x00"+a.ID.String()+"\x00"+a.Part, b.Host+"\x00"+b.ID.String()+"\x00"+b.Part)
	})
	slices.SortFunc(result.Unreachable, byHost)
	return result, ctx.Err()
}

// copies are the sealed parts of a selection by host. What no host has to look at to be wrong is noted at once.
func (o *operation) copies(s Selection, result *Verification) (map[string][]copyOf, error) {
	copies := map[string][]copyOf{}
	ids, err := o.decls.selected(Selection{Secrets: s.Secrets}, o.tree)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		entry := o.tree.Secrets[id]
		if entry == nil {
			continue
		}
		for _, fault := range entry.Faults() {
			if s.Hosts == nil || fault.Owner == "" || slices.Contains(s.Hosts, fault.Owner) {
				result.Wrong = append(result.Wrong, WrongPart{Host: fault.Owner, ID: id, Reason: fault.Error(), Hint: fault.Hint()})
			}
		}
		for _, host := range sortedKeys(entry.Owners) {
			if s.Hosts != nil && !slices.Contains(s.Hosts, host) {
				continue
			}
			for _, part := range entry.Meta.Encrypted() {
				ref, ok := entry.Ref(o.Plan.Fleet, host, part)
				if !ok {
					result.Wrong = append(result.Wrong, WrongPart{Host: host, ID: id, Part: part, Reason: "its copy is missing, or of another generation than meta.json", Hint: rekeyHint(id)})
					continue
				}
				copies[host] = append(copies[host], copyOf{part, ref})
			}
		}
	}
	return copies, nil
}

func rekeyHint(id secret.ID) string { return "fleet secrets rekey " + id.String() }

func (o *operation) verifyOn(ctx context.Context, host string, copies []copyOf) ([]WrongPart, error) {
	if err := o.reach(ctx, host); err != nil {
		return nil, err
	}
	var wrong []WrongPart
	for _, batch := range splitCopies(copies) {
		refs := make([]seal.Ref, len(batch))
		for i, one := range batch {
			refs[i] = one.ref
		}
		reasons, err := with(ctx, o.remote, func() ([]string, error) { return o.Hosts.Verify(ctx, host, refs) })
		if err == nil && len(reasons) != len(refs) {
			err = &LieError{fmt.Errorf("%d answers came back for %d parts", len(reasons), len(refs))}
		}
		if err != nil {
			return nil, fmt.Errorf("verify on %q: %w", host, err)
		}
		for i, reason := range reasons {
			if reason != "" {
				wrong = append(wrong, WrongPart{Host: host, ID: batch[i].ref.ID, Part: batch[i].part, Reason: clean(reason), Hint: rekeyHint(batch[i].ref.ID)})
			}
		}
	}
	return wrong, nil
}

// splitCopies cuts parts into requests of a size that hosts take.
func splitCopies(copies []copyOf) [][]copyOf {
	var out [][]copyOf
	size := maxBatch + 1
	for _, one := range copies {
		if size += len(one.ref.Armor); size > maxBatch {
			out, size = append(out, nil), len(one.ref.Armor)
		}
		out[len(out)-1] = append(out[len(out)-1], one)
	}
	return out
}
