package install

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"fleet/secretsgen/secret"
)

// collect says what the generation should have, and notes what cannot be in it.
func (in *installer) collect() ([]file, record, error) {
	after := newRecord()
	var files []file
	for _, s := range in.secrets {
		list, entry, ok := in.collectSecret(s)
		if !ok {
			continue
		}
		files = append(files, list...)
		after.Secrets[s.ID.Name] = entry
		for credential, part := range s.Credentials {
			in.credentials[credential] = s.ID.Name + "/" + part
		}
	}
	slots := in.m.slots()
	for _, t := range in.templates {
		rendered, entry, ok := in.collectTemplate(t, slots)
		if !ok {
			continue
		}
		files = append(files, rendered)
		after.Templates[t.Name] = entry
	}
	data, err := after.encode()
	if err != nil {
		return nil, record{}, err
	}
	return append(files, file{path: recordFile, data: secret.NewPlain(data), own: ownership{Mode: 0o400}}), after, nil
}

// collectSecret has the secret's files, or those of the generation before where they are of the same value.
func (in *installer) collectSecret(s *Secret) ([]file, recordSecret, bool) {
	own, err := in.ownership(s.Owner, s.Group, s.Mode)
	if opened := in.opened[s.ID].err; opened != nil {
		err = opened
	}
	if err == nil {
		return s.files(in.opened[s.ID], own), recordSecret{s.ID, s.Gen, s.commits(), own}, true
	}
	files, entry, kept := in.place.carrySecret(s)
	in.report.fail(Failure{ID: s.ID, Kept: kept}, err)
	if kept {
		carried := opened{parts: make(map[string]secret.Plain, len(files))}
		for _, f := range files {
			carried.parts[path.Base(f.alias)] = f.data
		}
		in.opened[s.ID].wipe()
		in.opened[s.ID] = carried
	}
	return files, entry, kept
}

// files are a secret's files, each with the name that changes with the value and the one that does not. They are two names of one file, so
// that owner and mode are those of both.
func (s *Secret) files(o opened, own ownership) []file {
	var files []file
	for _, name := range slices.Sorted(maps.Keys(s.Parts)) {
		f := file{path: path.Join(s.ID.Name, s.Parts[name].file(name)), alias: path.Join(s.ID.Name, name), data: o.parts[name], own: own}
		if !s.Parts[name].Encrypted {
			f.own = publicOwnership()
		}
		files = append(files, f)
	}
	return files
}

func (in *installer) collectTemplate(t *Template, slots map[string]slot) (file, recordTemplate, bool) {
	f := file{path: path.Join(renderedFolder, t.Name)}
	entry := recordTemplate{Path: t.Path}
	r, err := t.prepare(slots)
	if err == nil {
		entry.Is = r.is
		f.data, err = r.render(valueFrom(in.opened))
	}
	if err == nil {
		f.own, err = in.ownership(t.Owner, t.Group, t.Mode)
	}
	if err == nil {
		entry.Own = f.own
		return f, entry, true
	}
	f, entry, kept := in.place.carryTemplate(t, entry.Is)
	in.report.fail(Failure{Template: t.Name, Kept: kept}, err)
	return f, entry, kept
}

// ownership resolves an owner. Before there are users, all is root's.
func (in *installer) ownership(owner, group, mode string) (ownership, error) {
	bits, err := parseMode(mode)
	if err != nil {
		return ownership{}, err
	}
	if in.accounts == nil {
		return ownership{Mode: fileMode(bits)}, nil
	}
	found, err := in.accounts.resolve(owner, group)
	if err != nil {
		return ownership{}, err
	}
	return ownership{found.uid, found.gid, fileMode(bits)}, nil
}

// carrySecret reads a secret from the generation in use, where that has the same value of it.
func (p *place) carrySecret(s *Secret) ([]file, recordSecret, bool) {
	if p.current == nil {
		return nil, recordSecret{}, false
	}
	entry, ok := p.current.record.Secrets[s.ID.Name]
	if !ok || !entry.same(s) {
		return nil, recordSecret{}, false
	}
	files := s.files(opened{}, entry.Own)
	for i := range files {
		var err error
		if files[i].data, err = p.current.read(files[i].path); err != nil {
			return nil, recordSecret{}, false
		}
	}
	return files, entry, true
}

func (p *place) carryTemplate(t *Template, is string) (file, recordTemplate, bool) {
	if p.current == nil {
		return file{}, recordTemplate{}, false
	}
	entry, ok := p.current.record.Templates[t.Name]
	if !ok || is == "" || entry.Is != is {
		return file{}, recordTemplate{}, false
	}
	f := file{path: path.Join(renderedFolder, t.Name), own: entry.Own}
	var err error
	if f.data, err = p.current.read(f.path); err != nil {
		return file{}, recordTemplate{}, false
	}
	entry.Path = t.Path
	return f, entry, true
}

// read reads a file of the generation.
func (g *generation) read(name string) (secret.Plain, error) {
	info, err := g.root.Lstat(name)
	if err != nil {
		return secret.Plain{}, err
	}
	if !info.Mode().IsRegular() {
		return secret.Plain{}, fmt.Errorf("%s is no file", name)
	}
	data, err := g.root.ReadFile(name)
	return secret.NewPlain(data), err
}
