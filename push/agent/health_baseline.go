package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// maxBaseline bounds a baseline as JSON, in bytes: it is part of one record of the journal.
	maxBaseline = 20 << 10
	// loopRestarts and loopAge tell a unit that is started again over and over from one that was once.
	loopRestarts = 3
	loopAge      = 2 * time.Minute
	// restartPatience is how long units that are started again may take.
	restartPatience = time.Minute
)

// Baseline is what ran before an activation. It is part of a journal's first record, so it is bounded.
type Baseline struct {
	// Active are the units that ran and that some file declares, Failed those that had failed or were started again over and over.
	Active []string `json:"active,omitempty"`
	Failed []string `json:"failed,omitempty"`
	// Restarts are systemd's counts of automatic restarts, of the units that have been restarted.
	Restarts map[string]uint32 `json:"restarts,omitempty"`
	// SSHPorts are the TCP ports that an SSH server listened on.
	SSHPorts []uint16 `json:"sshPorts,omitempty"`
}

// TakeBaseline looks at the units of the host. It waits some seconds for a systemd that is away.
func (h *Host) TakeBaseline(ctx context.Context) (Baseline, error) {
	m, ok := h.Units.(manager)
	if !ok {
		return Baseline{}, nil
	}
	now, err := look(ctx, m)
	if err != nil {
		return Baseline{}, fmt.Errorf("look at what runs: %w", err)
	}
	b := baselineOf(now)
	for name, n := range b.Restarts {
		if n < loopRestarts || slices.Contains(b.Failed, name) {
			continue
		}
		// It may just be up between two failures.
		f, err := m.facts(ctx, name)
		if err != nil {
			return Baseline{}, fmt.Errorf("look at what runs: %w", err)
		}
		if f.ActiveFor < loopAge {
			b.Failed = append(b.Failed, name)
		}
	}
	slices.Sort(b.Failed)
	if b.SSHPorts, err = h.sshPorts(ctx, m); err != nil {
		return Baseline{}, fmt.Errorf("look for SSH servers: %w", err)
	}
	return b.bounded(), nil
}

// baselineOf keeps what an activation can have an influence on: no devices and mounts, which come and go, and no sessions.
func baselineOf(now sight) Baseline {
	b := Baseline{Restarts: now.restarts}
	for _, name := range slices.Sorted(maps.Keys(now.units)) {
		u := now.units[name]
		switch {
		case ownUnit(name, u) || strings.HasSuffix(name, ".scope"):
		case u.failed():
			b.Failed = append(b.Failed, name)
		case u.Active == "active" && u.Load == "loaded" && !u.Transient && comesBack(name):
			b.Active = append(b.Active, name)
		}
	}
	return b
}

// comesBack says whether a unit that runs is one that the system itself would start.
func comesBack(name string) bool {
	for _, prefix := range []string{"user@", "user-runtime-dir@", "session-", "sshd@", "ssh@", "systemd-coredump@"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return unitRank(name) >= 0
}

// unitRank orders types of units by how much is lost where one of them is not in a baseline; -1 are those that never are.
func unitRank(name string) int {
	return slices.Index([]string{".automount", ".swap", ".path", ".timer", ".target", ".socket", ".service"}, name[strings.LastIndexByte(name, '.'):])
}

// bounded drops what matters least until the rest fits.
func (b Baseline) bounded() Baseline {
	for rank := 0; !b.fits() && len(b.Active) > 0; rank++ {
		b.Active = slices.DeleteFunc(b.Active, func(name string) bool { return unitRank(name) <= rank && unitRank(name) < unitRank(".service") })
		if rank >= unitRank(".service") {
			b.Active = b.Active[:len(b.Active)*3/4]
		}
	}
	for !b.fits() && len(b.Failed) > 0 {
		b.Failed = b.Failed[:len(b.Failed)*3/4]
	}
	if !b.fits() {
		b.Restarts = nil
	}
	return b
}

func (b Baseline) fits() bool {
	text, err := json.Marshal(b)
	return err == nil && len(text) <= maxBaseline
}

// RestoreUnits starts once what ran before and is missed now, and returns the names of what still is. Units that ignore covers do not count. It takes
// a good minute at most.
func (h *Host) RestoreUnits(ctx context.Context, b Baseline, ignore []string, log func(string)) []string {
	m, ok := h.Units.(manager)
	if !ok {
		return nil
	}
	x := &examiner{Trial: Trial{Baseline: b}, host: h, manager: m, voice: &voice{say: log}}
	x.tree = treeOf(h.toplevelOf(x.Trial))
	absent, err := x.absent(ctx, ignore)
	if err != nil {
		x.say("what runs cannot be looked at: %v", err)
		return []string{"systemd"}
	}
	if len(absent) == 0 {
		return nil
	}
	x.say("start again: %s", strings.Join(absent, ", "))
	starting, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	if err := m.start(starting, absent); err != nil {
		x.say("%v", err)
	}
	if absent, err = x.absent(ctx, ignore); err != nil {
		x.say("what runs cannot be looked at: %v", err)
	}
	return absent
}

// absent are the units of the baseline that are missed, and those that are in a state in which they do nothing.
func (x *examiner) absent(ctx context.Context, ignore []string) ([]string, error) {
	now, err := look(ctx, x.manager)
	if err != nil {
		return nil, err
	}
	var absent []string
	for _, name := range x.Baseline.Active {
		u := now.units[name]
		if u.runs() || u.Job || ignores(ignore, name) {
			continue
		}
		f, err := x.manager.facts(ctx, name)
		if err != nil {
			return absent, err
		}
		yes, why := missed(name, f, x.tree, now)
		if u.failed() && !f.State.runs() || yes {
			absent = append(absent, name)
			continue
		}
		x.say("unit %s ran before and does not run: %s", name, why)
	}
	return absent, nil
}

// readTail reads the last bytes of a regular file.
func readTail(path string, limit int64) (string, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	text := make([]byte, min(limit, info.Size()))
	n, err := f.ReadAt(text, max(0, info.Size()-limit))
	if n == 0 && err != nil && len(text) > 0 {
		return "", err
	}
	return string(text[:n]), nil
}
