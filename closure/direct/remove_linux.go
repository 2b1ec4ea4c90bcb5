package direct

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// namesAtOnce bounds the names that are held of one folder.
const namesAtOnce = 4096

// exists says whether there is anything of that name in a folder.
func exists(dir int, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// removeTree removes what a folder holds under a name, whatever it is. It never leaves the folder, and its depth is bounded by the descriptors that we may have.
func removeTree(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	if err := emptyFolder(dir, name); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove folder %q: %w", name, err)
	}
	return nil
}

func emptyFolder(dir int, name string) error {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open folder %q to remove it: %w", name, err)
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close()
	for {
		names, err := folder.Readdirnames(namesAtOnce)
		for _, entry := range names {
			if err := removeTree(int(folder.Fd()), entry); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read folder %q to remove it: %w", name, err)
		}
		// What was removed while it was read may have hidden other names.
		if _, err := folder.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read folder %q to remove it: %w", name, err)
		}
	}
}
