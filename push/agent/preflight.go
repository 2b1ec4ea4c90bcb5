package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/push/guard"
	"fleet/push/proto"
)

// The checks before an activation, by the names that skip them; those of the boot loader have names of their own. None changes anything.
const (
	checkValidity   = "validity"
	checkOldSystem  = "old-system"
	checkSpace      = "space"
	checkInhibitors = "switch-inhibitors"
	checkInterface  = "init-interface"
	checkPreSwitch  = "pre-switch-check"
	checkJobs       = "jobs"
	checkSwitchLock = "switch-lock"
	checkBootGuard  = "boot-guard"
	checkStaging    = "staging"
)

const (
	// minimum free bytes: of /nix for a generation, of /run for logs.
	minNixFree = 16 << 20
	minRunFree = 16 << 20
	// preSwitchPatience bounds the system's own checks, which are to be quick.
	preSwitchPatience = 2 * time.Minute
	// jobsPatience is how long a host may take to come to rest.
	jobsPatience = 20 * time.Second
)

// preflight looks for what speaks against an activation, and returns what a person should know although nothing does. All checks are made, so
// that one run names all that there is.
func (s *session) preflight(ctx context.Context, req proto.BeginRequest, policy proto.GuardPolicy, old guard.Systems) ([]string, error) {
	h := s.host
	p := &flight{h: h, req: req, old: old, skip: policy.Skip}
	p.validity(ctx, s)
	p.oldSystem()
	p.space()
	if req.Action == proto.ActionSwitch || req.Action == proto.ActionTest {
		p.inhibitors()
		p.initInterface()
	} else {
		p.staging()
	}
	p.switchLock(ctx)
	p.preSwitch(ctx)
	p.loader()
	p.jobs(ctx)
	if reason := h.unsafeReboot(old); old != (guard.Systems{}) && reason != "" && policy.Reboot == string(guard.RebootIfSafe) && !policy.NoRollback {
		p.notices = append(p.notices, "a rollback will not reboot this host: "+reason)
	}
	if len(p.found) == 0 {
		return p.notices, nil
	}
	return p.notices, preflightError(p.found)
}

// preflightError carries all findings, and is told by its first.
func preflightError(found []proto.Finding) *proto.Error {
	first := found[0]
	e := proto.Errorf(proto.CodePreflight, "%s (check %s)", first.Problem, first.Check)
	if len(found) > 1 {
		e.Message += fmt.Sprintf(", and %d more", len(found)-1)
	}
	var hints []string
	if first.Remedy != "" {
		hints = append(hints, first.Remedy)
	}
	if !first.Fixed {
		hints = append(hints, "or go on in spite of it: --skip="+first.Check)
	}
	e.Remedy = strings.Join(hints, "; ")
	if data, err := json.Marshal(proto.PreflightData{Findings: found}); err == nil {
		e.Data = data
	}
	return e
}

// flight is one run of the checks.
type flight struct {
	h       *Host
	req     proto.BeginRequest
	old     guard.Systems
	skip    []string
	found   []proto.Finding
	notices []string
}

// find takes a finding, as a notice where the check is to be skipped.
func (p *flight) find(f proto.Finding) {
	f.Problem, f.Remedy = oneLine(f.Problem), oneLine(f.Remedy)
	if !f.Fixed && slices.Contains(p.skip, f.Check) {
		p.notices = append(p.notices, fmt.Sprintf("skipped: %s (check %s)", f.Problem, f.Check))
		return
	}
	p.found = append(p.found, f)
}

// validity: what is activated, and what is gone back to, must be there.
func (p *flight) validity(ctx context.Context, s *session) {
	conn, err := s.borrow(ctx)
	if err != nil {
		p.find(proto.Finding{Check: checkValidity, Problem: "ask the store for the systems: " + err.Error(), Fixed: true})
		return
	}
	defer s.giveBack(conn)
	for _, path := range []string{p.req.Toplevel, p.old.Current, p.old.Profile, p.old.BootDefault} {
		parsed, err := storepath.Parse(path)
		if path == "" || err != nil {
			continue
		}
		valid, err := conn.QueryValidPaths(ctx, []storepath.Path{parsed}, daemon.ValidPathsOptions{})
		if err == nil && len(valid) == 0 {
			err = errors.New("it is not valid in the store")
		}
		if err != nil {
			p.find(proto.Finding{
				Check: checkValidity, Problem: fmt.Sprintf("%s: %v", path, err), Fixed: true,
				Remedy: "nix-store --verify-path " + path + " says more; what is registered nowhere can be pushed again",
			})
		}
	}
}

// oldSystem must be one that can be activated again.
func (p *flight) oldSystem() {
	if p.old.Current == "" && oldDefaultOf(p.old) == "" {
		p.notices = append(p.notices, "the host runs no system of NixOS yet, so there is none to go back to: a failure is left as it is")
		return
	}
	runs := p.old.Current
	if runs == "" {
		runs = oldDefaultOf(p.old)
	}
	for _, file := range []string{switchProgram(runs), filepath.Join(runs, "activate")} {
		if _, err := os.Stat(file); err != nil {
			p.find(proto.Finding{
				Check: checkOldSystem, Problem: fmt.Sprintf("the running system could not be activated again: it has no %s", file),
				Remedy: "deploy with boot or reboot",
			})
			return
		}
	}
}

func (p *flight) space() {
	for _, place := range []struct {
		dir  string
		need uint64
	}{{filepath.Dir(p.h.NixVar), minNixFree}, {p.h.Run, minRunFree}} {
		var fs unix.Statfs_t
		if err := unix.Statfs(place.dir, &fs); err != nil {
			p.find(proto.Finding{Check: checkSpace, Problem: fmt.Sprintf("ask for the free space of %s: %v", place.dir, err)})
			continue
		}
		free := fs.Bavail * uint64(fs.Bsize)
		switch {
		case fs.Flags&unix.ST_RDONLY != 0:
			p.find(proto.Finding{Check: checkSpace, Problem: place.dir + " is mounted read-only", Remedy: "look at the kernel's log: a file system with errors becomes read-only"})
		case free < place.need || fs.Files > 0 && fs.Ffree < 100:
			p.find(proto.Finding{
				Check: checkSpace, Problem: fmt.Sprintf("%s has %d KiB and %d files left", place.dir, free>>10, fs.Ffree),
				Remedy: "nix-collect-garbage on the host",
			})
		}
	}
}

// inhibitors: nixpkgs names in them what cannot be changed under a running system, see system.switch.inhibitors.
func (p *flight) inhibitors() {
	read := func(system string) map[string]string {
		text, err := readBounded(filepath.Join(system, "switch-inhibitors"), 1<<20)
		found := map[string]string{}
		if err != nil || json.Unmarshal(text, &found) != nil {
			return nil
		}
		return found
	}
	before, after := read(filepath.Join(p.h.Run, "current-system")), read(activePath(p.req))
	var changed []string
	for name, value := range after {
		if was, ok := before[name]; ok && was != value {
			changed = append(changed, name)
		}
	}
	if len(changed) > 0 {
		slices.Sort(changed)
		p.find(proto.Finding{
			Check: checkInhibitors, Problem: "the new system must not be switched to while the old one runs: " + strings.Join(changed, ", ") + " differs",
			Remedy: "deploy with reboot",
		})
	}
}

// initInterface: a systemd of another kind can only be booted into.
func (p *flight) initInterface() {
	before, err := readBounded(filepath.Join(p.h.Run, "current-system", "init-interface-version"), 4<<10)
	if err != nil {
		return
	}
	after, err := readBounded(filepath.Join(activePath(p.req), "init-interface-version"), 4<<10)
	if err == nil && !bytes.Equal(bytes.TrimSpace(before), bytes.TrimSpace(after)) {
		p.find(proto.Finding{
			Check: checkInterface, Remedy: "deploy with reboot",
			Problem: fmt.Sprintf("the running systemd has another interface: %q, not %q", oneLine(string(before)), oneLine(string(after))),
		})
	}
}

// staging: a boot that is tried once needs a loader that can do that, and somebody who looks after it on the other side.
func (p *flight) staging() {
	if err := p.h.Loader().CanStage(); err != nil && p.req.Toplevel != oldDefaultOf(p.old) {
		p.find(proto.Finding{
			Check: checkStaging, Problem: err.Error(), Fixed: true,
			Remedy: "deploy with switch, and reboot afterwards",
		})
	}
	unit := filepath.Join(p.req.Toplevel, "etc", "systemd", "system", "fleet-boot-guard.service")
	if _, err := os.Lstat(unit); err != nil {
		p.find(proto.Finding{
			Check: checkBootGuard, Problem: "the new system has no fleet-boot-guard.service, so nobody would look after it once it has booted",
			Remedy: "import fleet's NixOS module, which the flake module does for hosts of a fleet",
		})
	}
}

func (p *flight) switchLock(ctx context.Context) {
	lock, err := p.h.lockSwitch(ctx, time.Second)
	if err == nil {
		_ = lock.Close()
		return
	}
	if !errors.Is(err, errHeld) {
		p.find(proto.Finding{Check: checkSwitchLock, Problem: "take the lock of switch-to-configuration: " + err.Error(), Fixed: true})
		return
	}
	p.find(proto.Finding{
		Check: checkSwitchLock, Problem: "somebody else's switch-to-configuration runs on the host", Fixed: true,
		Remedy: "wait for its end; fuser " + p.h.switchLockFile() + " names it",
	})
}

// preSwitch runs the checks that the new system brings along. Older programs do not know the verb, and say how they are used.
func (p *flight) preSwitch(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, preSwitchPatience, fmt.Errorf("it did not end within %s", preSwitchPatience))
	defer cancel()
	out := &limitedBuffer{limit: 64 << 10}
	err := p.h.Runner.Run(ctx, run.Cmd{
		Argv: []string{switchProgram(activePath(p.req)), "check"}, Dir: "/", Env: p.h.switchEnvironment(), ClearEnv: true, Stdout: out, Stderr: out,
	})
	if err == nil || bytes.Contains(bytes.ToLower(out.Bytes()), []byte("usage:")) {
		return
	}
	problem := "the new system's own check refuses: " + strings.Join(lastLines(out.String(), 3), " ")
	if _, ok := errors.AsType[*run.ExitError](err); !ok || out.Len() == 0 {
		problem = "the new system's own check: " + err.Error()
	}
	p.find(proto.Finding{Check: checkPreSwitch, Problem: problem, Remedy: "see system.preSwitchChecks of the host's modules"})
}

func (p *flight) loader() {
	old := oldDefaultOf(p.old)
	if old == "" {
		return
	}
	for _, f := range p.h.Loader().Preflight(old, p.req.Toplevel) {
		if f.Notice {
			p.notices = append(p.notices, oneLine(f.Message))
			continue
		}
		p.find(proto.Finding{Check: f.Check, Problem: f.Message, Remedy: f.Remedy})
	}
}

// jobs waits until systemd is at rest: a unit that is just being started would look as if the activation had done it.
func (p *flight) jobs(ctx context.Context) {
	deadline := sinceBoot() + jobsPatience
	for {
		starting, err := p.h.Units.Starting(ctx)
		if err == nil && !starting {
			return
		}
		if sinceBoot() > deadline {
			problem := "the host is still booting"
			if err != nil {
				problem = err.Error()
			}
			p.find(proto.Finding{Check: checkJobs, Problem: problem, Remedy: "systemctl list-jobs on the host shows what it waits for"})
			return
		}
		select {
		case <-time.After(2 * pollInterval):
		case <-ctx.Done():
			return
		}
	}
}

// unsafeReboot says why the host, rebooted, would not come up with what it runs; empty where it would.
func (h *Host) unsafeReboot(old guard.Systems) string {
	switch {
	case old.BootDefault == "":
		return "what it boots by default is not known"
	case old.BootDefault != old.Current:
		return "it boots another system by default than the one that runs"
	case old.Booted != old.BootDefault && kernelOf(old.Booted) != kernelOf(old.BootDefault):
		return "it boots another kernel by default than the one that runs"
	}
	return ""
}
