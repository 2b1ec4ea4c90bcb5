package direct

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// openFolder opens a store folder for writing beneath it, also where it is mounted read-only, as NixOS does it.
func openFolder(dir string) (int, error) {
	fd, err := unix.Open(dir, folderFlags, 0)
	if err != nil {
		return -1, fmt.Errorf("open %q: %w", dir, err)
	}
	err = writable(fd)
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	if !errors.Is(err, unix.EROFS) {
		return -1, fmt.Errorf("write to %q: %w", dir, err)
	}
	return openRemounted(dir)
}

const folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// writable asks the kernel whether files could be made in a folder; nothing is made.
func writable(fd int) error { return unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, 0) }

// openRemounted opens the folder through a mount of its own that is not read-only. Whatever is opened beneath the result writes through that mount,
// from any thread, as long as the result is open. All others see the folder as before.
func openRemounted(dir string) (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread has mounts of its own from here on and must not run anything else: it ends with this goroutine, which never unlocks it.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fd, err = remount(dir)
			return
		}
		// The main thread cannot end, and others take its mounts for those of the process. While it is locked, another goroutine is elsewhere.
		fd, err = openRemounted(dir)
		runtime.UnlockOSThread()
	}()
	<-done
	return fd, err
}

// remount gives the calling thread mounts of its own.
func remount(dir string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("leave the other processes' mounts, because %q is mounted read-only: %w", dir, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make mounts private: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return -1, fmt.Errorf("look at %q: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|mountFlags(st.Flags), ""); err != nil {
		return -1, fmt.Errorf("mount %q writable for ourselves: %w", dir, err)
	}
	fd, err := unix.Open(dir, folderFlags, 0)
	if err != nil {
		return -1, fmt.Errorf("open %q: %w", dir, err)
	}
	if err := writable(fd); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("write to %q, which was mounted writable for us: %w", dir, err)
	}
	return fd, nil
}

// mountFlags are the flags of mount(2) for those of statfs(2), but for read-only. A container may not drop any of them.
func mountFlags(flags int64) (result uintptr) {
	for _, flag := range []struct {
		stat  int64
		mount uintptr
	}{
		{unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if flags&flag.stat != 0 {
			result |= flag.mount
		}
	}
	return result
}
