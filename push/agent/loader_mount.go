package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxMounts bounds the table of mounts, in bytes.
const maxMounts = 4 << 20

// mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	device   string // major:minor
	point    string
	kind     string
	readOnly bool
}

// mountOf returns what is mounted where a folder is; false where that cannot be found out.
func (h *Host) mountOf(dir string) (mount, bool) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	text, err := readBounded(h.Mounts, maxMounts)
	if err != nil {
		return mount{}, false
	}
	var best mount
	found := false
	for _, m := range parseMounts(string(text)) {
		// What was mounted last on a point hides what was there.
		if within(dir, m.point) && (!found || len(m.point) >= len(best.point)) {
			best, found = m, true
		}
	}
	return best, found
}

func within(dir, point string) bool {
	return dir == point || point == "/" || strings.HasPrefix(dir, point+"/")
}

func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		dash := slices.Index(words, "-")
		if dash < 6 || dash+3 >= len(words) {
			continue
		}
		options := strings.Split(words[5]+","+words[dash+3], ",")
		mounts = append(mounts, mount{
			device: words[2], point: unescapeMount(words[4]), kind: words[dash+1], readOnly: slices.Contains(options, "ro"),
		})
	}
	return mounts
}

// unescapeMount reads a name with octal escapes, as mountinfo and fstab write it.
func unescapeMount(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' && i+3 < len(name) {
			if c, err := strconv.ParseUint(name[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// grubCanWrite says why GRUB cannot write to a file in the folder: it writes sectors, and only where a file's contents lie as they are, on a plain disk.
func (h *Host) grubCanWrite(dir string) error {
	m, ok := h.mountOf(dir)
	if !ok {
		return fmt.Errorf("what is mounted on %s is not known, so neither is whether GRUB can write there", dir)
	}
	if !slices.Contains([]string{"ext2", "ext3", "ext4", "vfat", "xfs"}, m.kind) {
		return fmt.Errorf("GRUB cannot write to %s, which is in a file system of kind %s: a one-time choice would stay for ever", dir, m.kind)
	}
	if m.readOnly {
		return fmt.Errorf("%s is mounted read-only", m.point)
	}
	device, err := filepath.EvalSymlinks(filepath.Join(h.BlockDevices, m.device))
	if err != nil {
		return fmt.Errorf("find the disk of %s: %w", dir, err)
	}
	name := filepath.Base(device)
	for _, prefix := range []string{"dm-", "md", "bcache", "drbd"} {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("GRUB cannot write to %s, which is on %s: it reads LVM, RAID and encrypted disks, and writes to plain ones", dir, name)
		}
	}
	return nil
}
