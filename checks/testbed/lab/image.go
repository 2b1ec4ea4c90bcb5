package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Image is a root file system that hosts use as the lower layer of their overlays. Nothing may write into it once it is made.
type Image struct {
	// Root is the folder with the file system.
	Root string
}

// packages are what an image holds beside Debian's minimal set: what a host needs to be deployed
// to (systemd, sshd, Nix, the three ways to become root), what an operator needs (git, ssh), and what generators of secrets
// run in and call (bubblewrap, openssl, mkpasswd of whois).
const packages = "systemd,systemd-sysv,libpam-systemd,dbus,polkitd,openssh-server,openssh-client,nix-bin,nix-setup-systemd," +
	"sudo,opendoas,iproute2,iputils-ping,nftables,procps,zstd,git,less,bubblewrap,openssl,whois"

// tokenPackages are an HSM in software and what talks to it: openssl by its provider, or by its engine, as older configurations do. Debian
// 12 does not have all of them.
const tokenPackages = ",softhsm2,opensc,pkcs11-provider,libengine-pkcs11-openssl"

// EnsureImage returns the image of a Debian suite, and makes it first where it is missing or was made by another recipe.
// It takes half a minute then, and needs Debian's package archive.
func EnsureImage(ctx context.Context, stateDir, suite string, say func(string)) (*Image, error) {
	packages := packages
	if suite != "bookworm" {
		packages += tokenPackages
	}
	sum := sha256.Sum256([]byte(suite + packages + customize))
	dir := filepath.Join(stateDir, "images", suite+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	unlock, err := flock(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return &Image{Root: dir}, nil
	}
	say("making the root file system of " + suite + " (half a minute, once)")
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	hook := filepath.Join(stateDir, "images", "customize-"+suite+".sh")
	if err := os.WriteFile(hook, []byte(customize), 0o755); err != nil {
		return nil, err
	}
	// The lists of unstable are meant for a week, and a mirror of the archive may be older than that; they are signed in any case.
	out, err := command(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+packages, `--aptopt=Acquire::Check-Valid-Until "false"`,
		"--customize-hook="+hook+" \"$1\"", suite, tmp)
	if err != nil {
		return nil, fmt.Errorf("make image of %s: %w\n%s", suite, err, lastLines(out, 20))
	}
	return &Image{Root: dir}, os.Rename(tmp, dir)
}

// customize prepares the file system: identities are removed (each host gets its own), and one user
// exists for every way of becoming root that the product knows.
const customize = `#!/bin/sh
set -eu
root=$1
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/machine-id "$root"/var/lib/dbus/machine-id "$root"/etc/hostname
: >"$root/etc/machine-id"
: >"$root/etc/NIXOS"
mkdir -p "$root/boot" "$root/usr/local/lib/fleet-testbed" "$root/root/.ssh" "$root/nix/store"
chmod 700 "$root/root/.ssh"
for unit in systemd-modules-load.service getty@tty1.service console-getty.service serial-getty@.service getty.target \
  systemd-networkd.service systemd-timesyncd.service systemd-udevd.service systemd-udev-trigger.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service \
  ssh.socket sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount systemd-random-seed.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf /usr/lib/systemd/system/ssh.service "$root/etc/systemd/system/multi-user.target.wants/ssh.service"
cat >"$root/etc/ssh/sshd_config.d/testbed.conf" <<'EOF'
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxStartups 100
MaxSessions 20
EOF
cat >"$root/etc/nix/nix.conf" <<'EOF'
sandbox = false
substituters =
experimental-features = nix-command flakes
warn-dirty = false
trusted-users = root
EOF
for user in sudoer asker doas doasnopw runner plain; do
  chroot "$root" useradd --create-home --shell /bin/bash --groups nix-users "$user"
done
# The passwords are public: these hosts live for the length of a test, in namespaces of their own.
chroot "$root" chpasswd <<'EOF'
asker:correct horse
doas:correct horse
runner:correct horse
EOF
cat >"$root/etc/sudoers.d/testbed" <<'EOF'
Defaults passwd_tries=3
sudoer ALL=(ALL:ALL) NOPASSWD: ALL
asker ALL=(ALL:ALL) ALL
EOF
chmod 440 "$root/etc/sudoers.d/testbed"
cat >"$root/etc/doas.conf" <<'EOF'
permit doas
permit nopass doasnopw
EOF
chmod 600 "$root/etc/doas.conf"
mkdir -p "$root/etc/polkit-1/rules.d"
cat >"$root/etc/polkit-1/rules.d/50-testbed.rules" <<'EOF'
polkit.addRule(function(action, subject) {
  if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "runner")
    return polkit.Result.AUTH_SELF;
});
EOF
rm -rf "$root"/var/cache/apt/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
`

// flock takes an exclusive lock on a file and returns what gives it back.
func flock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
