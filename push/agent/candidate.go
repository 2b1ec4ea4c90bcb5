package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// candidateName is the profile in profiles/system-profiles that a staged system lies in: NixOS writes boot entries for those, too, while the
// system profile, and with it what is installed by default, stays as it is.
const candidateName = "fleet"

func (h *Host) candidateDir() string {
	return filepath.Join(h.NixVar, "profiles", "system-profiles")
}

// prepareCandidate makes a system the candidate. What was staged before goes.
func (h *Host) prepareCandidate(s Staging) error {
	if !h.isGeneration(s.Old) {
		return fmt.Errorf("%s is no generation of the system profile: writing boot entries would remove its own", s.Old)
	}
	dir := h.candidateDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if target, err := os.Readlink(filepath.Join(dir, candidateName+"-1-link")); err == nil && target == s.New {
		if link, err := os.Readlink(filepath.Join(dir, candidateName)); err == nil && link == candidateName+"-1-link" {
			return syncFolder(dir)
		}
	}
	if err := h.DropCandidate(); err != nil {
		return err
	}
	if err := replaceLink(s.New, filepath.Join(dir, candidateName+"-1-link")); err != nil {
		return err
	}
	if err := replaceLink(candidateName+"-1-link", filepath.Join(dir, candidateName)); err != nil {
		return err
	}
	return syncFolder(dir)
}

// candidateLinks are the names of all links of the candidate's profile: first the profile, then its generations.
func (h *Host) candidateLinks() ([]string, error) {
	files, err := os.ReadDir(h.candidateDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	form := regexp.MustCompile(`^` + candidateName + `(-[0-9]+-link)?$`)
	var names []string
	for _, file := range files {
		if form.MatchString(file.Name()) {
			names = append(names, file.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (h *Host) hasCandidate() (bool, error) {
	names, err := h.candidateLinks()
	return len(names) > 0, err
}

// DropCandidate removes the candidate's profile, and leaves its boot entries: the next installation of the loader removes those. It may be
// repeated. A commit drops it once the system profile is set and before the loader is installed, or two generations would be the default's system.
func (h *Host) DropCandidate() error {
	names, err := h.candidateLinks()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(h.candidateDir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return syncFolder(h.candidateDir())
}

// isGeneration says whether a generation of the system profile is the system.
func (h *Host) isGeneration(toplevel string) bool {
	dir := filepath.Dir(h.profileLink())
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, file := range files {
		number, ok := strings.CutPrefix(strings.TrimSuffix(file.Name(), "-link"), "system-")
		if _, err := strconv.Atoi(number); !ok || err != nil {
			continue
		}
		if path := toplevelAt(filepath.Join(dir, file.Name())); path.String() == toplevel {
			return true
		}
	}
	return false
}

// syncFolder makes renames and removals in a folder survive a power cut.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncFileSystem writes out all of the file system that a folder is in. A folder's own sync is not enough on FAT.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// readOnly says whether a folder's file system cannot be written; one that cannot be asked counts as writable.
func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
