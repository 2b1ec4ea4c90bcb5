package agent

import (
	"context"
	"runtime"

	"golang.org/x/sys/unix"

	"fleet/push/proto"
)

// info looks at the host. What cannot be read is left empty, except for the Nix daemon: without it nothing else works.
func (s *session) info(ctx context.Context) (proto.HostInfo, error) {
	h := s.host
	conn, err := s.borrow(ctx)
	if err != nil {
		return proto.HostInfo{}, err
	}
	defer s.giveBack(conn)
	known, trusted := conn.Trusted()
	if !known {
		trusted = h.Root() // Nix before 2.15 does not say; it trusts root unless it is told not to
	}
	free, err := storeFree()
	if err != nil {
		return proto.HostInfo{}, err
	}
	lock, err := h.LockHolder()
	if err != nil {
		return proto.HostInfo{}, err
	}
	systems := h.systems()
	var open *proto.TxnStatus
	if txn, o, e, err := h.openTxn(); err == nil && txn != "" {
		st := h.statusOf(o, e)
		open = &st
	}
	return proto.HostInfo{
		System: nixSystem(), NixVersion: oneLine(conn.NixVersion()), Root: h.Root(), Trusted: trusted, TrustUnknown: !known && !h.Root(),
		BootID: h.bootID(), CPUs: runtime.NumCPU(), Current: systems.current.String(), Booted: systems.booted.String(),
		Profile: systems.profile.String(), BootDefault: systems.boot.Toplevel.String(), Generation: systems.generation,
		StoreFree: free, SpoolFree: spoolFree(h.Temp), Lock: lock, Unfinished: h.undone(), Open: open,
	}, nil
}

// nixSystem is Nix's name of this machine: the kernel's architecture, since a helper for armv6l also runs on armv7l.
func nixSystem() string {
	var name unix.Utsname
	arch := ""
	if unix.Uname(&name) == nil {
		arch = unix.ByteSliceToString(name.Machine[:])
	}
	switch {
	case runtime.GOARCH == "386" || arch == "i586":
		arch = "i686"
	case runtime.GOARCH == "arm" && arch == "aarch64", arch == "armv8l":
		arch = "armv7l"
	case arch == "":
		arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	}
	return arch + "-" + runtime.GOOS
}
