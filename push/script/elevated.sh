#!/bin/sh
# Makes the helper valid and starts the agent. Runs as root, or as the login user where nothing elevates it.
# Arguments: the marker, the helper's store path, the folder of its export (-: none was sent), the export's size
# and SHA-256, "solo" where the export holds one path alone, and then the agent's command line.
# The folder belongs to the login user, so nothing in it is used before it was copied and its hash compared.
LC_ALL=C
export LC_ALL
PATH=/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
marker=$1
helper=$2
dir=$3
size=$4
sum=$5
solo=$6
shift 6
exec </dev/null

say() {
	printf '%s %s=%s\n' "$marker" "$1" "$2"
}
fail() {
	say error "$1"
	exit 1
}

# Only a root keeps the helper while garbage is collected: the collections that run already hear of it through Nix,
# and those that begin from now on see the link. No closure's root can have its name. Succeeds where the helper is valid, as far as
# a root can tell.
root=/nix/var/nix/gcroots/fleet/.helper
keep() {
	[ "$(id -u)" = 0 ] || return 1
	mkdir -p "${root%/*}" || fail root
	ln -sfn "$helper" "$root" || fail root
	nix-store --realise "$helper" --option substitute false --add-root "$root" >/dev/null 2>&1
}

say started yes
command -v nix-store >/dev/null || fail nix
if keep || nix-store --check-validity "$helper" 2>/dev/null; then
	:
elif [ "$dir" = - ]; then
	say need helper
	exit 0
else
	tmp=$(umask 077 && mktemp -d /tmp/fleet-root.XXXXXXXXXX) || fail mktemp
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 1' HUP INT PIPE TERM
	head -c "$size" "$dir/export" >"$tmp/export" || fail copy
	have=$(sha256sum <"$tmp/export") || fail copy
	[ "${have%% *}" = "$sum" ] || fail hash
	if nix-store --import <"$tmp/export" >/dev/null; then
		:
	elif [ "$(id -u)" != 0 ] && [ "$solo" = solo ]; then
		# A user whom the daemon does not trust cannot import it; the helper is one static file, so it also runs from here.
		tail -c +9 "$tmp/export" | nix-store --restore "$dir/helper" || fail import
		helper=$dir/helper
	else
		fail import
	fi
	rm -rf "$tmp"
	trap - EXIT HUP INT PIPE TERM
fi
say helper "$helper"
printf '%s ready=' "$marker"
exec "$helper/bin/fleet-helper" "$@"
