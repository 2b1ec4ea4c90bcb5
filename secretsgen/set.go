package secretsgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet/evaluator/plan"
	"fleet/secretsgen/public"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// ask makes a value from what a person gives.
func (o *operation) ask(ctx context.Context, m *making) (*state.Entry, error) {
	part, err := m.askedPart()
	if err != nil {
		return nil, err
	}
	value, err := o.askFor(ctx, m, part)
	if err != nil {
		return nil, err
	}
	defer value.Wipe()
	return m.seal(map[string]secret.Plain{part: value}, secret.Set, o)
}

// askedPart is the part that a person is asked for.
func (m *making) askedPart() (string, error) {
	switch len(m.spec.Parts) {
	case 0:
		return secret.PartSecret, nil
	case 1:
		return sortedKeys(m.spec.Parts)[0], nil
	}
	return "", fmt.Errorf("ask for %s: it declares %d parts, and a person is asked for one", m.id, len(m.spec.Parts))
}

func (o *operation) askFor(ctx context.Context, m *making, part string) (secret.Plain, error) {
	ask := m.spec.Generator.Ask
	if ask.From == "env" {
		value, ok := o.variables[ask.Variable]
		if !ok {
			return secret.Plain{}, &personError{
				text: fmt.Sprintf("its value is taken from the environment variable %s, which is not set", ask.Variable),
				hint: fmt.Sprintf("%s=… fleet secrets sync %s, or: fleet secrets set %s", ask.Variable, m.id, m.id),
			}
		}
		return secret.NewPlain(bytes.Clone(value.Bytes())), nil
	}
	if o.Person == nil {
		return secret.Plain{}, &personError{
			text: "its value is asked from a person, and there is no terminal", hint: fmt.Sprintf("run it on a terminal, or: fleet secrets set %s", m.id),
		}
	}
	o.keys.asking.Lock()
	defer o.keys.asking.Unlock()
	value, err := o.Person.Ask(ctx, Question{ID: m.id, Part: part, Ask: *ask})
	if err != nil {
		return secret.Plain{}, fmt.Errorf("ask for %s: %w", m.id, err)
	}
	return value, nil
}

// declaredPublic says whether a part is declared, and public.
func declaredPublic(spec *plan.Secret, part string) bool {
	declared, ok := spec.Parts[part]
	return ok && !declared.Encrypted
}

// isPublic says whether a part of this name is public: by declaration, else by the present value, else by convention.
func (m *making) isPublic(part string) bool {
	if declared, ok := m.spec.Parts[part]; ok {
		return !declared.Encrypted
	}
	if m.old != nil {
		if meta, ok := m.old.Meta.Parts[part]; ok {
			return !meta.Encrypted
		}
	}
	return part == secret.PartPublic
}

// exposes says whether a part whose present value is encrypted would be public from now on.
func (m *making) exposes(part string) bool {
	return m.old != nil && m.old.Meta.Parts[part].Encrypted && m.isPublic(part)
}

// exposedError says that the value of a part must not be opened: it would end in git as it is. Whoever changes one word of a declaration must not
// have that done.
type exposedError struct {
	id   secret.ID
	part string
}

func (e *exposedError) Error() string {
	return fmt.Sprintf("set %s: its part %q is encrypted, and is declared as public now: the value would be in git for everybody", e.id, e.part)
}

// Hint is the remedy, whichever of the two is wrong.
func (e *exposedError) Hint() string {
	return fmt.Sprintf("declare the part as encrypted; or, where it really is for everybody, give it: fleet secrets set %s --part %s", e.id, e.part)
}

// seal makes values into an entry of the state, here. The values are not wiped.
func (m *making) seal(values map[string]secret.Plain, origin secret.Origin, o *operation) (*state.Entry, error) {
	meta, err := m.meta(origin, o.now)
	if err != nil {
		return nil, err
	}
	entry := &state.Entry{ID: m.id, Meta: meta, Owners: map[string]secret.Owner{}, Public: map[string][]byte{}}
	for host, to := range m.to {
		entry.Owners[host] = secret.Owner{Format: secret.Format, Gen: m.gen, Key: to.Fingerprint, Parts: map[string]secret.SealedPart{}}
	}
	for _, part := range sortedKeys(values) {
		if err := m.sealPart(entry, part, values[part]); err != nil {
			return nil, err
		}
	}
	return entry, nil
}

func (m *making) sealPart(entry *state.Entry, part string, value secret.Plain) error {
	if m.isPublic(part) {
		declared := m.spec.Parts[part]
		if err := public.Validate(declared.Type, declared.Pattern, value.Bytes()); err != nil {
			return fmt.Errorf("set public part %q of %s: %w", part, m.id, err)
		}
		entry.Public[part] = bytes.Clone(value.Bytes())
		entry.Meta.Parts[part] = metaPart(false, seal.Commit(m.context(part), nil, value), value.Bytes())
		return nil
	}
	if value.Len() == 0 {
		return fmt.Errorf("set part %q of %s: the value is empty", part, m.id)
	}
	salt, err := seal.NewSalt()
	if err != nil {
		return err
	}
	for host, to := range m.to {
		if entry.Owners[host].Parts[part], err = seal.Seal(m.context(part), salt, value, to); err != nil {
			return err
		}
	}
	entry.Meta.Parts[part] = metaPart(true, seal.Commit(m.context(part), salt, value), nil)
	return nil
}

// Set takes a value that a person gave, by part, and seals it here. Parts that are not given keep their value, for which an owner has to be
// reachable; a secret without a value needs all of them. The values are wiped.
func (e *Engine) Set(ctx context.Context, id secret.ID, values map[string]secret.Plain) (*Report, error) {
	return e.set(ctx, id, values, nil)
}

// set is [Engine.Set] if the present value is of generation expect; nil takes any.
func (e *Engine) set(ctx context.Context, id secret.ID, values map[string]secret.Plain, expect *secret.Gen) (*Report, error) {
	defer func() {
		for _, value := range values {
			value.Wipe()
		}
	}()
	selection := Selection{Secrets: []secret.ID{id}}
	o, end, err := e.begin(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := o.decls.selected(selection, o.tree); err != nil {
		return nil, err
	}
	one := o.decls.secrets[id]
	if one == nil {
		outcome := Outcome{ID: id}
		o.undeclared(&outcome)
		return nil, fmt.Errorf("set %s: %s%s", id, outcome.NeedsHuman, outcome.Error)
	}
	if expect != nil && o.gen(id) != *expect {
		return nil, &ChangedError{ID: id}
	}
	if err := o.setLocked(ctx, one, values); err != nil {
		o.note(id, func(one *Outcome) { one.Action = ActionSet })
		o.fail(ctx, id, err)
	}
	o.noteKeys([]secret.ID{id})
	return o.report(), ctx.Err()
}

// ChangedError says that another value was set while one was being edited.
type ChangedError struct{ ID secret.ID }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("set %s: another value was set meanwhile", e.ID)
}

// Hint is what to do.
func (e *ChangedError) Hint() string { return "fleet secrets edit " + e.ID.String() }

func (o *operation) setLocked(ctx context.Context, one *declaration, values map[string]secret.Plain) error {
	var owners []string
	for _, owner := range one.owners {
		if h := o.keys.hosts[owner]; h != nil && (h.to.Key != "" || h.unusable != nil) {
			owners = append(owners, owner)
		}
	}
	m, err := o.making(ctx, one.id, owners)
	if err != nil {
		return err
	}
	for _, dep := range one.deps {
		m.used[dep] = o.gen(dep)
	}
	all, err := o.completed(ctx, m, values)
	defer func() {
		for _, value := range all {
			value.Wipe()
		}
	}()
	if err != nil {
		return err
	}
	entry, err := m.seal(all, secret.Set, o)
	if err != nil {
		return err
	}
	return o.save(ctx, entry, func(done *Outcome) {
		done.Action, done.Why, done.Wrapped = ActionSet, "a person gave the value", sortedKeys(entry.Owners)
		for _, part := range sortedKeys(all) {
			if m.exposes(part) {
				done.Notices = append(done.Notices, fmt.Sprintf("its part %q, which was encrypted, is public now: it is in git for everybody to read", part))
			}
		}
		if one.spec.Generator != nil && one.spec.Generator.Kind == "script" {
			done.Notices = append(done.Notices, "it has a generator, which replaces this value when the secret is regenerated")
		}
	})
}

// completed adds the parts that were not given, as they are in the present value.
func (o *operation) completed(ctx context.Context, m *making, values map[string]secret.Plain) (map[string]secret.Plain, error) {
	if len(values) == 0 {
		return nil, errors.New("no value was given")
	}
	wanted := sortedKeys(m.spec.Parts)
	if m.spec.Parts == nil {
		wanted = sortedKeys(values)
		if m.old != nil {
			wanted = append(wanted, sortedKeys(m.old.Meta.Parts)...)
		}
	}
	all := map[string]secret.Plain{}
	for _, part := range sortedKeys(values) {
		if err := secret.ValidatePart(part); err != nil {
			return nil, err
		}
		if !slices.Contains(wanted, part) {
			return nil, fmt.Errorf("set %s: it has no part %q; it has %s", m.id, part, strings.Join(wanted, ", "))
		}
		all[part] = values[part]
	}
	var lacking []string
	for _, part := range wanted {
		if _, ok := all[part]; ok {
			continue
		}
		if m.old == nil || !slices.Contains(sortedKeys(m.old.Meta.Parts), part) {
			lacking = append(lacking, part)
			continue
		}
		if m.exposes(part) {
			return all, &exposedError{m.id, part}
		}
		value, err := o.openPart(ctx, m.old, part)
		if err != nil {
			return all, err
		}
		all[part] = value
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("set %s: give its part %s too, which has no value yet", m.id, strings.Join(lacking, ", "))
	}
	return all, nil
}

// Edit opens a part through an owner, has the caller edit it, and sets what came back, unless that is the same or another value was set
// meanwhile. A part without a value is empty. Nothing is locked while edit runs. What edit is given and returns is wiped.
func (e *Engine) Edit(ctx context.Context, id secret.ID, part string, edit func(context.Context, secret.Plain) (secret.Plain, error)) (*Report, error) {
	selection := Selection{Secrets: []secret.ID{id}}
	v, err := e.open(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	if _, err := v.decls.selected(selection, v.tree); err != nil {
		return nil, err
	}
	old := secret.Plain{}
	if entry := v.tree.Secrets[id]; entry != nil {
		if meta, has := entry.Meta.Parts[part]; has {
			if one := v.decls.secrets[id]; meta.Encrypted && one != nil && declaredPublic(one.spec, part) {
				return nil, &exposedError{id, part}
			}
			if old, err = v.operation().openPart(ctx, entry, part); err != nil {
				return nil, err
			}
			defer old.Wipe()
		}
	}
	before := bytes.Clone(old.Bytes())
	defer clear(before)
	value, err := edit(ctx, old)
	if err != nil {
		return nil, fmt.Errorf("edit %s: %w", id, err)
	}
	defer value.Wipe()
	if bytes.Equal(before, value.Bytes()) {
		return &Report{Fleet: e.Plan.Fleet, Secrets: []Outcome{}, Unchanged: 1, Hosts: []HostProblem{}, Written: []string{}}, nil
	}
	gen := v.gen(id)
	return e.set(ctx, id, map[string]secret.Plain{part: value}, &gen)
}

// Accept takes the present values as those of the declarations as they are now: changed arguments, scripts and dependencies ask for new values no more.
func (e *Engine) Accept(ctx context.Context, ids []secret.ID) (*Report, error) {
	selection := Selection{Secrets: ids}
	o, end, err := e.begin(ctx, selection.hostsOf(e.Plan))
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := o.decls.selected(selection, o.tree); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := o.accept(ctx, id); err != nil {
			o.fail(ctx, id, err)
		}
	}
	return o.report(), ctx.Err()
}

func (o *operation) accept(ctx context.Context, id secret.ID) error {
	one, entry := o.decls.secrets[id], o.entry(id)
	switch {
	case one == nil:
		o.note(id, func(outcome *Outcome) { o.undeclared(outcome) })
		return nil
	case entry == nil:
		return &personError{text: "it has no value that could be accepted", hint: "fleet secrets sync " + id.String()}
	case len(entry.Faults()) > 0:
		return entry.Err // a broken copy would be lost with what a person could still find in it
	}
	gens := map[secret.ID]secret.Gen{}
	for _, dep := range one.deps {
		gens[dep] = o.gen(dep)
	}
	next := *entry
	if err := one.describe(&next.Meta, gens); err != nil {
		return err
	}
	if sameText(entry.Meta, next.Meta) {
		o.looked[id] = true
		return nil
	}
	return o.save(ctx, &next, func(done *Outcome) {
		done.Action, done.Why = ActionAccept, "a person accepted the value as it is"
	})
}

func sameText(a, b secret.Meta) bool {
	x, errX := a.Encode()
	y, errY := b.Encode()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
