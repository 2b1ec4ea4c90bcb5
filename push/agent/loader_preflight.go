package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The checks of a boot loader, by the names that skip them.
const (
	checkBootEntry    = "boot-entry"
	checkBootVariable = "boot-variable"
	checkBootOneShot  = "boot-one-shot"
	checkBootLeftover = "boot-leftover"
	checkBootMount    = "boot-mount"
	checkBootSpace    = "boot-space"
	checkBootKind     = "boot-loader"
)

const (
	maxFstab    = 256 << 10
	maxBootSpec = 1 << 20
	maxWrapper  = 256 << 10
)

// Preflight does what it can where no loader is known: a partition that is not mounted is the usual reason.
func (l hostLoader) Preflight(old, next string) []Finding {
	found := l.h.unmounted(old)
	b := l.h.findLoader()
	if b == nil {
		return found
	}
	for _, check := range []func(backend, string, string) []Finding{
		l.checkDefault, l.checkOneShot, l.checkVariable, l.checkLeftovers, l.checkMount, l.checkSpace, l.checkKind,
	} {
		found = append(found, check(b, old, next)...)
	}
	return found
}

// checkDefault: the old system must be what boots when all else fails, and its own program must keep it so.
func (l hostLoader) checkDefault(b backend, old, _ string) []Finding {
	if err := verifyDefault(b, old); err != nil {
		return []Finding{{
			Check: checkBootEntry, Message: "the host could not fall back to its old system by booting: " + oneLine(err.Error()),
			Remedy: old + "/bin/switch-to-configuration boot",
		}}
	}
	if !l.h.isGeneration(old) {
		return []Finding{{
			Check: checkBootEntry, Message: old + " boots by default, but is no generation of the system profile: the next installation of the boot loader removes its entry",
			Remedy: "nix-env -p " + l.h.profileLink() + " --set " + old,
		}}
	}
	return nil
}

// checkOneShot: a crash must boot the default, not what somebody has chosen for one time.
func (l hostLoader) checkOneShot(b backend, _, _ string) []Finding {
	id, err := b.oneShot()
	if id == "" && err == nil {
		return nil
	}
	f := Finding{Check: checkBootOneShot, Message: fmt.Sprintf("the next boot brings %q, once, whatever boots by default", clip(oneLine(id)))}
	if err != nil {
		f.Message = "whether the next boot brings the default cannot be read: " + oneLine(err.Error())
	}
	switch b.name() {
	case "grub":
		f.Remedy = "grub-editenv " + filepath.Join(b.dir(), "grub", "grubenv") + " unset " + nextEntry
	default:
		f.Remedy = `bootctl set-oneshot ""`
	}
	return []Finding{f}
}

// checkVariable: it wins over what an installation writes.
func (l hostLoader) checkVariable(b backend, _, _ string) []Finding {
	if !isSystemdBoot(b) {
		return nil
	}
	value, err := l.h.efiText("LoaderEntryDefault")
	if value == "" && err == nil {
		return nil
	}
	message := fmt.Sprintf("the firmware's variable LoaderEntryDefault is %q: whatever is installed, that boots by default", clip(oneLine(value)))
	if err != nil {
		message = oneLine(err.Error())
	}
	return []Finding{{Check: checkBootVariable, Message: message, Remedy: `bootctl set-default ""`}}
}

func isSystemdBoot(b backend) bool {
	_, ok := b.(systemdBoot)
	return ok
}

// checkLeftovers: NixOS creates loader.tmp with the demand that it is new, so one that a crash has left fails every installation.
func (l hostLoader) checkLeftovers(b backend, _, _ string) []Finding {
	path := leftover(b.dir())
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || !isSystemdBoot(b) {
		return nil
	}
	return []Finding{{
		Check: checkBootLeftover, Message: path + " is left from an interrupted installation, and would fail the next one; it is removed before that",
		Remedy: "rm " + path, Leftovers: []string{path}, Notice: true,
	}}
}

func leftover(boot string) string { return filepath.Join(boot, "loader", "loader.tmp") }

// clearLeftovers removes what an interrupted installation of a boot loader has left and the next one fails on. Nobody may be installing one.
func (h *Host) clearLeftovers() error {
	var errs []error
	for _, dir := range h.Boot {
		if err := os.Remove(leftover(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unmounted looks for boot folders of fstab that nothing is mounted on: an installation would write to the folder below.
func (h *Host) unmounted(old string) []Finding {
	text, err := readBounded(filepath.Join(old, "etc", "fstab"), maxFstab)
	if err != nil {
		return nil
	}
	var found []Finding
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 3 || strings.HasPrefix(words[0], "#") || !slices.Contains(h.Boot, unescapeMount(words[1])) {
			continue
		}
		dir := unescapeMount(words[1])
		// Where it is mounted on demand, this mounts it.
		_, _ = os.ReadDir(dir)
		if m, ok := h.mountOf(dir); ok && (m.point != dir || m.kind == "autofs") {
			found = append(found, Finding{
				Check: checkBootMount, Message: "nothing is mounted on " + dir + ", where fstab wants a partition", Remedy: "mount " + dir,
			})
		}
	}
	return found
}

// checkMount looks at what the loader's files lie on.
func (l hostLoader) checkMount(b backend, _, _ string) []Finding {
	m, ok := l.h.mountOf(b.dir())
	switch {
	case !ok:
		return nil
	case m.readOnly:
		return []Finding{{Check: checkBootMount, Message: b.dir() + " is mounted read-only: no boot entry can be written", Remedy: "mount -o remount,rw " + m.point}}
	case isSystemdBoot(b) && !b.(systemdBoot).byFile() && m.kind != "vfat" && m.kind != "msdos":
		return []Finding{{
			Check:   checkBootMount,
			Message: fmt.Sprintf("%s has systemd-boot's files, but is no EFI partition (%s): the firmware does not see them", b.dir(), m.kind), Remedy: "mount " + b.dir(),
		}}
	}
	return nil
}

// checkSpace: kernel and initrd of the next system are copied to where the firmware can read them.
func (l hostLoader) checkSpace(b backend, _, next string) []Finding {
	dir, need := l.h.kernelSpace(b, next)
	var st unix.Statfs_t
	if need == 0 || unix.Statfs(dir, &st) != nil || st.Bsize <= 0 {
		return nil
	}
	free := st.Bavail * uint64(st.Bsize)
	if want := need + need/5; free < want {
		return []Finding{{
			Check:   checkBootSpace,
			Message: fmt.Sprintf("%s has %d MiB left; kernel and initrd of the new system need %d MiB, and a fifth more in reserve", dir, free>>20, (want+1<<20-1)>>20),
			Remedy:  "nix-env -p " + l.h.profileLink() + " --delete-generations +3, then switch-to-configuration boot; or a lower boot.loader.*.configurationLimit",
		}}
	}
	return nil
}

// kernelSpace is how many bytes an installation copies for a system, and where to.
func (h *Host) kernelSpace(b backend, next string) (string, uint64) {
	var copies string
	switch b := b.(type) {
	case systemdBoot:
		copies = filepath.Join(b.kernelDir(), "EFI", "nixos")
	case grub:
		copies = filepath.Join(b.boot, "kernels")
		if sameDevice(b.boot, next) {
			return "", 0 // GRUB reads the store
		}
	case extlinux:
		copies = filepath.Join(b.boot, "nixos")
	}
	var need uint64
	for _, file := range []string{"kernel", "initrd"} {
		path, err := filepath.EvalSymlinks(filepath.Join(next, file))
		if err != nil {
			continue
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && !copied(copies, path) {
			need += uint64(info.Size())
		}
	}
	return filepath.Dir(copies), need
}

// copied knows the names of NixOS' copies: the parts of the path below the store, joined.
func copied(dir, path string) bool {
	_, rest, ok := strings.Cut(path, "/store/")
	if !ok {
		return false
	}
	name := filepath.Join(dir, strings.ReplaceAll(rest, "/", "-"))
	return hasContent(name) || hasContent(name+".efi")
}

func sameDevice(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

// kernelDir is the partition with the entries: the loader's own, or the one beside it for more room.
func (s systemdBoot) kernelDir() string {
	for _, dir := range s.h.Boot {
		if hasFolder(filepath.Join(dir, "EFI", "nixos")) && (dir == s.boot || !hasFolder(filepath.Join(s.boot, "EFI", "nixos"))) {
			return dir
		}
	}
	return s.boot
}

func hasFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// checkKind: a system with another loader installs that one beside the old, and which of them the firmware takes is not known beforehand.
func (l hostLoader) checkKind(b backend, _, next string) []Finding {
	kind := loaderOf(next)
	if kind == "" || kind == b.name() {
		return nil
	}
	return []Finding{{
		Check: checkBootKind, Message: fmt.Sprintf("the host boots with %s, and the new system installs %s: no fallback is sure", b.name(), kind),
		Remedy: "change the boot loader by hand, with the host's console at reach",
	}}
}

// loaderOf is the loader that a system installs, as far as its files say; empty where they do not.
func loaderOf(toplevel string) string {
	var spec map[string]json.RawMessage
	if text, err := readBounded(filepath.Join(toplevel, "boot.json"), maxBootSpec); err == nil && json.Unmarshal(text, &spec) == nil {
		for key := range spec {
			if strings.Contains(key, "lanzaboote") {
				return "lanzaboote"
			}
		}
	}
	wrapper, err := readBounded(switchProgram(toplevel), maxWrapper)
	if err != nil {
		return ""
	}
	_, installer, _ := strings.Cut(string(wrapper), "INSTALL_BOOTLOADER")
	installer, _, _ = strings.Cut(installer, "\n")
	for _, kind := range []struct{ name, part string }{
		{"systemd-boot", "systemd-boot"}, {"grub", "install-grub"}, {"extlinux", "extlinux-conf-builder"}, {"lanzaboote", "lzbt"},
	} {
		if strings.Contains(installer, kind.part) {
			return kind.name
		}
	}
	return ""
}
