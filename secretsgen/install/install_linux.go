package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fleet/secretsgen/secret"
)

// installer is one run.
type installer struct {
	m        *Manifest
	opt      Options
	report   Report
	place    *place
	accounts *accounts
	// opened are the values by secret: decrypted, or, for a secret that could not be, carried over.
	opened map[secret.ID]opened
	// secrets and templates are those of the phase.
	secrets   []*Secret
	templates []*Template
	// credentials are the secrets and parts by the name of their link.
	credentials map[string]string
}

// Install puts the secrets of one phase in place. What could not be installed is in the report, and all else is in place; the error says
// that the generation in use is the one before, or that links outside of it could not be made. Nothing is written before
// everything was decrypted and verified. Only one installer runs at a time: a second one waits until ctx ends.
//
// Ending the process at any moment leaves the old generation in use or the new one, each complete; the next run does what is left.
func Install(ctx context.Context, m *Manifest, opt Options) (Report, error) {
	if err := opt.defaults(); err != nil {
		return Report{}, err
	}
	if err := m.Validate(); err != nil {
		return Report{}, err
	}
	root, err := os.OpenRoot(opt.Root)
	if err != nil {
		return Report{}, fmt.Errorf("install secrets: %w", err)
	}
	defer root.Close()
	unlock, err := lock(ctx, root)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	in := &installer{m: m, opt: opt, report: Report{Host: m.Host, Failed: []Failure{}}, credentials: map[string]string{}}
	in.selectPhase()
	in.opened = m.openAll(ctx, in.needed())
	defer func() { wipe(in.opened) }()
	opt.observe("decrypted")
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("install secrets: %w", err)
	}
	err = in.run(ctx, root)
	in.report.sort()
	return in.report, err
}

// selectPhase picks what this run installs.
func (in *installer) selectPhase() {
	users := in.opt.Phase == PhaseUsers
	for i := range in.m.Secrets {
		if s := &in.m.Secrets[i]; s.NeededForUsers == users {
			in.secrets = append(in.secrets, s)
		}
	}
	for i := range in.m.Templates {
		if t := &in.m.Templates[i]; t.NeededForUsers == users {
			in.templates = append(in.templates, t)
		}
	}
	in.report.Total = len(in.secrets) + len(in.templates)
}

// needed are the secrets that must be opened: those of the phase, and those that its templates show.
func (in *installer) needed() []*Secret {
	shown := map[secret.ID]bool{}
	slots := in.m.slots()
	for _, t := range in.templates {
		if r, err := t.prepare(slots); err == nil {
			for _, s := range r.slots {
				shown[s.id] = true
			}
		}
	}
	list := in.secrets[:len(in.secrets):len(in.secrets)]
	for i := range in.m.Secrets {
		s := &in.m.Secrets[i]
		if shown[s.ID] && s.NeededForUsers != (in.opt.Phase == PhaseUsers) {
			list = append(list, s)
		}
	}
	return list
}

// run does all that writes.
func (in *installer) run(ctx context.Context, root *os.Root) error {
	var err error
	if in.opt.Phase != PhaseUsers {
		if in.accounts, err = loadAccounts(in.opt.Accounts); err != nil {
			return fmt.Errorf("install secrets: %w", err)
		}
	}
	if len(in.secrets)+len(in.templates) == 0 && !isOursInUse(root, in.opt.Phase.folder()) {
		return in.links(root, nil, newRecord()) // nothing is, and nothing was
	}
	in.place, err = openPlace(root, in.opt, in.size())
	if err != nil {
		return err
	}
	defer in.place.close()
	files, after, err := in.collect()
	defer func() {
		for _, f := range files {
			f.data.Wipe()
		}
	}()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("install secrets: %w", err)
	}
	if !in.place.holds(files) {
		if err := in.publish(files, after); err != nil {
			return err
		}
	}
	in.report.Generation = in.place.current.number
	return errors.Join(in.links(root, in.place.earlierRecords(), after), in.place.prune())
}

// publish writes a new generation and swaps it in.
func (in *installer) publish(files []file, after record) error {
	before := newRecord()
	if in.place.current != nil {
		before = in.place.current.record
	}
	number, err := in.place.write(files)
	if err != nil {
		return err
	}
	if err := in.place.swap(number, after); err != nil {
		return err
	}
	in.opt.observe("swapped")
	for _, line := range changes(before, after) {
		in.opt.Log(line)
	}
	return nil
}

// size is how many bytes one generation takes, about.
func (in *installer) size() uint64 {
	const page = 4096
	var size uint64
	for _, s := range in.secrets {
		size += 2 * page // folders and names
		for _, value := range in.opened[s.ID].parts {
			size += uint64(value.Len()) + page
		}
	}
	for _, t := range in.templates {
		size += uint64(len(t.Content)) + page
		if r, err := t.prepare(in.m.slots()); err == nil {
			for _, s := range r.slots {
				size += uint64(in.opened[s.id].parts[s.part].Len())
			}
		}
	}
	return size
}

// isOursInUse says whether a link leads to a generation; whose it is, its record says.
func isOursInUse(root *os.Root, name string) bool {
	target, err := root.Readlink(name)
	return err == nil && strings.HasPrefix(target, name+".d/")
}

// below is the absolute path of something below the root, for links and messages.
func (o Options) below(parts ...string) string {
	return filepath.Join(append([]string{o.Root}, parts...)...)
}
