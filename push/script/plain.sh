#!/bin/sh
# Runs Nix's own programs, as the login user, for a push without the helper. Arguments: the marker, what to do, and for "root" the
# name of the GC root and its path. What comes after the marker's line is the program's.
LC_ALL=C
export LC_ALL
PATH="$PATH:/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:${HOME:-}/.nix-profile/bin:/usr/local/bin:/usr/bin:/bin"
printf '%s\n' "$1"
case $2 in
serve)
	exec nix-store --serve --write
	;;
missing)
	exec xargs nix-store --check-validity --print-invalid
	;;
import)
	exec nix-store --import >/dev/null
	;;
root)
	# Where the helper's agent makes it, too.
	if [ "$(id -u)" = 0 ]; then
		dir=/nix/var/nix/gcroots/fleet
		# Only then is it certain that nobody has collected it before.
		mkdir -p "$dir" && ln -sfn "$4" "$dir/$3" && exec nix-store --check-validity "$4"
	else
		dir=${HOME:?}/.local/state/fleet/gcroots
		mkdir -p "$dir" && exec nix-store --realise "$4" --add-root "$dir/$3" --indirect >/dev/null
	fi
	exit 1
	;;
esac
