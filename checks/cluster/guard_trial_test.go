//go:build cluster

package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// ending is how a host stands in the end.
type ending string

// The endings. The first ones are good, whatever has happened.
const (
	endNew       ending = "new, confirmed, persistent"
	endUntilBoot ending = "new, confirmed, until the next boot"
	endOld       ending = "old, verified"
	// endNothing: nothing was begun.
	endNothing ending = "old, nothing was begun"
	// endStaged: the next boot brings the new system.
	endStaged ending = "old, and new from the next boot on"
	endLeft   ending = "failed, left as it is"
	// endBroken is none that may come.
	endBroken ending = "NEITHER NEW NOR OLD"
)

const (
	// toSafety is how long a verified old system may take once its activation, or the reboot, has ended.
	toSafety = 10 * time.Second
	// trialPatience bounds everything that a trial waits for.
	trialPatience = 100 * time.Second
)

// trial is one deployment of a new system, and what happens to it.
type trial struct {
	// fault is what happens, as the table of results names it.
	fault string
	// with is what is special about the new system; guard and deploy are added to its deploy.guard and deploy.
	with          hostSpec
	guard, deploy map[string]any
	// others are hosts of the fleet that nothing is deployed to.
	others map[string]hostSpec
	// args are those of the deployment, "switch" by default.
	args []string
	// before is done before the deployment, during meanwhile; both may be nil.
	before, during func(*incident)
	// after looks closer once all has ended; it may be nil.
	after func(*incident, result)
	// want are the endings that are right, code is the exit code, of the deployment, or of attaching where it was killed: killed.
	want []ending
	code int
	says []string
	// silent says that the end comes after the deployment, which says nothing of it.
	silent bool
	// undo brings a host back that cannot be deployed to afterwards.
	undo string
}

// killed is the exit code of a deployment that is killed by the trial.
const killed = -1

// field is a host with an old system, for one trial after the other.
type field struct {
	t       *testing.T
	host    *lab.Host
	project *project
	// base is the old system.
	base   hostSpec
	serial int
}

// incident is what a trial's functions are told.
type incident struct {
	*lookout
	t *testing.T
	h *lab.Host
	p *project
	// struck is when the fault happened.
	struck time.Time
	// foreign says that somebody else changes what only a confirmed transaction may change.
	foreign bool
	later   []func()
}

// quick are the times of a guard in tests.
func quick() map[string]any {
	return map[string]any{"confirmTimeout": 8, "bootConfirm": 15, "settle": 1, "soak": 0, "switchTimeout": 20, "rollbackTimeout": 20}
}

// newField takes a host, and deploys an old system.
func newField(t *testing.T) *field {
	t.Helper()
	return fieldOn(t, take(t))
}

func fieldOn(t *testing.T, h *lab.Host) *field {
	t.Helper()
	f := &field{t: t, host: h, base: hostSpec{Content: "old of " + t.Name()}}
	f.base.Deploy = map[string]any{"address": h.Spec.Address, "guard": quick()}
	f.project = newProject(t, map[string]hostSpec{h.Name: f.base})
	f.project.deploy("switch").want(0)
	f.boot()
	return f
}

// boot makes sure that the host was booted by its boot loader, as every host in real life: a rollback may then reboot it. A host
// whose store is in memory would lose that.
func (f *field) boot() {
	f.t.Helper()
	if on(f.t, f.host, "readlink -e /run/booted-system || true") != "" || f.host.Spec.StoreSize != "" {
		return
	}
	if err := f.host.Reboot(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// spec is the host of a trial: the old one, with what is special.
func (f *field) spec(tr trial) hostSpec {
	f.serial++
	s := tr.with
	s.Content = fmt.Sprintf("new %d of %s", f.serial, f.t.Name())
	s.Deploy = maps.Clone(f.base.Deploy)
	maps.Copy(s.Deploy, tr.deploy)
	guard := quick()
	maps.Copy(guard, tr.guard)
	s.Deploy["guard"] = guard
	return s
}

// try runs trials in order, each as a test of its own.
func (f *field) try(trials ...trial) {
	f.t.Helper()
	for _, tr := range trials {
		f.t.Run(tr.fault, func(t *testing.T) {
			p := *f.project
			p.t = t
			f.ready(&p)
			f.one(t, &p, tr)
		})
	}
}

// ready makes sure that the host stands before a trial.
func (f *field) ready(p *project) {
	p.t.Helper()
	if _, r := newestTxn(f.host); r.Seq == 0 || !r.open() {
		if at := f.stand(p.t); at.runs == at.boots && at.runs == at.profile && at.content == f.base.Content {
			return
		}
	}
	p.write(map[string]hostSpec{f.host.Name: f.base})
	p.deploy("switch").want(0)
}

// standing is what a host runs and boots.
type stance struct{ runs, boots, profile, content string }

func (f *field) stand(t *testing.T) stance {
	t.Helper()
	return stance{runs: runs(t, f.host), boots: boots(t, f.host), profile: on(t, f.host, "readlink -f /nix/var/nix/profiles/system"), content: content(t, f.host)}
}

func (f *field) one(t *testing.T, p *project, tr trial) {
	t.Helper()
	before := f.stand(t)
	spec := f.spec(tr)
	hosts := map[string]hostSpec{f.host.Name: spec}
	maps.Copy(hosts, tr.others)
	p.write(hosts)
	i := &incident{lookout: lookOut(t, f.host), t: t, h: f.host, p: p}
	defer func() {
		for _, undo := range slices.Backward(i.later) {
			undo()
		}
	}()
	args := tr.args
	if args == nil {
		args = []string{"switch"}
	}
	if tr.before != nil {
		tr.before(i)
	}
	done := p.begin(append(args, "--on", f.host.Name)...)
	defer i.lookout.close()
	if tr.during != nil {
		tr.during(i)
	}
	var r result
	select {
	case r = <-done:
	case <-time.After(trialPatience):
		p.signal("KILL")
		r = <-done
		t.Errorf("the deployment did not end by itself\nstderr:\n%s", r.stderr)
	}
	if txn, r := i.now(); txn != "" && r.State.Phase != staged && !i.awaitEnd(trialPatience) {
		t.Errorf("the transaction did not end: %s", i.story())
		i.rescue()
	}
	if err := f.host.WaitBoot(t.Context()); err != nil {
		t.Error(err)
		i.rescue()
	}
	if tr.after != nil {
		tr.after(i, r)
	}
	got := f.judge(t, i, before, spec)
	if tr.undo != "" {
		on(t, f.host, tr.undo)
	}
	f.check(i, tr, r, got)
}

// labSpec is a host of a trial's own.
func labSpec(number, storeSize string) lab.Spec {
	return lab.Spec{Address: lab.Subnet + number, StoreSize: storeSize}
}

// begin starts a deployment without questions and returns its end.
func (p *project) begin(args ...string) <-chan result {
	done := make(chan result, 1)
	go func() { done <- p.deploy(args...) }()
	return done
}

// judge looks at the host itself, and not at what anybody says of it.
func (f *field) judge(t *testing.T, i *incident, before stance, spec hostSpec) ending {
	t.Helper()
	now := f.stand(t)
	txn, r := i.now()
	isOld := now == before
	// A system whose content is that of the trial is the new one.
	isNew := now.content == spec.Content && now.runs != before.runs
	switch phase := r.State.Phase; {
	case txn == "" && isOld:
		return endNothing
	case phase == rolledBack && isOld:
		return endOld
	case phase == committed && isNew && now.boots == now.runs && now.profile == now.runs:
		return endNew
	case phase == tested && isNew && now.boots == before.boots && now.profile == before.profile:
		return endUntilBoot
	case phase == staged && now.runs == before.runs && now.boots == before.boots && on(t, f.host, "cat /boot/loader/oneshot || true") != "":
		return endStaged
	case phase == leftAsIs:
		return endLeft
	}
	t.Logf("before %+v\nnow %+v", before, now)
	return endBroken
}

// check holds a trial's end against what was wanted of it, and takes down the result.
func (f *field) check(i *incident, tr trial, r result, got ending) {
	t := i.t
	t.Helper()
	found := finding{fault: tr.fault, ending: got}
	if !slices.Contains(tr.want, got) {
		t.Errorf("the host is %q, want %q", got, tr.want)
	}
	if tr.code == killed {
		r = f.attach(i)
	}
	if want := f.codeFor(tr, got); r.code != want {
		t.Errorf("exit code %d, want %d", r.code, want)
	}
	for _, text := range f.texts(tr, got) {
		if !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("the output does not say %q", text)
		}
	}
	found.toEnd, found.verified = i.times()
	if found.verified > toSafety {
		t.Errorf("the old system was verified %s after its activation or the reboot, want at most %s", found.verified, toSafety)
	}
	for _, breach := range i.breaches {
		if !i.foreign {
			t.Error(breach)
		}
	}
	f.tidy(t)
	results.add(found)
	if t.Failed() {
		t.Logf("%s\nstdout:\n%s\nstderr:\n%s", i.story(), r.stdout, r.stderr)
		if txn, _ := i.now(); txn != "" {
			t.Logf("logs:\n%s", on(t, f.host, "tail -n 40 /run/fleet/"+txn+"/*.log 2>&1 || true"))
		}
	} else {
		t.Logf("%s: %s", got, i.story())
	}
}

// attach asks for the end of a transaction whose operator was killed.
func (f *field) attach(i *incident) result {
	i.t.Helper()
	txn, _ := i.now()
	if txn == "" {
		return result{t: i.t, code: killed}
	}
	return i.p.fleet("attach", f.host.Name, txn)
}

// codeFor is the exit code that goes with an ending, where a trial allows several.
func (f *field) codeFor(tr trial, got ending) int {
	if len(tr.want) < 2 && tr.code != killed {
		return tr.code
	}
	switch got {
	case endNew, endUntilBoot, endStaged:
		return 0
	case endOld:
		return 4
	case endNothing:
		if tr.code == killed {
			return killed
		}
	}
	return 3
}

func (f *field) texts(tr trial, got ending) []string {
	texts := slices.Clone(tr.says)
	if tr.silent {
		return texts
	}
	if got == endNew || got == endOld || got == endUntilBoot {
		texts = append(texts, string(got))
	}
	return texts
}

// tidy looks for what an ended transaction may not leave.
func (f *field) tidy(t *testing.T) {
	t.Helper()
	if _, r := newestTxn(f.host); r.Seq == 0 || r.State.Phase == staged || r.open() {
		return
	}
	waitFor(t, "the end of the guard's units", func() bool {
		return on(t, f.host, "systemctl list-units --all --plain --no-legend 'fleet-guard-*' 'fleet-switch-*' 'fleet-backstop-*'") == ""
	})
	if left := on(t, f.host, "find /nix/var/nix/gcroots/fleet -name '.txn-*' 2>/dev/null || true"); left != "" {
		t.Errorf("roots are left: %s", left)
	}
	if locked(t, f.host) {
		t.Error("the host's lock is held")
	}
	if lock := "/run/nixos/switch-to-configuration.lock"; on(t, f.host, "flock --nonblock "+lock+" true || echo held") != "" {
		t.Error("the lock of switch-to-configuration is held")
	}
	if _, err := shared.operator.Sh(t.Context(), `timeout 5 bash -c ": </dev/tcp/$1/22"`, f.host.Spec.Address); err != nil {
		t.Errorf("nobody answers SSH: %v", err)
	}
}

// times are how long it took from the fault to the end, and of that from the end of the old system's activation, or from the reboot.
func (i *incident) times() (toEnd, verified time.Duration) {
	end := i.firstAt(committed, tested, rolledBack, leftAsIs)
	if end.IsZero() {
		return 0, 0
	}
	from := i.struck
	if from.IsZero() {
		from = i.firstAt(rollingBack, verifying, rollbackReboot)
	}
	if from.IsZero() {
		from = i.firstAt(prepared, switching, staging)
	}
	toEnd = max(0, end.Sub(from))
	if i.firstAt(rolledBack).IsZero() {
		return toEnd, 0
	}
	begun := i.lastAt(verifying)
	if boot := i.bootedAt(); boot.After(begun) || begun.IsZero() {
		begun = boot
	}
	if begun.IsZero() {
		return toEnd, 0
	}
	return toEnd, max(0, end.Sub(begun))
}

// reach waits until the transaction is in a phase.
func (i *incident) reach(phases ...string) {
	i.t.Helper()
	if !i.await(trialPatience, phases...) {
		i.t.Errorf("it was never in %v: %s", phases, i.story())
	}
}

// rescue has the host stand for the next trial.
func (i *incident) rescue() {
	for _, undo := range slices.Backward(i.later) {
		undo()
	}
	i.later = nil
	if err := i.h.PowerCut(i.t.Context(), true); err != nil {
		i.t.Error(err)
	}
	i.awaitEnd(trialPatience)
}

// strike takes down that the fault happens now.
func (i *incident) strike() { i.struck = time.Now() }

// sh runs shell text on the host, as the fault. A reboot may end it.
func (i *incident) sh(text string) {
	i.t.Helper()
	i.strike()
	booted := i.h.PID()
	if out, err := i.h.Sh(i.t.Context(), text); err != nil && !i.reboots(booted) {
		i.t.Errorf("%v\n%s", err, out)
	}
}

// reboots says whether the host, whose first process was booted, is rebooting: it kills all processes some time before that one.
func (i *incident) reboots(booted int) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if i.h.PID() != booted {
			return true
		}
	}
	return false
}

// undo is done when the trial is over.
func (i *incident) undo(f func()) { i.later = append(i.later, f) }

// switchFault makes switch-to-configuration fail, the new system's alone, or also that of the way back.
func (i *incident) switchFault(wayBack bool, lines string) {
	i.t.Helper()
	file := "/run/fleet-faults/switch-to-configuration"
	if !wayBack {
		file += ".checked"
	}
	on(i.t, i.h, "mkdir -p /run/fleet-faults; printf '%s\n' '"+lines+"' >"+file)
	i.undo(func() { on(i.t, i.h, "rm -rf /run/fleet-faults") })
}
