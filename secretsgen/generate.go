package secretsgen

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
	"fleet/secretsgen/step"
)

// making is one value that is being made.
type making struct {
	*declaration
	fleet string
	old   *state.Entry
	gen   secret.Gen
	seq   uint64
	// to are the owners' keys, used the generations of the secrets that it is made from.
	to   map[string]seal.Recipient
	used map[secret.ID]secret.Gen
}

// generate makes a secret's value, and saves it.
func (o *operation) generate(ctx context.Context, id secret.ID, d decide.Decision) error {
	m, err := o.making(ctx, id, d.Wrap)
	if err != nil {
		return err
	}
	var entry *state.Entry
	via := ""
	switch generator := m.spec.Generator; {
	case generator == nil:
		return fmt.Errorf("generate %s: it has no generator", id)
	case generator.Kind == "ask":
		entry, err = o.ask(ctx, m)
	default:
		entry, via, err = o.runGenerator(ctx, m)
	}
	if err != nil {
		return err
	}
	return o.save(ctx, entry, func(one *Outcome) {
		one.Via, one.Wrapped, one.Action = via, sortedKeys(entry.Owners), o.actionFor(m.old)
		if m.old != nil {
			one.Removed = slices.DeleteFunc(sortedKeys(m.old.Owners), func(host string) bool { _, still := entry.Owners[host]; return still })
		}
	})
}

func (o *operation) actionFor(old *state.Entry) Action {
	if old == nil {
		return ActionGenerate
	}
	return ActionRegenerate
}

// making prepares a new value for these owners. All their keys have to be accepted: a value that some owners do not get would be missed by them.
func (o *operation) making(ctx context.Context, id secret.ID, owners []string) (*making, error) {
	m := &making{declaration: o.decls.secrets[id], fleet: o.Plan.Fleet, old: o.entry(id), seq: 1, used: map[secret.ID]secret.Gen{}}
	to, refused := o.keys.recipients(ctx, owners)
	for _, host := range sortedKeys(refused) {
		return nil, refusal(refused[host])
	}
	if len(to) == 0 {
		return nil, &personError{text: "none of its owners has a key yet", hint: "fleet secrets host-key scan"}
	}
	m.to = to
	if m.old != nil {
		m.seq = m.old.Meta.Seq + 1
	}
	var err error
	m.gen, err = secret.NewGen(rand.Reader)
	return m, err
}

// refusal is an owner's key that may not be used, as something for a person.
func refusal(err error) error { return &personError{text: err.Error(), hint: hintOf(err), err: err} }

// runGenerator runs the program where it belongs.
func (o *operation) runGenerator(ctx context.Context, m *making) (*state.Entry, string, error) {
	deps, err := o.dependencies(m)
	if err != nil {
		return nil, "", err
	}
	places, err := o.places(m, deps)
	if err != nil {
		return nil, "", err
	}
	if places == nil {
		entry, err := o.runHere(ctx, m, deps)
		return entry, "", err
	}
	var unreachable error
	for _, host := range places {
		entry, err := o.runOn(ctx, m, deps, host)
		if err == nil || !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			return entry, host, err
		}
		unreachable = errors.Join(unreachable, err)
	}
	return nil, "", unreachable
}

// dependencies are the present values that the generator reads.
func (o *operation) dependencies(m *making) (map[string]*state.Entry, error) {
	deps := make(map[string]*state.Entry, len(m.deps))
	for _, alias := range sortedKeys(m.deps) {
		entry := o.entry(m.deps[alias])
		switch {
		case entry == nil:
			return nil, waitsFor([]string{m.deps[alias].String()})
		case wholeFault(entry) != nil:
			return nil, fmt.Errorf("generate %s from %s: %w", m.id, entry.ID, wholeFault(entry))
		}
		deps[alias], m.used[entry.ID] = entry, entry.Meta.Gen
	}
	return deps, nil
}

// places are the hosts that may run the generator, in the order in which they are tried; nil is this machine.
func (o *operation) places(m *making, deps map[string]*state.Entry) ([]string, error) {
	var candidates []string
	sealed := false
	for _, alias := range sortedKeys(deps) {
		entry := deps[alias]
		if len(entry.Meta.Encrypted()) == 0 {
			continue
		}
		readers := slices.DeleteFunc(sortedKeys(entry.Owners), func(host string) bool { return !o.reads(host, entry) })
		if !sealed {
			candidates, sealed = readers, true
			continue
		}
		candidates = slices.DeleteFunc(candidates, func(host string) bool { return !slices.Contains(readers, host) })
	}
	on := m.spec.Generator.On
	switch {
	case on == nil && !sealed:
		return nil, nil
	case on == nil && len(candidates) == 0:
		return nil, &personError{
			text: fmt.Sprintf("no host can read all that it is made from (%s)", joinNames(m.depNames())),
			hint: "give one host all of these secrets (expectedOwners), and run: fleet secrets sync",
		}
	case on == nil:
		return candidates, nil
	case sealed && !slices.Contains(candidates, *on):
		return nil, &personError{
			text: fmt.Sprintf("it is generated on %s, which cannot read all that it is made from (%s)", *on, joinNames(m.depNames())),
			hint: fmt.Sprintf("make %s an owner of these secrets (expectedOwners), and run: fleet secrets sync", *on),
		}
	}
	return []string{*on}, nil
}

func (m *making) depNames() []string {
	var names []string
	for _, dep := range m.deps {
		names = append(names, dep.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// reads says whether a host of the fleet can open its copy of a value.
func (o *operation) reads(host string, entry *state.Entry) bool {
	h := o.keys.hosts[host]
	copied, ok := entry.Owners[host]
	if h == nil || !ok || copied.Gen != entry.Meta.Gen {
		return false
	}
	for _, part := range entry.Meta.Encrypted() {
		if _, has := copied.Parts[part]; !has {
			return false
		}
	}
	return copied.Key == h.to.Fingerprint || slices.Contains(h.others, copied.Key)
}

func (o *operation) runHere(ctx context.Context, m *making, deps map[string]*state.Entry) (*state.Entry, error) {
	if o.Local == nil {
		return nil, errors.New("this command runs no generator on this machine")
	}
	program, err := o.programs.get(ctx, "", m.id)
	if err != nil {
		return nil, err
	}
	result, err := with(ctx, o.local, func() (step.Result, error) { return o.Local(ctx, o.request(m, deps, program, "")) })
	if err != nil {
		return nil, err
	}
	entry, err := m.take(result, o.now)
	if lie := (*LieError)(nil); errors.As(err, &lie) { // nobody but ourselves
		return nil, fmt.Errorf("take what the generator of %s made: %w", m.id, lie.Err)
	}
	return entry, err
}

func (o *operation) runOn(ctx context.Context, m *making, deps map[string]*state.Entry, host string) (*state.Entry, error) {
	if err := o.reach(ctx, host); err != nil {
		return nil, err
	}
	program, err := o.programs.get(ctx, o.Plan.Hosts[host].System, m.id)
	if err != nil {
		return nil, err
	}
	result, err := with(ctx, o.remote, func() (step.Result, error) {
		return o.Hosts.Run(ctx, host, o.request(m, deps, program, host))
	})
	if err != nil {
		return nil, err
	}
	entry, err := m.take(result, o.now)
	if err != nil {
		return nil, fmt.Errorf("take what %q generated: %w", host, err)
	}
	entry.Meta.MadeOn = host
	return entry, nil
}

func (o *operation) request(m *making, deps map[string]*state.Entry, program, host string) step.Request {
	r := step.Request{
		Program: program, Fleet: o.Plan.Fleet, ID: m.id, Gen: m.gen, Seq: m.seq, Sandbox: m.spec.Generator.Sandbox,
		Owners: make(map[string]string, len(m.to)), Dependencies: make(map[string]step.Dependency, len(deps)),
	}
	for owner, to := range m.to {
		r.Owners[owner] = to.Key
	}
	if m.spec.Parts != nil {
		r.Parts = make(map[string]step.Part, len(m.spec.Parts))
		for name, part := range m.spec.Parts {
			r.Parts[name] = step.Part{Encrypted: part.Encrypted, Type: part.Type, Pattern: part.Pattern}
		}
	}
	for alias, entry := range deps {
		d := step.Dependency{ID: entry.ID, Gen: entry.Meta.Gen, Seq: entry.Meta.Seq, Public: maps.Clone(entry.Public)}
		for _, part := range entry.Meta.Encrypted() {
			if ref, ok := entry.Ref(o.Plan.Fleet, host, part); ok {
				if d.Sealed == nil {
					d.Sealed = map[string]step.SealedInput{}
				}
				d.Sealed[part] = step.SealedInput{Armor: ref.Armor, Commit: ref.Commit}
			}
		}
		r.Dependencies[alias] = d
	}
	return r
}

// meta is the metadata of the new value but for its parts and its expiry.
func (m *making) meta(origin secret.Origin, now time.Time) (secret.Meta, error) {
	meta := secret.Meta{
		CreatedAt: now.UTC().Truncate(time.Second), Format: secret.Format, Gen: m.gen, Seq: m.seq, Origin: origin,
		Parts: map[string]secret.MetaPart{},
	}
	return meta, m.describe(&meta, m.used)
}

// describe writes into the metadata what a value is asked for with, and which generations of its dependencies it is of.
func (d *declaration) describe(meta *secret.Meta, gens map[secret.ID]secret.Gen) error {
	meta.GenerationData, meta.Seed, meta.Deps = nil, "", nil
	g := d.spec.Generator
	if g == nil {
		return nil
	}
	data, err := secret.CanonicalJSON(g.Data)
	if err != nil {
		return fmt.Errorf("read the generation data of %s: %w", d.id, err)
	}
	meta.GenerationData = data
	if g.Seed != nil {
		meta.Seed = *g.Seed
	}
	for _, dep := range d.deps {
		if gens[dep] != "" {
			if meta.Deps == nil {
				meta.Deps = map[string]secret.Gen{}
			}
			meta.Deps[dep.String()] = gens[dep]
		}
	}
	return nil
}

// needsPrograms says which generators run here and which on which host, so that their programs are built together.
func (o *operation) needsPrograms(ids []secret.ID) map[string][]secret.ID {
	systems := map[string][]secret.ID{}
	for _, id := range ids {
		one := o.decls.secrets[id]
		if one == nil || one.spec.Generator == nil || one.spec.Generator.Kind != "script" {
			continue
		}
		if system, ok := o.systemOf(one); ok {
			systems[system] = append(systems[system], id)
		}
	}
	return systems
}

// systemOf is the system that a generator most likely runs on: "" for this machine.
func (o *operation) systemOf(one *declaration) (string, bool) {
	if on := one.spec.Generator.On; on != nil {
		host, ok := o.Plan.Hosts[*on]
		return host.System, ok
	}
	for _, dep := range one.deps {
		owners, sealed := o.sealedOwners(dep)
		if !sealed {
			continue
		}
		for _, owner := range owners {
			if host, ok := o.Plan.Hosts[owner]; ok {
				return host.System, true
			}
		}
		return "", false
	}
	return "", true
}

// sealedOwners are a dependency's owners, and whether it has, or will have, encrypted parts.
func (o *operation) sealedOwners(id secret.ID) ([]string, bool) {
	if entry := o.tree.Secrets[id]; entry != nil {
		return sortedKeys(entry.Owners), len(entry.Meta.Encrypted()) > 0
	}
	one := o.decls.secrets[id]
	if one == nil {
		return nil, false
	}
	if one.spec.Parts == nil {
		return one.owners, true
	}
	return one.owners, slices.ContainsFunc(slices.Collect(maps.Values(one.spec.Parts)), func(p plan.SecretPart) bool { return p.Encrypted })
}
