package agent

import (
	"context"
	"errors"
	"fmt"

	"fleet/closure/storepath"
)

// Loader is the host's boot loader. Every method looks at the files as they are at that moment, and none keeps anything open. What it
// reads is bounded, since the files may be damaged. Methods that change something must not run at the same time; whoever calls them holds the host's lock.
type Loader interface {
	// Name is "systemd-boot", "lanzaboote", "grub" or "extlinux", and empty where none of them has files here.
	Name() string
	// Default is what boots when nobody intervenes.
	Default() BootDefault
	// OneShot is the system that the next boot alone brings, and empty where it brings the default. An error says that something is to be booted
	// once, or may be, which is no system that we know.
	OneShot() (string, error)
	// CanStage says why the loader cannot boot a system once; nil where it can. It changes nothing.
	CanStage() error
	// Stage makes s.New the next boot, once, with s.Old as the default all the time, and verifies both. It may be repeated after a crash, and an
	// error leaves [Loader.Unstage] to be called.
	Stage(ctx context.Context, s Staging) error
	// Unstage takes that back, the one-time choice first, and verifies it. It may be repeated, and called where nothing was staged.
	Unstage(ctx context.Context, s Staging) error
	// Verify says why the toplevel is not what boots by default: another one is, or a file that its entry names is missing or damaged.
	// Where no loader is known it returns nil.
	Verify(toplevel string) error
	// Preflight looks for what would keep the loader from being installed by the toplevel next, or from booting what it should. It changes nothing.
	Preflight(old, next string) []Finding
}

// Staging names the systems of a staged boot, as toplevels.
type Staging struct {
	// Old boots by default, before and after.
	Old string
	// New is to be booted once. Where it is Old nothing has to be staged.
	New string
	// Switch runs "switch-to-configuration boot" of a toplevel and waits for its end: that alone writes boot entries.
	Switch func(ctx context.Context, toplevel string) error
}

// Finding is one thing that pre-flight has found.
type Finding struct {
	// Check is the name by which it can be skipped.
	Check string
	// Message is a sentence, Remedy what mends it.
	Message, Remedy string
	// Leftovers are files of an interrupted installation. The next one fails while they are there; they may be deleted.
	Leftovers []string
	// Notice says that it does not stand in the way.
	Notice bool
}

// Loader returns the host's boot loader.
func (h *Host) Loader() Loader { return hostLoader{h} }

// BootDefault is what the machine boots when nobody intervenes.
func (h *Host) BootDefault() BootDefault { return h.Loader().Default() }

// loaderEntry is one thing that a loader can boot.
type loaderEntry struct {
	// id names it to the loader.
	id      string
	options string
	// files are the kernel, the initrds and the like, each as the places where it may lie: one of them has to be there.
	files [][]string
	// bad says that boot counting has given it up, counted that it still counts.
	bad, counted bool
}

// system is the toplevel that the entry boots.
func (e loaderEntry) system() (storepath.Path, error) {
	path, err := initSystem(e.options)
	if err != nil {
		return path, fmt.Errorf("boot entry %q: %w", clip(e.id), err)
	}
	return path, nil
}

// menu is a loader's configuration as it was read: its entries, and the one that it boots by default.
type menu struct {
	entries []loaderEntry
	// fallback is the default entry; err says why it is not known.
	fallback loaderEntry
	err      error
	// root is GRUB's tree of entries.
	root *grubEntry
}

// entryOf finds an entry that boots the system; one that boot counting has given up is no such entry.
func (m menu) entryOf(toplevel string) (loaderEntry, error) {
	for _, entry := range m.entries {
		if path, err := entry.system(); err == nil && path.String() == toplevel && !entry.bad {
			return entry, nil
		}
	}
	return loaderEntry{}, fmt.Errorf("no boot entry boots %s", toplevel)
}

// backend is one kind of loader with files here.
type backend interface {
	// name and dir: see [Loader.Name]; dir is the folder that the loader was found in, as "/boot".
	name() string
	dir() string
	// read reads the configuration.
	read() (menu, error)
	// canOneShot says why there is no one-time choice.
	canOneShot() error
	// oneShot is the entry that is chosen for the next boot, empty for none.
	oneShot() (string, error)
	// setOneShot chooses; an empty id chooses none. It returns when the choice will survive a power cut.
	setOneShot(id string) error
	// choice is how a one-time choice names the entry, and find is the entry that one names.
	choice(m menu, entry loaderEntry) (string, error)
	find(m menu, id string) (loaderEntry, bool)
}

// hostLoader is the loader of a host.
type hostLoader struct{ h *Host }

var errNoLoader = errors.New("no boot loader is known here: none has files below /boot or /efi")

func (l hostLoader) Name() string {
	if b := l.h.findLoader(); b != nil {
		return b.name()
	}
	return ""
}

func (l hostLoader) Default() BootDefault {
	b := l.h.findLoader()
	if b == nil {
		return BootDefault{}
	}
	return defaultOf(b)
}

func defaultOf(b backend) BootDefault {
	found := BootDefault{Loader: b.name()}
	m, err := b.read()
	if err == nil {
		err = m.err
	}
	if err == nil {
		found.Toplevel, err = m.fallback.system()
	}
	found.Err = err
	return found
}

func (l hostLoader) OneShot() (string, error) {
	b := l.h.findLoader()
	if b == nil {
		return "", nil
	}
	return oneShotOf(b)
}

func oneShotOf(b backend) (string, error) {
	id, err := b.oneShot()
	if id == "" || err != nil {
		return "", err
	}
	m, err := b.read()
	if err != nil {
		return "", err
	}
	entry, ok := b.find(m, id)
	if !ok {
		return "", fmt.Errorf("the next boot is to bring %q, which is no entry of %s", clip(id), b.name())
	}
	system, err := entry.system()
	return system.String(), err
}

func (l hostLoader) CanStage() error {
	b := l.h.findLoader()
	if b == nil {
		return errNoLoader
	}
	return b.canOneShot()
}

func (l hostLoader) Verify(toplevel string) error {
	b := l.h.findLoader()
	if b == nil {
		return nil
	}
	return verifyDefault(b, toplevel)
}

func verifyDefault(b backend, toplevel string) error {
	m, err := b.read()
	if err == nil {
		err = m.err
	}
	if err != nil {
		return fmt.Errorf("read what boots by default: %w", err)
	}
	system, err := m.fallback.system()
	if err != nil {
		return fmt.Errorf("read what boots by default: %w", err)
	}
	if system.String() != toplevel {
		return fmt.Errorf("%s boots %s by default, not %s", b.name(), system, toplevel)
	}
	return m.fallback.intact(b, toplevel)
}

func (l hostLoader) Stage(ctx context.Context, s Staging) error {
	b := l.h.findLoader()
	if b == nil {
		return errNoLoader
	}
	if s.New == s.Old {
		return verifyDefault(b, s.Old)
	}
	if err := b.canOneShot(); err != nil {
		return err
	}
	if err := l.h.prepareCandidate(s); err != nil {
		return err
	}
	if err := verifyDefault(b, s.Old); err != nil {
		return err
	}
	if err := s.Switch(ctx, s.Old); err != nil {
		return fmt.Errorf("write boot entries: %w", err)
	}
	if b = l.h.findLoader(); b == nil {
		return errNoLoader
	}
	if err := syncFileSystem(b.dir()); err != nil {
		return err
	}
	if err := verifyDefault(b, s.Old); err != nil {
		return err
	}
	return chooseOnce(b, s.New)
}

// chooseOnce makes a system the next boot, and looks whether it is.
func chooseOnce(b backend, toplevel string) error {
	m, err := b.read()
	if err != nil {
		return err
	}
	entry, err := m.entryOf(toplevel)
	if err != nil {
		return err
	}
	if err := entry.intact(b, toplevel); err != nil {
		return err
	}
	id, err := b.choice(m, entry)
	if err != nil {
		return err
	}
	if err := b.setOneShot(id); err != nil {
		return err
	}
	system, err := oneShotOf(b)
	if err != nil {
		return err
	}
	if system != toplevel {
		return fmt.Errorf("the next boot is to bring %q after %s was chosen", system, toplevel)
	}
	return nil
}

func (l hostLoader) Unstage(ctx context.Context, s Staging) error {
	b := l.h.findLoader()
	if b == nil {
		return l.h.DropCandidate()
	}
	// The choice first: whatever fails after that, the default boots.
	if err := b.setOneShot(""); err != nil {
		return err
	}
	if id, err := b.oneShot(); id != "" || err != nil {
		return errors.Join(err, fmt.Errorf("the next boot is still to bring %q", clip(id)))
	}
	if s.New == s.Old {
		return verifyDefault(b, s.Old)
	}
	had, err := l.h.hasCandidate()
	if err == nil {
		err = l.h.DropCandidate()
	}
	if err != nil {
		return err
	}
	if m, err := b.read(); had || (err == nil && leftOver(m, s.New)) {
		if err := s.Switch(ctx, s.Old); err != nil {
			return errors.Join(fmt.Errorf("write boot entries: %w", err), verifyDefault(b, s.Old))
		}
	}
	if b = l.h.findLoader(); b == nil {
		return errNoLoader
	}
	return errors.Join(syncFileSystem(b.dir()), verifyDefault(b, s.Old))
}

// leftOver says whether an entry boots the system.
func leftOver(m menu, toplevel string) bool {
	_, err := m.entryOf(toplevel)
	return err == nil
}
