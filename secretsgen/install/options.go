package install

import (
	"fmt"

	"fleet/secretsgen/secret"
)

// Phase says when in a boot the installer runs.
type Phase string

// The phases.
const (
	// PhaseUsers is before users are made: for what is needed for them. All of it is root's.
	PhaseUsers Phase = "users"
	// PhaseMain is once users are there: for all the rest.
	PhaseMain Phase = "main"
)

// Phases lists the phases.
func Phases() []Phase { return []Phase{PhaseUsers, PhaseMain} }

// folder is the name of the link to the generation in use. Generations are in the folder of that name with ".d".
func (p Phase) folder() string {
	if p == PhaseUsers {
		return "secrets-for-users"
	}
	return "secrets"
}

// Options say where and how to install. The zero value is the main phase of a real host without mounting anything.
type Options struct {
	// Root is the folder that all is put below; empty means /run.
	Root string
	// Links is the folder that the paths of templates are below; empty means /.
	Links string
	// Accounts is the folder with passwd and group; empty means /etc.
	Accounts string
	// Phase is empty for [PhaseMain].
	Phase Phase
	// Mount has the folder of generations be a file system in memory that is never swapped; it is mounted where it is not yet.
	Mount bool
	// Log gets a line for every secret that was added, changed or removed: names and generations, never values. May be nil.
	Log func(line string)
	// observe is told of every step, for tests that end the process there.
	observe func(step string)
}

func (o *Options) defaults() error {
	for _, d := range [...]struct {
		option *string
		value  string
	}{{&o.Root, "/run"}, {&o.Links, "/"}, {&o.Accounts, "/etc"}} {
		if *d.option == "" {
			*d.option = d.value
		}
	}
	if o.Phase == "" {
		o.Phase = PhaseMain
	}
	if o.Phase != PhaseMain && o.Phase != PhaseUsers {
		return fmt.Errorf("install secrets: phase %.80q is neither %q nor %q", o.Phase, PhaseUsers, PhaseMain)
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.observe == nil {
		o.observe = func(string) {}
	}
	return nil
}

// valueFrom finds what placeholders stand for.
func valueFrom(all map[secret.ID]opened) func(slot) (secret.Plain, error) {
	return func(s slot) (secret.Plain, error) {
		o, ok := all[s.id]
		if !ok || o.err != nil {
			return secret.Plain{}, fmt.Errorf("it needs part %q of secret %s, which is not there", s.part, s.id)
		}
		return o.parts[s.part], nil
	}
}
