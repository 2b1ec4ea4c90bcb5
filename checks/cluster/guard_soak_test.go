//go:build cluster && soak

package cluster

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/checks/section"
	"fleet/checks/testbed/lab"
)

var (
	soakRuns  = flag.Int("soak.n", 60, "how many deployments with random faults")
	soakHosts = flag.Int("soak.hosts", 5, "to how many hosts, beside each other")
	soakSeed  = flag.Uint64("soak.seed", 0, "what the choice of faults begins with; 0 takes the time")
)

// soakSystems are the systems that are deployed at random.
func soakSystems() map[string]hostSpec {
	return map[string]hostSpec{
		"a": {}, "b": {}, "c": {}, "slow": {SlowSeconds: 2}, "soaks": {},
		"unit-fails": {UnitFails: true}, "loop": {Modules: []string{"restart-loop"}}, "no-sshd": {Modules: []string{"no-sshd"}},
		"cut": {Modules: []string{"network-cut"}}, "panics": {Modules: []string{"panics"}}, "snippet": {Modules: []string{"failing-snippet"}},
	}
}

// good are those that a host can keep.
var good = []string{"a", "b", "c", "slow", "soaks"}

// soakFault is something that happens once, and has an end that undo brings.
type soakFault struct {
	name string
	// early faults are there before the deployment begins.
	early bool
	do    func(ctx context.Context, h *lab.Host, p *project, r *rand.Rand) (undo func())
}

// shell makes a fault of shell text on the host, and of what ends it.
func shell(name, text, undo string) soakFault {
	return soakFault{name: name, do: func(ctx context.Context, h *lab.Host, _ *project, _ *rand.Rand) func() {
		_, _ = h.Sh(ctx, text) // the host may just be down, which is another fault
		return func() {
			if undo != "" {
				_, _ = h.Sh(ctx, undo)
			}
		}
	}}
}

func soakFaults() []soakFault {
	faults := []soakFault{
		{name: "the power is cut", do: func(ctx context.Context, h *lab.Host, _ *project, _ *rand.Rand) func() {
			_ = h.PowerCut(ctx, true)
			return nil
		}},
		{name: "the link is down for a while", do: func(ctx context.Context, h *lab.Host, _ *project, _ *rand.Rand) func() {
			_ = h.Cut(ctx, true)
			return func() { _ = h.Cut(ctx, false) }
		}},
		{name: "the operator is killed", do: func(ctx context.Context, h *lab.Host, p *project, _ *rand.Rand) func() {
			p.signal("KILL")
			return nil
		}},
		shell("somebody reboots the host", "systemctl reboot", ""),
		shell("SSH connections are killed", endSessions, ""),
		shell("SSH connections hang", "pkill --signal STOP --full '[s]shd-session|[s]shd: root@' || true", endSessions),
		shell("the guard is killed", "systemctl kill --signal=KILL 'fleet-guard-*'", ""),
		shell("the guard is killed again and again", "for n in $(seq 15); do systemctl kill --signal=KILL 'fleet-guard-*' || true; sleep 0.$((RANDOM % 4)); done", ""),
		shell("the worker is killed", "systemctl kill --signal=KILL 'fleet-switch-*'", ""),
		shell("guard and worker are killed", "systemctl kill --signal=KILL 'fleet-guard-*' 'fleet-switch-*'", ""),
		shell("the agent is killed", "systemctl kill --signal=KILL 'fleet-agent-*'", ""),
		shell("the message bus is killed", "systemctl kill --signal=KILL dbus.service", ""),
		shell("systemctl daemon-reload, over and over", "for n in $(seq 15); do systemctl daemon-reload || true; sleep 0.1; done", ""),
		shell("systemctl daemon-reexec, over and over", "for n in $(seq 10); do systemctl daemon-reexec || true; sleep 0.2; done", ""),
		shell("nix-collect-garbage -d", "nix-collect-garbage -d", ""),
		shell("a unit of the host is stopped", "systemctl stop cluster-test.service", ""),
		shell("/run is full for a while", `mount -o remount,size=$(($(df --output=used /run | tail -n 1) + 512))k /run; dd if=/dev/zero of=/run/filler bs=64k 2>/dev/null`, "rm -f /run/filler; mount -o remount,size=512m /run"),
		shell("the host enters emergency.target", "systemctl start --no-block --job-mode=replace-irreversibly emergency.target", ""),
		shell("sshd is stopped", "systemctl stop ssh.service", "systemctl start ssh.service || true"),
	}
	return faults
}

// soakProgramFaults are what switch-to-configuration may do, and that of the way back, too.
func soakProgramFaults() []soakFault {
	var faults []soakFault
	for _, line := range []string{
		"test exit 1", "test exit 2 after activate", "test exit 4", "test exit 11 before activate", "test exit 100", "test exit 101 after activate", "test hang",
		"test hang after activate", "test sleep 3", "boot exit 1", "boot hang", "boot sleep 2",
	} {
		for _, suffix := range []string{"", ".checked"} {
			words := strings.Fields(line)
			name := "switch-to-configuration " + words[0] + ": " + words[1]
			if suffix == "" {
				name += ", the old system's, too"
			}
			fault := shell(name, "mkdir -p /run/fleet-faults; echo '"+line+"' >/run/fleet-faults/switch-to-configuration"+suffix, "")
			fault.early = true
			faults = append(faults, fault)
		}
	}
	return faults
}

func TestSoak(t *testing.T) {
	if *soakSeed == 0 {
		*soakSeed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", *soakSeed)
	fields := soakFields(t)
	var next atomic.Int64
	begin := time.Now()
	t.Run("hosts", func(t *testing.T) {
		for n, f := range fields {
			t.Run(f.host.Name, func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(*soakSeed, uint64(n)))
				for run := next.Add(1); run <= int64(*soakRuns); run = next.Add(1) {
					t.Run(fmt.Sprint(run), func(t *testing.T) { f.soak(t, r) })
				}
			})
		}
	})
	text := fmt.Sprintf("%d runs on %d hosts in %s, seed %d.\n\n%s", len(results.findings), len(fields), time.Since(begin).Round(time.Second), *soakSeed, results.String())
	fmt.Fprintln(os.Stderr, text)
	if *updateReliability {
		if err := section.Replace(reliability, "soak", text); err != nil {
			t.Error(err)
		}
		*updateReliability = false // these are not the other tests' results
	}
}

// soakFields boots hosts of its own, and makes a plan of each system, so that a deployment evaluates nothing.
func soakFields(t *testing.T) []*soakField {
	t.Helper()
	hosts := make([]*lab.Host, *soakHosts)
	var group errgroup.Group
	group.SetLimit(3)
	for n := range hosts {
		group.Go(func() (err error) {
			hosts[n], err = shared.lab.Up(t.Context(), fmt.Sprintf("soak%d", n), lab.Spec{Address: fmt.Sprintf("%s.%d", lab.Subnet, 150+n)}, func(string) {})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	all := map[string]hostSpec{}
	for _, h := range hosts {
		know(t, h.Spec.Address+" "+hostKey(t, h, "ed25519"))
	}
	p := newProject(t, all)
	p.sh("rm -rf /root/soak; mkdir -p /root/soak")
	for name, spec := range soakSystems() {
		for _, h := range hosts {
			s := spec
			s.Content = name
			guard := quick()
			guard["switchTimeout"], guard["rollbackTimeout"] = 12, 15
			if name == "soaks" {
				guard["soak"] = 2
			}
			s.Deploy = map[string]any{"address": h.Spec.Address, "guard": guard}
			all[h.Name] = s
		}
		p.write(all)
		p.deploy("build").want(0)
		p.sh(`cd "$1" && ` + helper + ` plan --json --with-records >/root/soak/` + name + `.json`)
	}
	fields := make([]*soakField, len(hosts))
	for n, h := range hosts {
		f := &soakField{field: field{t: t, host: h}}
		f.project = elsewhere(t, "/root/soak-"+h.Name)
		f.deploy("a", "switch").want(0)
		f.boot()
		fields[n] = f
	}
	return fields
}

// soakField is a host that random things happen to.
type soakField struct {
	field
}

func (f *soakField) args(system, action string) []string {
	return []string{action, "--plan", "/root/soak/" + system + ".json", "--on", f.host.Name}
}

func (f *soakField) deploy(system, action string) result {
	return f.project.deploy(f.args(system, action)...)
}

func (f *soakField) soak(t *testing.T, r *rand.Rand) {
	p := *f.project
	p.t = t
	before := f.stand(t)
	system := before.content
	for system == before.content {
		system = good[r.IntN(len(good))]
	}
	if r.IntN(4) == 0 {
		if any := slices.Sorted(maps.Keys(soakSystems()))[r.IntN(len(soakSystems()))]; any != before.content {
			system = any
		}
	}
	action := "switch"
	if r.IntN(4) == 0 {
		action = "reboot"
	}
	var chosen []soakFault
	for range []int{1, 1, 1, 2, 2, 0}[r.IntN(6)] {
		faults := soakFaults()
		if r.IntN(4) == 0 {
			faults = soakProgramFaults()
		}
		chosen = append(chosen, faults[r.IntN(len(faults))])
	}
	slices.SortStableFunc(chosen, func(a, b soakFault) int { return early(a) - early(b) })
	i := &incident{lookout: lookOut(t, f.host), t: t, h: f.host, p: &p}
	var names []string
	bad := !slices.Contains(good, system)
	for len(chosen) > 0 && chosen[0].early {
		chosen[0].do(t.Context(), f.host, &p, r)
		names, bad = append(names, chosen[0].name), true
		chosen = chosen[1:]
	}
	done := p.begin(f.args(system, action)...)
	undone := make(chan struct{}, len(chosen))
	for _, fault := range chosen {
		if !i.moment(r, action, bad) {
			undone <- struct{}{}
			continue
		}
		i.strike()
		names = append(names, fault.name)
		undo := fault.do(t.Context(), f.host, &p, r)
		time.AfterFunc(time.Duration(1000+r.IntN(9000))*time.Millisecond, func() {
			if undo != nil {
				undo()
			}
			undone <- struct{}{}
		})
	}
	for range chosen {
		<-undone
	}
	var res result
	for waiting := true; waiting; {
		select {
		case res = <-done:
			waiting = false
		case <-time.After(5 * time.Second):
			f.leaveEmergency(i)
		}
	}
	if txn, _ := i.now(); txn == "" {
		time.Sleep(2 * time.Second) // one may just be beginning
	}
	if txn, _ := i.now(); txn != "" && !i.awaitEnd(4*time.Minute) {
		t.Errorf("the transaction did not end")
	}
	f.leaveEmergency(i)
	_ = f.host.WaitBoot(t.Context())
	i.lookout.close()
	got := f.judge(t, i, before, hostSpec{Content: system})
	f.conclude(i, res, got, name(system, action, names))
	on(t, f.host, "rm -rf /run/fleet-faults; systemctl start ssh.service")
	f.restore(t, &p)
}

// leaveEmergency reboots a host that has entered its emergency mode after its transaction had come to its end: nobody looks after it.
func (f *soakField) leaveEmergency(i *incident) {
	if txn, last := i.now(); txn == "" || last.open() {
		return
	}
	if _, err := f.host.Sh(i.t.Context(), "systemctl is-active --quiet emergency.target"); err == nil {
		_ = f.host.Reboot(i.t.Context())
	}
}

// early orders faults.
func early(f soakFault) int {
	if f.early {
		return 0
	}
	return 1
}

// moment waits for the moment of a fault; false where it does not come.
func (i *incident) moment(r *rand.Rand, action string, bad bool) bool {
	if r.IntN(3) == 0 {
		if !i.await(60*time.Second, prepared, switching, staging) {
			return false
		}
		time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
		_, last := i.now()
		return last.open()
	}
	phases := []string{prepared, switching, judging, awaitConfirm, committing}
	if action == "reboot" {
		phases = []string{prepared, staging, rebooting, judging, awaitConfirm, committing}
	}
	if bad {
		phases = append(phases, rollingBack, rollbackReboot, verifying)
	}
	if !i.await(60*time.Second, phases[r.IntN(len(phases))]) {
		return false
	}
	time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
	_, last := i.now()
	return last.open()
}

// name is the row of the table.
func name(system, action string, faults []string) string {
	what := ""
	if !slices.Contains(good, system) {
		what = ", with a bad system"
	}
	if action == "reboot" {
		what += ", reboot"
	}
	switch len(faults) {
	case 0:
		return "no fault" + what
	case 1:
		return faults[0] + what
	}
	return "two of these" + what
}

// conclude checks what a run has come to.
func (f *soakField) conclude(i *incident, r result, got ending, name string) {
	t := i.t
	toEnd, verified := i.times()
	results.add(finding{fault: name, ending: got, toEnd: toEnd, verified: verified})
	wrong := false
	switch {
	case got == endBroken || got == endLeft:
		wrong = true
	case r.code == killed || r.code == 137:
	case got == endNew:
		wrong = r.code != 0
	case got == endOld:
		wrong = r.code != 4
	case got == endNothing:
		wrong = r.code == 0 || r.code == 4
	}
	if r.took > 170*time.Second {
		t.Errorf("the deployment did not end by itself")
	}
	if verified > toSafety {
		t.Errorf("verified %s after the old system's activation or the reboot", verified)
	}
	for _, breach := range i.breaches {
		t.Error(breach)
	}
	t.Logf("%s: %s, exit code %d: %s", name, got, r.code, i.story())
	if wrong {
		t.Errorf("it ended as %q, with exit code %d", got, r.code)
	}
	if t.Failed() {
		txn, _ := i.now()
		t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
		t.Logf("logs:\n%s", on(t, f.host, "tail -n 60 /run/fleet/"+filepath.Base(txn)+"/*.log 2>&1 || true"))
	}
}

// restore has the host run and boot the same good system before the next run.
func (f *soakField) restore(t *testing.T, p *project) {
	at := f.stand(t)
	if at.runs == at.boots && at.runs == at.profile && slices.Contains(good, at.content) {
		return
	}
	p.deploy(f.args("a", "switch")...).want(0)
}
