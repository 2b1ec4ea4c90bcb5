//go:build faults

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

// history is a kind of transaction, whose every step is disturbed once.
type history struct {
	action guard.Action
	// hook is what the new system's switch-to-configuration does wrong, by its verb.
	verb, hook string
	confirms   bool
	reboot     guard.RebootPolicy
	// ends are the endings of an undisturbed run.
	ends guard.Phase
}

func histories() map[string]history {
	return map[string]history{
		"switch, confirmed":           {guard.Switch, "", "", true, guard.RebootAlways, guard.Committed},
		"switch, not confirmed":       {guard.Switch, "", "", false, guard.RebootAlways, guard.RolledBack},
		"switch that fails":           {guard.Switch, "test", "ln -sfn $me RUN/current-system; exit 2", true, guard.RebootAlways, guard.RolledBack},
		"switch whose commit fails":   {guard.Switch, "boot", "exit 1", true, guard.RebootAlways, guard.RolledBack},
		"switch, rolled back by boot": {guard.Switch, "old", "exit 1", false, guard.RebootAlways, guard.RolledBack},
		"switch, reboots forbidden":   {guard.Switch, "", "", true, guard.RebootNever, guard.Committed},
		"test":                        {guard.Test, "", "", true, guard.RebootAlways, guard.Tested},
		"boot":                        {guard.Boot, "", "", false, guard.RebootAlways, guard.Committed},
		"reboot, confirmed":           {guard.Reboot, "", "", true, guard.RebootAlways, guard.Committed},
		"reboot, not confirmed":       {guard.Reboot, "", "", false, guard.RebootAlways, guard.RolledBack},
	}
}

// machine is a test host on which transactions are played, one after the other, each from the same beginning.
type machine struct {
	*testing.T
	host     *Host
	one, two string
	boots    int
	old      guard.Systems
}

func newMachine(t *testing.T) *machine {
	host := testHost(t)
	// The program of a system knows its host, so two hosts have no system in common.
	name := "-nixos-system-" + filepath.Base(filepath.Dir(host.Run))
	m := &machine{T: t, host: host, one: "/nix/store/" + strings.Repeat("a", 32) + name, two: "/nix/store/" + strings.Repeat("b", 32) + name}
	for _, top := range []string{m.one, m.two} {
		stubSystem(t, host, top, filepath.Base(top))
	}
	return m
}

// reset installs the old system, and nothing else.
func (m *machine) reset(h history) {
	m.Helper()
	killProcesses(m.T, m.host, "")
	for _, dir := range []string{m.host.Run, m.host.NixVar, m.host.Boot[0], m.host.stateDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.Fatal(err)
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				m.Fatal(err)
			}
		}
	}
	if err := m.host.setGeneration(1, m.one); err != nil {
		m.Fatal(err)
	}
	if end := m.host.runSwitch(m.Context(), program{System: m.one, Verb: guard.VerbBoot}, newSwitchWriter(nil, 0)); end.Exit != 0 {
		m.Fatalf("%+v", end)
	}
	m.boots++
	boot(m.T, m.host, m.boots)
	verb, hook := h.verb, "[ $me = "+m.one+" ] || { "+h.hook+"; }"
	if verb == "old" {
		verb, hook = "test", "[ $me = "+m.two+" ] || { "+h.hook+"; }"
	}
	if verb != "" {
		write(m.T, filepath.Join(m.host.Run, "hook-"+verb), strings.ReplaceAll(hook, "RUN", m.host.Run))
	}
	m.old = m.host.seen()
}

// begin opens the transaction as an agent does.
func (m *machine) begin(h history) string {
	m.Helper()
	policy := guard.Policy{
		Switch: 20 * time.Second, Confirm: 400 * time.Millisecond, Rollback: 20 * time.Second, Judge: 20 * time.Second, BootConfirm: 400 * time.Millisecond,
		Reboot: h.reboot, RebootSafe: true, SelfConfirm: h.action == guard.Boot,
	}
	if h.confirms {
		policy.Confirm, policy.BootConfirm = 20*time.Second, 20*time.Second
	}
	txn := "t000001-aaaaaa"
	o := opening{
		Txn: txn, Owner: "ann@desk", BootID: m.host.bootID(), Action: proto.Action(h.action), Toplevel: m.two, Helper: m.host.Helper,
	}
	if err := m.host.open(o, guard.Begin(h.action, policy, m.old, m.two, m.two, o.BootID)); err != nil {
		m.Fatal(err)
	}
	return txn
}

// play runs a transaction to its end. At the point of that number a process is killed, or all of them with the power; 0 disturbs nothing. It returns the
// ending, and the points that were passed.
func (m *machine) play(h history, at int, power bool) (entry, []string) {
	m.Helper()
	m.reset(h)
	txn := m.begin(h)
	trace := filepath.Join(m.host.Run, "fault-trace")
	write(m.T, trace, "")
	write(m.T, filepath.Join(m.host.Run, "fault-at"), fmt.Sprint(at))
	points := func() []string {
		text, err := os.ReadFile(trace)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	asked := time.Time{}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			_, e, err := m.host.readTxn(txn)
			m.Fatalf("it does not end: %+v, %v, points %q", e, err, points())
		}
		_, e, err := m.host.readTxn(txn)
		if err != nil {
			m.Fatal(err)
		}
		m.check(e.State)
		if !e.open() {
			return e, points()
		}
		_, rebootErr := os.Stat(filepath.Join(m.host.Run, "rebooting"))
		staged := e.State.Phase == guard.Staged && e.State.BootID == m.host.bootID() && !m.host.journalHeld(txn)
		cut := power && at > 0 && len(points()) >= at
		if cut || rebootErr == nil || staged {
			if cut {
				at = 0
			}
			m.boots++
			boot(m.T, m.host, m.boots)
			asked = time.Time{}
		}
		if !m.host.guarded(m.Context(), txn) { // as a service manager, or the boot guard
			if err := m.host.ensureGuard(m.Context(), txn); err != nil {
				m.Fatal(err)
			}
		}
		if h.confirms && e.State.Phase == guard.AwaitConfirm && time.Since(asked) > 500*time.Millisecond {
			if nonce, err := os.ReadFile(filepath.Join(m.host.txnDir(txn), nonceName)); err == nil && len(nonce) > 0 {
				asked = time.Now()
				m.confirm(txn, string(nonce))
			}
		}
	}
}

// confirm sends a confirmation, and does not wait for the answer: the guard may be killed over it.
func (m *machine) confirm(txn, nonce string) {
	m.Helper()
	dir := m.TempDir()
	write(m.T, dir+"/in", `{"nonce":"`+nonce+`"}`+"\n")
	if err := m.host.Units.Start(m.Context(), Unit{
		Name: "confirm-" + filepath.Base(dir) + fmt.Sprint(time.Now().UnixNano()),
		Argv: []string{"setsid", "/bin/sh", "-c", `(sleep 0.01; exec "$1" attach --guard "$2" <"$3/in" >/dev/null 2>&1) &`, "sh", m.host.Helper, txn, dir}, Env: m.host.environment(),
	}); err != nil {
		m.Fatal(err)
	}
}

// check holds what must be so at every moment.
func (m *machine) check(s guard.State) {
	m.Helper()
	if s.Confirmed {
		return
	}
	have := m.host.seen()
	if _, e, err := m.host.readTxn("t000001-aaaaaa"); err != nil || e.State.Confirmed {
		return // it was confirmed between the two looks
	}
	if have.Profile != m.old.Profile || have.BootDefault != m.old.BootDefault && have.BootDefault != "" {
		m.Fatalf("I1: before a confirmation, in %q: %+v", s.Phase, have)
	}
}

// ended holds what an ending promises.
func (m *machine) ended(h history, e entry, what string, power bool) {
	m.Helper()
	have := m.host.seen()
	all, err := m.host.generations()
	if err != nil {
		m.Fatal(err)
	}
	next, err := m.host.Loader().OneShot()
	switch {
	case err != nil || next != "":
		m.Errorf("%s: the next boot brings %q, %v", what, next, err)
	case e.State.Phase == guard.Committed && h.ends != guard.Tested:
		if !e.State.Confirmed || have.Profile != m.two || have.BootDefault != m.two || have.Current != m.two || len(all) != 2 {
			m.Errorf("%s: committed, but %+v, %v", what, have, all)
		}
	case e.State.Phase == guard.Tested && h.ends == guard.Tested:
		if !e.State.Confirmed || have.Profile != m.one || have.BootDefault != m.one || have.Current != m.two && !power || len(all) != 1 {
			m.Errorf("%s: tested, but %+v, %v", what, have, all)
		}
	case e.State.Phase == guard.RolledBack:
		if have.Profile != m.one || have.BootDefault != m.one || have.Current != m.one || len(all) != 1 || have.Generation != 1 {
			m.Errorf("%s: rolled back, but %+v, %v", what, have, all)
		}
	default:
		m.Errorf("%s: it ended in %+v", what, e)
	}
	if left, err := filepath.Glob(filepath.Join(m.host.rootsDir(), txnRoots+"*")); err != nil || len(left) > 0 {
		m.Errorf("%s: roots left: %q, %v", what, left, err)
	}
}

// Guard or worker are killed, or the power is cut, at every point of every kind of transaction: before and after each record of the journal, after each effect.
// Every history ends in the new system, confirmed, or in the old one, verified.
func TestEveryStepMayBeTheLast(t *testing.T) {
	requireRoot(t)
	for name, h := range histories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			e, points := m.play(h, 0, false)
			if e.State.Phase != h.ends {
				t.Fatalf("undisturbed it ends in %+v, after %q", e, points)
			}
			m.ended(h, e, "undisturbed", false)
			ends := map[guard.Phase]int{}
			for at := range points {
				for _, power := range []bool{false, true} {
					what := fmt.Sprintf("killed at %q, power %v", points[at], power)
					e, _ := m.play(h, at+1, power)
					m.ended(h, e, what, power)
					ends[e.State.Phase]++
					if t.Failed() {
						t.FailNow()
					}
				}
			}
			t.Logf("%d points, endings %v", len(points), ends)
		})
	}
}
