#!/bin/sh
# A host for the tests of package push: an sshd in namespaces of its own, with a private /nix, /etc, /home, /run, /tmp and
# private users, so that nothing of the machine is changed and missing paths are really missing. Run by
# unshare -m -p -f --kill-child --mount-proc, as root. Arguments: the lab's folder (with host_key and authorized_keys), the
# folder of this host below it, the port, the size of the store's file system ("none": no /nix/var/nix),
# "daemon" or "root" (no daemon), and further lines for nix.conf.
set -eu
lab=$1
host=$2
port=$3
size=$4
nix=$5
conf=$6

mount --make-rprivate /
mkdir -p "$host/private"
mount -t tmpfs -o mode=0755 private "$host/private"
cd "$host/private"
mkdir nix etc home run tmp log sudo
chmod 1777 tmp
cp -a /etc/. etc/
if [ "$size" != none ]; then
	mount -t tmpfs -o "mode=0755,size=$size" store nix
	mkdir -p nix/store nix/var/nix
	chmod 1775 nix/store
fi
for dir in nix etc home run tmp; do
	mount --bind "$dir" "/$dir"
done
mount --bind log /var/log
mount --bind sudo /var/lib/sudo
mkdir -p /run/sshd

# Everybody's password is "right"; the name says what a user may do.
hash=$(openssl passwd -6 right)
uid=4000
for user in sudoer free tty pty plain doas freedoas serves imports one two; do
	uid=$((uid + 1))
	printf '%s:x:%s:%s::/home/%s:/bin/sh\n' "$user" "$uid" "$uid" "$user" >>/etc/passwd
	printf '%s:x:%s:\n' "$user" "$uid" >>/etc/group
	printf '%s:%s:19000:0:99999:7:::\n' "$user" "$hash" >>/etc/shadow
	mkdir "/home/$user"
	chown "$uid:$uid" "/home/$user"
done
cat >/etc/sudoers <<'SUDOERS'
Defaults env_reset
Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"
Defaults:tty requiretty
Defaults:pty use_pty
root ALL=(ALL:ALL) ALL
sudoer ALL=(ALL:ALL) ALL
free ALL=(ALL:ALL) NOPASSWD: ALL
one ALL=(ALL:ALL) NOPASSWD: ALL
two ALL=(ALL:ALL) NOPASSWD: ALL
tty ALL=(ALL:ALL) ALL
pty ALL=(ALL:ALL) ALL
SUDOERS
chmod 0440 /etc/sudoers
printf 'permit doas as root\npermit nopass freedoas as root\n' >/etc/doas.conf
chmod 0400 /etc/doas.conf
sed -i 's/pam_unix.so nullok/pam_unix.so nullok nodelay/' /etc/pam.d/common-auth
mkdir -p /etc/nix
printf 'sandbox = false\nbuild-users-group =\nsubstitute = false\n%s\n' "$conf" >/etc/nix/nix.conf

if [ "$size" != none ] && [ "$nix" = daemon ]; then
	nix-daemon --daemon >"$host/nix-daemon.log" 2>&1 </dev/null &
fi
cat >"$host/sshd_config" <<SSHD
ListenAddress 127.0.0.1:$port
HostKey $lab/host_key
AuthorizedKeysFile $lab/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
LogLevel ERROR
PrintLastLog no
MaxStartups 100
UseDNS no
SetEnv PATH=/usr/local/bin:/usr/bin:/bin
Match User serves
ForceCommand nix-store --serve --write
Match User imports
SetEnv PATH=/home/imports:/usr/local/bin:/usr/bin:/bin
Match User one
MaxSessions 1
Match User two
MaxSessions 2
SSHD
# A Nix that serves nobody.
cat >/home/imports/nix-store <<'STORE'
#!/bin/sh
if [ "$1" = --serve ]; then echo "this host serves nobody" >&2; exit 1; fi
PATH=${PATH#*:} exec nix-store "$@"
STORE
chmod 0755 /home/imports/nix-store
exec /usr/sbin/sshd -D -e -f "$host/sshd_config"
