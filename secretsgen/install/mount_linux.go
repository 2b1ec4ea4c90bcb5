package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// minMemory is the least size of the file system of generations, in bytes. Memory is taken for what is in it alone.
const minMemory = 64 << 20

// mountMemory makes a folder a file system in memory that is never swapped, and makes one that is already there large enough: for the generation
// in use, the one that is written, and as much again.
func mountMemory(folder string, generation uint64) error {
	size := max(minMemory, 4*generation)
	mounted, err := isMount(folder)
	if err != nil {
		return fmt.Errorf("mount %q: %w", folder, err)
	}
	if mounted {
		return growMemory(folder, size)
	}
	// noswap is unknown before Linux 6.4; what is in a ramfs is never swapped either, but nothing bounds it.
	err = mountFirst(folder, [][2]string{
		{"tmpfs", fmt.Sprintf("noswap,mode=0%o,size=%d", folderMode, size)},
		{"ramfs", fmt.Sprintf("mode=0%o", folderMode)},
	})
	if err != nil {
		return fmt.Errorf("mount a file system in memory on %q: %w", folder, err)
	}
	return nil
}

// mountFirst mounts the first of some types, each with its options, that the kernel knows.
func mountFirst(folder string, types [][2]string) (err error) {
	for _, t := range types {
		err = unix.Mount("fleet-secrets", folder, t[0], unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, t[1])
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return err
}

// isMount says whether a file system in memory is mounted on a folder; another one is an error.
func isMount(folder string) (bool, error) {
	above, err := os.Stat(filepath.Dir(folder))
	if err != nil {
		return false, err
	}
	at, err := os.Lstat(folder)
	if err != nil {
		return false, err
	}
	if deviceOf(above) == deviceOf(at) {
		return false, nil
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return false, err
	}
	if t := uint32(stat.Type); t != unix.TMPFS_MAGIC && t != unix.RAMFS_MAGIC {
		return false, errors.New("what is mounted there is not in memory; unmount it")
	}
	return true, nil
}

func deviceOf(info os.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return uint64(stat.Dev)
}

// growMemory makes a tmpfs at least so large.
func growMemory(folder string, size uint64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return fmt.Errorf("look at %q: %w", folder, err)
	}
	if uint32(stat.Type) != unix.TMPFS_MAGIC || stat.Blocks*uint64(stat.Bsize) >= size {
		return nil
	}
	const flags = unix.MS_REMOUNT | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	err := unix.Mount("", folder, "", flags, fmt.Sprintf("noswap,size=%d", size))
	if errors.Is(err, unix.EINVAL) { // it was mounted by somebody else, without noswap
		err = unix.Mount("", folder, "", flags, fmt.Sprintf("size=%d", size))
	}
	if err != nil {
		return fmt.Errorf("make %q larger: %w", folder, err)
	}
	return nil
}
