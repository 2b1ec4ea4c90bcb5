#!/bin/sh
# Looks at a host as the login user and changes nothing. Arguments: the marker (random) and the helper (a store path, or empty).
# Every line of the answer begins with the marker, so that what login shells print of themselves is told apart. Runs on
# NixOS and Debian.
LC_ALL=C
export LC_ALL
marker=$1
helper=$2
PATH="$PATH:/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

say() {
	printf '%s %s=%s\n' "$marker" "$1" "$2"
}
holds() {
	if test "$@"; then echo yes; else echo no; fi
}
where() {
	command -v "$1" || true
}

say uid "$(id -u)"
say user "$(id -un)"
say os "$(uname -s)"
say machine "$(uname -m)"
say store "$(holds -d /nix/store)"
say state "$(holds -d /nix/var/nix)"
say systemd "$(holds -d /run/systemd/system)"

daemon=no
if [ -S /nix/var/nix/daemon-socket/socket ]; then
	daemon=denied
	if [ -w /nix/var/nix/daemon-socket/socket ]; then daemon=yes; fi
fi
say daemon "$daemon"

# Nix uses a store that it may write to without the daemon.
say own "$(holds -w /nix/var/nix)"

# A path that is there need not be valid: whoever starts it checks that.
found=missing
if [ -n "$helper" ] && [ -x "$helper/bin/fleet-helper" ]; then found=there; fi
say helper "$found"

for tool in sudo doas run0 gzip; do
	say "$tool" "$(where "$tool")"
done
say end yes
