package run

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// LimitSelf sets limits on the calling process, for a binary that runs itself as a bounded child: it
// calls this before it touches foreign input.
func LimitSelf(limits Limits) error {
	for _, limit := range limits.list() {
		if err := unix.Setrlimit(limit.resource, &limit.value); err != nil {
			return fmt.Errorf("set limits: %w", err)
		}
	}
	return nil
}

// ForbidCores keeps the memory of the calling process, and of all that it starts, out of core dumps. The limit is 1 and not 0, since a program that
// collects dumps is told apart by that: core(5) says of 0 only that no file is written. Where the limit is 0 already, as below sudo, it cannot be raised.
func ForbidCores() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	limit.Max = min(limit.Max, 1)
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

type resourceLimit struct {
	resource int
	value    unix.Rlimit
}

func (l *Limits) list() []resourceLimit {
	var list []resourceLimit
	if l.CPU > 0 {
		seconds := uint64((l.CPU + time.Second - 1) / time.Second)
		// The soft limit sends SIGXCPU, which a program may ignore; the hard one kills.
		list = append(list, resourceLimit{unix.RLIMIT_CPU, unix.Rlimit{Cur: seconds, Max: seconds}})
	}
	if l.AddressSpace > 0 {
		list = append(list, resourceLimit{unix.RLIMIT_AS, unix.Rlimit{Cur: l.AddressSpace, Max: l.AddressSpace}})
	}
	return list
}
