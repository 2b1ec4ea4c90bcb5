package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// helperName is this program in the folder's bin; `gh` and `encrypt` are links to it.
const helperName = "fleet-helper"

// The bounds of the private folder.
const (
	maxPlaceBytes = 256 << 20
	maxPlaceFiles = 16384
	// watchEvery is how often a file system without bounds of its own is looked at.
	watchEvery = 100 * time.Millisecond
)

// place is the private folder and what it takes to be rid of it.
type place struct {
	// dir is the folder: bin, out, deps and tmp are in it.
	dir string
	// fd is the same, however it is renamed.
	fd int
	// bounded says that the file system itself limits what is written.
	bounded  bool
	warnings []string
	// killRest ends every process that the generator has left; remove makes the folder go where the namespace does not.
	killRest, remove func() error
}

func (j *job) newPlace() (*place, error) {
	if j.Mode == modeFolder {
		return j.newFolder()
	}
	p := &place{killRest: killNamespace, remove: func() error { return nil }}
	// Mounts of the machine still come and go in here, none of ours gets out.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("keep our mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	root, err := j.mountPoint()
	if err != nil {
		return nil, err
	}
	if p.bounded, err = mountMemory(root); err != nil {
		return nil, err
	}
	p.dir = filepath.Join(root, "fleet")
	return p, p.open(j)
}

// mountPoint is a folder that every machine has and that can be covered: what is mounted there belongs to nobody else in this namespace, and
// no folder has to be made and removed outside of it. What the generator needs must not lie below it.
func (j *job) mountPoint() (string, error) {
	needed := []string{j.Project, j.Request.Program}
	if j.Request.Sandbox == SandboxNone {
		needed = append(needed, j.as().Home)
	}
	for _, dir := range [...]string{"/dev/shm", "/mnt", "/media", "/srv"} {
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() && !slices.ContainsFunc(needed, func(path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }) {
			return dir, nil
		}
	}
	return "", errors.New("there is none of /dev/shm, /mnt, /media and /srv to mount a file system on")
}

// mountMemory mounts what is never swapped out. It says whether that has bounds.
func mountMemory(dir string) (bounded bool, err error) {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	options := fmt.Sprintf("mode=1777,size=%d,nr_inodes=%d", maxPlaceBytes, maxPlaceFiles)
	// noswap is known since Linux 6.4, and allowed to real root alone.
	tmpfsErr := unix.Mount("fleet-step", dir, "tmpfs", flags, options+",noswap")
	if tmpfsErr == nil {
		return true, nil
	}
	if err := unix.Mount("fleet-step", dir, "ramfs", flags, "mode=1777"); err != nil {
		return false, fmt.Errorf("mount a file system in memory: tmpfs without swap: %w; ramfs: %w", tmpfsErr, err)
	}
	return false, nil
}

// open makes the folder. It belongs to the generator's user.
func (p *place) open(j *job) error {
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return err
	}
	var err error
	if p.fd, err = unix.Open(p.dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", p.dir, err)
	}
	return p.give(j, "")
}

// give makes something in the folder the generator's own.
func (p *place) give(j *job, name string) error {
	if !j.switches() {
		return nil
	}
	return os.Lchown(filepath.Join(p.dir, name), int(j.User.UID), int(j.User.GID))
}

// fill puts into the folder what the generator finds there.
func (p *place) fill(j *job) error {
	for _, dir := range [...]string{"out", "deps", "tmp", "shm", "bin", "etc"} {
		if err := errors.Join(os.Mkdir(filepath.Join(p.dir, dir), 0o700), p.give(j, dir)); err != nil {
			return err
		}
	}
	return errors.Join(p.fillBin(j), p.fillDeps(j), p.fillEtc(j))
}

// fillBin makes `gh` and `encrypt`: this very program. It is mounted where that is possible, since neither the generator's user nor its
// sandbox needs to reach where it lies.
func (p *place) fillBin(j *job) error {
	helper := filepath.Join(p.dir, "bin", helperName)
	if j.Mode == modeFolder {
		executable, err := os.Executable()
		if err == nil {
			err = os.Symlink(executable, helper)
		}
		if err != nil {
			return err
		}
	} else {
		if err := os.WriteFile(helper, nil, 0o500); err != nil {
			return err
		}
		if err := unix.Mount("/proc/self/exe", helper, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount the helper into the folder: %w", err)
		}
	}
	for _, name := range [...]string{"gh", "encrypt"} {
		if err := os.Symlink(helperName, filepath.Join(p.dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *place) fillDeps(j *job) error {
	for _, alias := range slices.Sorted(maps.Keys(j.Inputs)) {
		dir := filepath.Join("deps", alias)
		if err := errors.Join(os.Mkdir(filepath.Join(p.dir, dir), 0o700), p.give(j, dir)); err != nil {
			return err
		}
		for part, value := range j.Inputs[alias] {
			file := filepath.Join(dir, part)
			if err := errors.Join(os.WriteFile(filepath.Join(p.dir, file), value, 0o400), p.give(j, file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillEtc makes the few files of /etc that programs in a sandbox expect.
func (p *place) fillEtc(j *job) error {
	as := j.as()
	passwd := fmt.Sprintf("generator:x:%d:%d::%s:/bin/sh\n", as.UID, as.GID, sandboxDir)
	group := fmt.Sprintf("generator:x:%d:\n", as.GID)
	if as.UID != 0 {
		passwd, group = "root:x:0:0::/:/bin/sh\n"+passwd, "root:x:0:\n"+group
	}
	for name, text := range map[string]string{
		"passwd": passwd, "group": group, "hosts": "127.0.0.1 localhost\n::1 localhost\n", "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		file := filepath.Join("etc", name)
		if err := errors.Join(os.WriteFile(filepath.Join(p.dir, file), []byte(text), 0o444), p.give(j, file)); err != nil {
			return err
		}
	}
	return nil
}

// watch ends the generator when it writes more than it may to a file system that would take it all.
func (p *place) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	if p.bounded {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			size := usage{}
			size.add(p.dir)
			if size.bytes > maxPlaceBytes || size.files > maxPlaceFiles {
				cancel(fmt.Errorf("it wrote more than %d files or %d MiB, and was killed", maxPlaceFiles, maxPlaceBytes>>20))
				return
			}
		}
	}
}

// usage counts what is in a folder, and stops when that is too much.
type usage struct{ files, bytes int64 }

func (u *usage) add(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return // gone meanwhile
	}
	defer f.Close()
	for u.files <= maxPlaceFiles && u.bytes <= maxPlaceBytes {
		names, err := f.Readdirnames(512)
		for _, name := range names {
			u.files++
			var st unix.Stat_t
			switch path := filepath.Join(dir, name); {
			case unix.Lstat(path, &st) != nil:
			case st.Mode&unix.S_IFMT == unix.S_IFDIR:
				u.add(path)
			case name != helperName:
				u.bytes += st.Blocks * 512
			}
		}
		if err != nil {
			return
		}
	}
}

// killNamespace kills all other processes of our pid namespace, whose first process we are, and waits until they are gone.
func killNamespace() error {
	if os.Getpid() != 1 {
		return errors.New("kill what the generator left: this is not the first process of its namespace")
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if err := unix.Kill(-1, unix.SIGKILL); errors.Is(err, unix.ESRCH) {
			return nil
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
		if time.Now().After(end) {
			return errors.New("the generator left a process that does not end after SIGKILL")
		}
		time.Sleep(time.Millisecond)
	}
}
