package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	superviseEnv = "FLEET_TESTBED_SUPERVISE"
	repoEnv      = "FLEET_TESTBED_REPO"
)

// Supervise runs a host's supervisor if this process was started to be one, and says whether it was. Programs
// that start hosts (this includes test binaries, in their TestMain) call it first.
func Supervise() bool {
	name, ok := os.LookupEnv(superviseEnv)
	if !ok {
		return false
	}
	labName, hostName, _ := strings.Cut(name, "/")
	l, err := Open(labName, os.Getenv(repoEnv))
	if err == nil {
		var h *Host
		if h, err = l.Host(hostName); err == nil {
			err = h.supervise()
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testbed: supervise %s: %v\n", name, err)
		os.Exit(1)
	}
	return true
}

// supervise boots the host again and again, until it powers off.
func (h *Host) supervise() error {
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, unix.SIGTERM)
	for {
		select {
		case <-stopped:
			return nil
		default:
		}
		rebooted, err := h.bootOnce()
		if err != nil || !rebooted {
			return err
		}
		fmt.Println("testbed: reboot")
	}
}

// bootOnce runs PID 1 until it ends. The kernel ends the init of a PID namespace by SIGHUP for a reboot and by SIGINT for a power-off (reboot(2)).
func (h *Host) bootOnce() (rebooted bool, err error) {
	image, err := os.ReadFile(h.path("image"))
	if err != nil {
		return false, err
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return false, err
	}
	group, err := h.makeCgroup()
	if err != nil {
		return false, err
	}
	defer group.Close()
	cmd := exec.Command("sh", "-euc", bootScript, "sh", string(image), h.path(), strings.TrimSpace(string(bootID)), h.Spec.StoreSize,
		flag(h.Spec.NoDaemon), flag(h.Spec.NoNix), h.Name)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=other"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
		Setsid:      true,
	}
	if err := startInNetNS(cmd, filepath.Join(netnsDir, h.netNS())); err != nil {
		return false, err
	}
	if err := os.WriteFile(h.path("init.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return false, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
		fmt.Println("testbed: PID 1 ended by", exit.Sys().(syscall.WaitStatus).Signal())
		return exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGHUP, nil
	}
	return false, err
}

// startInNetNS starts a process in another network namespace: the thread enters it, and a child inherits its thread's namespaces.
func startInNetNS(cmd *exec.Cmd, netns string) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and the namespace with it.
		runtime.LockOSThread()
		f, err := os.Open(netns)
		if err == nil {
			defer f.Close()
			if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
				err = cmd.Start()
			}
		}
		result <- err
	}()
	return <-result
}

// bootScript is the host's stage 1: it runs as PID 1 of new namespaces, assembles the file system and becomes systemd.
// Arguments: image, host folder, boot id, size of /nix or empty, no daemon, no Nix, host name.
const bootScript = `
image=$1 dir=$2 bootid=$3 storesize=$4 nodaemon=$5 nonix=$6 name=$7
root=$dir/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$image,upperdir=$dir/upper,workdir=$dir/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
if [ -n "$storesize" ]; then
  mkdir -p "$dir/nix"
  mountpoint -q "$dir/nix" || :
  mount -t tmpfs -o "size=$storesize,mode=755" tmpfs "$dir/nix"
  cp -a "$root/nix/." "$dir/nix/"
  mount --move "$dir/nix" "$root/nix"
fi
if [ "$nonix" = 1 ]; then
  mount -t tmpfs -o mode=755 tmpfs "$root/nix"
  nodaemon=1
  ln -sf /dev/null "$root/etc/tmpfiles.d/nix-daemon.conf"
fi
if [ "$nodaemon" = 1 ]; then
  ln -sf /dev/null "$root/etc/systemd/system/nix-daemon.socket"
  ln -sf /dev/null "$root/etc/systemd/system/nix-daemon.service"
fi
echo "$bootid" >"$root/run/.boot-id"
mount --bind "$root/proc/sys/kernel" "$root/proc/sys/kernel"
mount -o remount,bind,ro "$root/proc/sys/kernel"
mount --bind "$root/run/.boot-id" "$root/proc/sys/kernel/random/boot_id"
hostname "$name"
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old 2>/dev/null || :
# In a container systemd leaves this to the manager, and credentials of units are mounted by a child with mounts of its own.
mount --make-rshared /
if [ -x /usr/local/lib/fleet-testbed/boot-stage ]; then
  /usr/local/lib/fleet-testbed/boot-stage || echo "testbed: boot-stage failed"
fi
exec setpriv --bounding-set=-sys_time,-sys_module --inh-caps=-sys_time,-sys_module /lib/systemd/systemd
`

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// cgroup is the host's group, as /proc/PID/cgroup spells it.
func (h *Host) cgroup() string { return "/fleet-testbed/" + h.lab.Name + "-" + h.Name }

// cgroupDir finds the mount of cgroup 2: an ordinary Debian has it at /sys/fs/cgroup, a hybrid one beside the old hierarchies.
func (h *Host) cgroupDir() string {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err == nil {
			if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
				return mount + h.cgroup()
			}
		}
	}
	return "/sys/fs/cgroup/unified" + h.cgroup()
}

func (h *Host) makeCgroup() (*os.File, error) {
	if err := os.MkdirAll(h.cgroupDir(), 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return os.Open(h.cgroupDir())
}

// killCgroup kills every process of the host, and of its sub-groups.
func (h *Host) killCgroup() error {
	err := os.WriteFile(filepath.Join(h.cgroupDir(), "cgroup.kill"), []byte("1"), 0o200)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// removeCgroup removes the host's empty groups; the kernel may take a moment to empty them.
func (h *Host) removeCgroup(ctx context.Context) {
	for range 100 {
		_, _ = command(ctx, "find", h.cgroupDir(), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")
		if _, err := os.Stat(h.cgroupDir()); os.IsNotExist(err) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
