//go:build cluster

package cluster

import (
	"testing"
)

// small puts a file system of this size over a folder of the host, with what is in the folder.
func (i *incident) small(dir, size string) {
	i.t.Helper()
	on(i.t, i.h, `mkdir -p /mnt/small && mount -t tmpfs -o mode=755,size=`+size+` tmpfs /mnt/small && cp -a `+dir+`/. /mnt/small/ && mount --bind /mnt/small `+dir+` && umount /mnt/small`)
	i.undo(func() {
		// What was written meanwhile is kept; a reboot has ended the file system, and what was in it.
		on(i.t, i.h, `mountpoint --quiet `+dir+` || exit 0; rm -f `+dir+`/filler; mount --bind `+dir+` /mnt/small; umount --lazy `+dir+`
find `+dir+` -mindepth 1 -delete; cp -a /mnt/small/. `+dir+`/; umount --lazy /mnt/small`)
	})
}

// fill leaves no byte of the file system that a folder is on.
func fill(dir string) string {
	return `dd if=/dev/zero of=` + dir + `/filler bs=64k 2>/dev/null || true; dd if=/dev/zero of=` + dir + `/filler bs=1 oflag=append conv=notrunc count=65536 2>/dev/null || true`
}

func TestGuardOnAFullDisk(t *testing.T) {
	f := newField(t)
	nothing, either := []ending{endNothing}, []ending{endNew, endOld}
	f.try(
		trial{fault: "the boot partition is full before the activation", want: nothing, code: 3, says: []string{"boot-space"}, before: func(i *incident) {
			i.small("/boot", "4m")
			i.sh(fill("/boot"))
		}},
		trial{fault: "the boot partition becomes full before the commit", want: either, before: func(i *incident) { i.small("/boot", "64m") }, guard: map[string]any{"soak": 2}, during: func(i *incident) {
			i.reach(judging)
			i.sh(fill("/boot"))
		}},
		trial{fault: "/var is full from before the activation on", want: either, before: func(i *incident) {
			i.small("/var", "256m")
			i.sh(fill("/var"))
		}},
		trial{fault: "/run becomes full during the activation", want: either, with: hostSpec{SlowSeconds: 3}, during: func(i *incident) {
			i.reach(switching)
			i.undo(func() { on(i.t, i.h, "rm -f /run/filler /run/fleet/filler") })
			on(i.t, i.h, "mkdir -p /run/fleet && mount -o remount,size=$(($(df --output=used /run | tail -n 1) + 1024))k /run")
			i.undo(func() { on(i.t, i.h, "mount -o remount,size=512m /run") })
			i.sh(fill("/run"))
		}},
	)
}

func TestGuardWithAFullStore(t *testing.T) {
	t.Parallel()
	h := boot(t, "guardsmall", labSpec(".61", "256m"))
	f := fieldOn(t, h)
	f.try(
		trial{fault: "/nix is full before the activation", want: []ending{endNothing}, code: 3, before: func(i *incident) {
			i.undo(func() { on(i.t, i.h, "rm -f /nix/filler") })
			i.sh(fill("/nix"))
		}},
		trial{fault: "/nix becomes full during the activation", want: []ending{endNew, endOld}, with: hostSpec{SlowSeconds: 2}, during: func(i *incident) {
			i.undo(func() { on(i.t, i.h, "rm -f /nix/filler") })
			i.reach(switching)
			i.sh(fill("/nix"))
		}},
		trial{fault: "/nix becomes full while the confirmation is waited for", want: []ending{endNew, endOld}, guard: map[string]any{"soak": 1}, during: func(i *incident) {
			i.undo(func() { on(i.t, i.h, "rm -f /nix/filler") })
			i.reach(judging)
			i.sh(fill("/nix"))
		}},
	)
}
