package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// generation is a number that the system profile may have.
type generation struct {
	value int
	// fresh says that its link is still to be made.
	fresh bool
}

func (h *Host) generationLink(number int) string {
	return filepath.Join(h.NixVar, "profiles", fmt.Sprintf("system-%d-link", number))
}

// generations returns the systems of all generations, by their numbers.
func (h *Host) generations() (map[int]string, error) {
	entries, err := os.ReadDir(filepath.Dir(h.profileLink()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	form := regexp.MustCompile(`^system-([1-9][0-9]{0,8})-link$`)
	found := make(map[int]string)
	for _, entry := range entries {
		m := form.FindStringSubmatch(entry.Name())
		if m == nil {
			continue
		}
		target, err := os.Readlink(filepath.Join(filepath.Dir(h.profileLink()), entry.Name()))
		if err != nil {
			return nil, err
		}
		number, _ := strconv.Atoi(m[1]) // nine digits fit
		found[number] = target
	}
	return found, nil
}

// nextGeneration is the number for a system: that of the newest generation where this is it already, as Nix does, or the one that we have chosen
// before, or the next one.
func (h *Host) nextGeneration(toplevel string, made int) (generation, error) {
	all, err := h.generations()
	if err != nil {
		return generation{}, err
	}
	newest := 0
	for number := range all {
		newest = max(newest, number)
	}
	switch {
	case newest > 0 && all[newest] == toplevel:
		return generation{newest, false}, nil
	case made > 0 && (all[made] == toplevel || all[made] == "" && made > newest):
		return generation{made, true}, nil
	}
	return generation{newest + 1, true}, nil
}

// setGeneration makes a generation where it is missing, and then the current one. Both survive the loss of power when it returns.
func (h *Host) setGeneration(number int, toplevel string) error {
	link := h.generationLink(number)
	dir := filepath.Dir(link)
	target, err := os.Readlink(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := replaceLink(toplevel, link); err != nil {
			return fmt.Errorf("make generation %d: %w", number, err)
		}
		if err := syncFolder(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case target != toplevel:
		return fmt.Errorf("generation %d of the system profile is %q, not %q", number, target, toplevel)
	}
	if have, err := os.Readlink(h.profileLink()); err == nil && have == filepath.Base(link) {
		return syncFolder(dir)
	}
	if err := replaceLink(filepath.Base(link), h.profileLink()); err != nil {
		return fmt.Errorf("set the system profile: %w", err)
	}
	return syncFolder(dir)
}

// restoreProfile makes the old generation the current one, and removes the one that the transaction has made, and no other.
func (h *Host) restoreProfile(old guardSystems, made int, toplevel string) error {
	if err := h.restoreCurrent(old); err != nil {
		return err
	}
	if made == 0 || made == old.Generation {
		return nil
	}
	link := h.generationLink(made)
	if target, err := os.Readlink(link); err != nil || target != toplevel {
		return nil // it was not made, or is not ours any more
	}
	if err := os.Remove(link); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(link))
}

func (h *Host) restoreCurrent(old guardSystems) error {
	switch {
	case old.Profile == "":
		if err := os.Remove(h.profileLink()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncFolder(filepath.Dir(h.profileLink()))
	case old.Generation > 0:
		return h.setGeneration(old.Generation, old.Profile)
	}
	if err := replaceLink(old.Profile, h.profileLink()); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(h.profileLink()))
}
