#!/bin/sh
# Takes the helper's export from the standard input into a fresh folder of the login user. Arguments: the marker,
# the number of bytes on the wire, the number of bytes of the export, and gzip or cat.
# The folder lives as long as this channel: when our end closes it, or the connection breaks, it is gone.
LC_ALL=C
export LC_ALL
umask 077
PATH="$PATH:/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/bin:/usr/bin:/bin"
marker=$1
wire=$2
size=$3
unpack=$4

dir=$(mktemp -d "${TMPDIR:-/tmp}/fleet.XXXXXXXXXX") || {
	printf '%s error=%s\n' "$marker" mktemp
	exit 1
}
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT PIPE TERM

if [ "$unpack" = gzip ]; then
	head -c "$wire" | gzip -dc >"$dir/export"
else
	head -c "$wire" >"$dir/export"
fi
have=$(wc -c <"$dir/export")
if [ "$have" -ne "$size" ]; then
	printf '%s error=%s\n' "$marker" short
	exit 1
fi
printf '%s dir=%s\n' "$marker" "$dir"
cat >/dev/null
