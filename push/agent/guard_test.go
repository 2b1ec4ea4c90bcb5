package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fleet/closure/run"
	"fleet/push/guard"
	"fleet/push/proto"
)

// confirmed lets a fresh process, below PID 1 as what serves a new connection is, send a confirmation.
func confirmed(t *testing.T, host *Host, txn, nonce string) proto.ConfirmAnswer {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(proto.ConfirmRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/in", string(text)+"\n")
	_, err = run.Output(t.Context(), run.Cmd{Argv: []string{
		"setsid", "sh", "-c", `(sleep 0.02; exec "$1" attach --guard "$2" <"$3/in" >"$3/out.new" 2>&1; ) & `, "sh", host.Helper, txn, dir,
	}, Env: []string{"FLEET_TEST_CONFIRMS=1"}})
	if err != nil {
		t.Fatal(err)
	}
	var answer proto.ConfirmAnswer
	waitUntil(t, "the guard's answer", func() bool {
		text, err := os.ReadFile(dir + "/out.new")
		return err == nil && bytes.HasSuffix(text, []byte("\n")) && json.Unmarshal(text, &answer) == nil
	})
	return answer
}

// listens waits until the guard's socket answers: a guard that was killed has left its own.
func listens(t *testing.T, host *Host, txn string) {
	t.Helper()
	waitUntil(t, "the guard's socket", func() bool {
		conn, err := net.Dial("unix", filepath.Join(host.txnDir(txn), guardSocket))
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// guarded begins a transaction that waits for a confirmation, and returns when it does.
func (a *activation) guarded(action proto.Action, toplevel string, policy proto.GuardPolicy) string {
	a.Helper()
	txn, err := a.begin(action, toplevel, func(r *proto.BeginRequest) { r.Guard = &policy })
	if err != nil {
		a.Fatal(err)
	}
	a.reaches(txn, proto.TxnAwaitConfirm)
	return txn
}

func (a *activation) reaches(txn string, state proto.TxnState) proto.TxnStatus {
	a.Helper()
	var st proto.TxnStatus
	waitUntil(a.T, "state "+string(state), func() bool {
		var err error
		if st, err = a.host.status(txn); err != nil {
			a.Fatal(err)
		}
		if st.State.Done() && st.State != state {
			a.Fatalf("it ended in %+v", st)
		}
		return st.State == state
	})
	return st
}

func (a *activation) nonce(txn string) (string, error) {
	a.Helper()
	var result proto.NonceResult
	err := a.client.Call(a.Context(), proto.MethodNonce, proto.TxnRequest{Txn: txn}, &result)
	return result.Nonce, err
}

// switched is a host that runs and boots a system.
func switched(t *testing.T) (a *activation, one, two string) {
	t.Helper()
	a = newActivation(t)
	one, two = toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	if st := a.do(proto.ActionSwitch, one); st.State != proto.TxnCommitted {
		t.Fatalf("%+v", st)
	}
	a.calls()
	return a, one, two
}

// isOld holds that nothing of a transaction is left but the old system.
func (a *activation) isOld(one string) {
	a.Helper()
	want := guard.Systems{Current: one, Booted: a.host.seen().Booted, Profile: one, Generation: 1, BootDefault: one}
	if diff := cmp.Diff(want, a.host.seen()); diff != "" {
		a.Error(diff)
	}
	if all, err := a.host.generations(); err != nil || len(all) != 1 {
		a.Errorf("generations %v, %v", all, err)
	}
}

func TestAConfirmationOverANewConnectionCommits(t *testing.T) {
	a, one, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	// I1: nothing is written that the next boot would use.
	if have := a.host.seen(); have.Current != two || have.Profile != one || have.BootDefault != one {
		t.Errorf("before the confirmation: %+v", have)
	}
	// I8: nobody else activates anything meanwhile.
	if lock, err := a.host.lockSwitch(t.Context(), 0); !errors.Is(err, errHeld) {
		t.Errorf("the lock of switch-to-configuration: %v, %v", lock, err)
	}
	// I5: what may be needed is kept from garbage collection.
	for what, want := range map[string]string{"profile": one, "current": one, "default": one, "new": two} {
		if got := toplevelAt(filepath.Join(a.host.rootsDir(), txnRoots+txn+"-"+what)).String(); got != want {
			t.Errorf("root %s: %q", what, got)
		}
	}
	nonce, err := a.nonce(txn)
	if err != nil || len(nonce) < 43 {
		t.Fatalf("nonce %q, %v", nonce, err)
	}
	// This process is older than the switch, as a session that has survived it.
	answer, err := a.host.askGuard(t.Context(), txn, guardRequest{ConfirmRequest: proto.ConfirmRequest{Nonce: nonce}})
	if err != nil || answer.Confirmed || answer.Error == nil || answer.Error.Code != proto.CodeForbidden {
		t.Errorf("from an old process: %+v, %v", answer, err)
	}
	if answer := confirmed(t, a.host, txn, "guess"); answer.Confirmed || answer.Error == nil || answer.Error.Code != proto.CodeToken {
		t.Errorf("with another nonce: %+v", answer)
	}
	if answer := confirmed(t, a.host, txn, nonce); !answer.Confirmed || answer.Error != nil {
		t.Fatalf("%+v", answer)
	}
	st, _, states := a.follow(txn, 0)
	if st.State != proto.TxnCommitted || st.Generation != 2 || st.BootDefault != two {
		t.Errorf("%+v, %q", st, states)
	}
	a.expect("test nixos-system-two", "boot nixos-system-two")
	if _, err := a.nonce(txn); proto.CodeOf(err) != proto.CodeTooLate {
		t.Errorf("nonce afterwards: %v", err)
	}
}

func TestASessionFromBeforeTheSwitchGetsNoNonce(t *testing.T) {
	a, _, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	old := newSession(a.host, t.TempDir(), a.host.UID)
	t.Cleanup(old.close)
	client := connectTo(t, old)
	err := client.Call(t.Context(), proto.MethodNonce, proto.TxnRequest{Txn: txn}, &proto.NonceResult{})
	if e, ok := errors.AsType[*proto.Error](err); !ok || e.Code != proto.CodeForbidden || e.Remedy == "" {
		t.Errorf("got %v", err)
	}
	a.abort(txn)
}

func (a *activation) abort(txn string) proto.TxnStatus {
	a.Helper()
	var st proto.TxnStatus
	if err := a.client.Call(a.Context(), proto.MethodAbort, proto.TxnRequest{Txn: txn, Reason: "ann@desk: wrong host"}, &st); err != nil {
		a.Fatal(err)
	}
	return st
}

func TestWithoutAConfirmationTheOldSystemComesBack(t *testing.T) {
	a, one, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{ConfirmSeconds: 1})
	if st, err := a.host.status(txn); err != nil || st.DeadlineSeconds != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	st, log, _ := a.follow(txn, 0)
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "no confirmation came") || st.Step != stepConfirm {
		t.Errorf("%+v", st)
	}
	if !strings.Contains(log, "waiting for a confirmation") || !strings.Contains(log, "it has failed: no confirmation") {
		t.Errorf("log: %s", log)
	}
	a.isOld(one)
	a.expect("test nixos-system-two", "test nixos-system-one")
}

func TestAnAbortBringsTheOldSystemBack(t *testing.T) {
	a, one, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	if st := a.abort(txn); st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "aborted by ann@desk: wrong host") {
		t.Errorf("%+v", st)
	}
	a.isOld(one)
	// In the middle of a switch, and where a failure was to be left as it is.
	a.hook("test", "[ $me = "+one+" ] || sleep 600")
	txn, err := a.begin(proto.ActionSwitch, two, func(r *proto.BeginRequest) { r.Guard.NoRollback = true })
	if err != nil {
		t.Fatal(err)
	}
	a.reaches(txn, proto.TxnSwitching)
	if st := a.abort(txn); st.State != proto.TxnRolledBack {
		t.Errorf("%+v", st)
	}
	a.isOld(one)
	// One that has ended stays what it is.
	if st := a.abort(txn); st.State != proto.TxnRolledBack {
		t.Errorf("%+v", st)
	}
}

func TestACommitIsNotAborted(t *testing.T) {
	a, _, two := switched(t)
	go_ := filepath.Join(a.host.Run, "go")
	a.hook("boot", "while [ ! -e "+go_+" ]; do sleep 0.02; done")
	txn, err := a.begin(proto.ActionSwitch, two)
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the installation of the loader", func() bool { st, err := a.host.status(txn); return err == nil && st.Step == "boot" })
	err = a.client.Call(t.Context(), proto.MethodAbort, proto.TxnRequest{Txn: txn}, &proto.TxnStatus{})
	if proto.CodeOf(err) != proto.CodeTooLate {
		t.Errorf("abort: %v", err)
	}
	write(t, go_, "")
	if st, _, _ := a.follow(txn, 0); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
}

func TestTheSecondOperatorIsToldWhoHoldsTheLock(t *testing.T) {
	a, _, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	for _, action := range []proto.Action{proto.ActionSwitch, proto.ActionDryActivate} {
		_, err := a.begin(action, two, func(r *proto.BeginRequest) { r.Owner = "bob@laptop" })
		e, ok := errors.AsType[*proto.Error](err)
		var holder proto.LockHolder
		if !ok || e.Code != proto.CodeLocked || json.Unmarshal(e.Data, &holder) != nil || holder.Owner != "ann@desk" || holder.Txn != txn {
			t.Errorf("%s: %v, %+v", action, err, holder)
		}
	}
	var info proto.HostInfo
	err := a.client.Call(t.Context(), proto.MethodInfo, nil, &info)
	if err != nil || info.Lock == nil || info.Lock.Txn != txn || info.Open == nil || info.Open.State != proto.TxnAwaitConfirm || info.Open.DeadlineSeconds < 100 {
		t.Errorf("info: %+v, %+v, %v", info.Lock, info.Open, err)
	}
	a.abort(txn)
	if holder, err := a.host.LockHolder(); holder != nil || err != nil {
		t.Errorf("lock: %+v, %v", holder, err)
	}
}

// processes returns the processes of a test host: those that were started by its helper, or below it.
func processesOf(host *Host, command string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil || !bytes.Contains(env, []byte(placesFile+"="+filepath.Dir(host.Run)+"/")) {
			continue
		}
		cmd, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && (command == "" || bytes.Contains(cmd, []byte("\x00"+command+"\x00"))) {
			found = append(found, pid)
		}
	}
	return found
}

// killProcesses ends the processes and waits until they are gone.
func killProcesses(t *testing.T, host *Host, command string) int {
	t.Helper()
	killed := 0
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		pids := slices.DeleteFunc(processesOf(host, command), isZombie)
		if len(pids) == 0 {
			return killed
		}
		killed = max(killed, len(pids))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes that do not die: %v", pids)
		}
	}
}

// boot is what a reboot or a loss of power does to a test host: only the disk is left, and its boot loader decides.
func boot(t *testing.T, host *Host, number int) string {
	t.Helper()
	killProcesses(t, host, "")
	for _, name := range []string{"fleet", "nixos", "rebooting"} {
		if err := os.RemoveAll(filepath.Join(host.Run, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, host.BootID, fmt.Sprintf("11111111-2222-3333-4444-%012d\n", number))
	system, err := host.Loader().OneShot()
	if err != nil {
		t.Fatal(err)
	}
	if system == "" {
		system = host.BootDefault().Toplevel.String()
	}
	_ = os.Remove(filepath.Join(host.Boot[0], "loader", oneShotFile))
	for _, link := range []string{"current-system", "booted-system"} {
		if err := replaceLink(system, filepath.Join(host.Run, link)); err != nil {
			t.Fatal(err)
		}
	}
	host.Units = NewProcesses()
	return system
}

func TestAKilledGuardIsFollowedByAnother(t *testing.T) {
	a, one, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	nonce, err := a.nonce(txn)
	if err != nil {
		t.Fatal(err)
	}
	before, err := a.host.status(txn)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if n := killProcesses(t, a.host, "guard"); n != 1 {
		t.Fatalf("%d guards", n)
	}
	waitUntil(t, "nobody", func() bool { return !a.host.guarded(t.Context(), txn) })
	if err := a.host.ensureGuard(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	// The deadline is the old one, and so is the nonce.
	if err := a.host.awaitGuard(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	if st, err := a.host.status(txn); err != nil || st.State != proto.TxnAwaitConfirm || st.DeadlineSeconds >= before.DeadlineSeconds {
		t.Errorf("%+v, before %+v, %v", st, before, err)
	}
	listens(t, a.host, txn)
	waitUntil(t, "the confirmation", func() bool { return confirmed(t, a.host, txn, nonce).Confirmed })
	if st, _, _ := a.follow(txn, 0); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	_ = one
}

func TestATransactionThatNobodyGuardsIsResolvedByTheNext(t *testing.T) {
	a, one, two := switched(t)
	three := toplevel(t, a.host, "three")
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{ConfirmSeconds: 2})
	killProcesses(t, a.host, "guard")
	waitUntil(t, "nobody", func() bool { return !a.host.guarded(t.Context(), txn) })
	if st := a.do(proto.ActionSwitch, three); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	if st, err := a.host.status(txn); err != nil || st.State != proto.TxnRolledBack {
		t.Errorf("the first: %+v, %v", st, err)
	}
	a.expect("test nixos-system-two", "test nixos-system-one", "test nixos-system-three", "boot nixos-system-three")
	_ = one
}

func TestALossOfPowerBringsTheOldSystemBack(t *testing.T) {
	a, one, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	if system := boot(t, a.host, 2); system != one {
		t.Fatalf("it boots %q", system)
	}
	if err := BootGuard(t.Context(), a.host, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	st, log, _ := a.follow(txn, 0)
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "went down") || !strings.Contains(log, "a new guard") {
		t.Errorf("%+v\n%s", st, log)
	}
	a.isOld(one)
	// A client that had read some of the log before the boot is told what came after.
	if st, rest, _ := a.follow(txn, 100); st.State != proto.TxnRolledBack || rest != "" && !strings.HasPrefix(rest, "fleet:") {
		t.Errorf("%+v %q", st, rest)
	}
}

// Two that start a guard at the same moment are in each other's way.
func TestTheBootGuardLeavesAloneWhatBeginsLater(t *testing.T) {
	a, _, two := switched(t)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	boot(t, a.host, 2)
	returned := make(chan error, 1)
	go func() { returned <- BootGuard(t.Context(), a.host, func() error { return nil }) }()
	waitUntil(t, "the end of the first", func() bool {
		st, err := a.host.status(txn)
		return err == nil && st.State == proto.TxnRolledBack
	})
	second := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{ConfirmSeconds: 60})
	if err := <-returned; err != nil {
		t.Fatal(err)
	}
	if st, err := a.host.status(second); err != nil || st.State != proto.TxnAwaitConfirm {
		t.Errorf("%+v, %v", st, err)
	}
	a.abort(second)
}

func TestAStagedBootDecidesWhenItComes(t *testing.T) {
	a, one, two := switched(t)
	st := a.do(proto.ActionBoot, two)
	if st.State != proto.TxnStaged || st.Current != one || st.Profile != one || st.BootDefault != one {
		t.Fatalf("%+v", st)
	}
	waitUntil(t, "the end of the guard", func() bool { return !a.host.guarded(t.Context(), st.Txn) })
	var info proto.HostInfo
	if err := a.client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil || info.Lock != nil || info.Open == nil || info.Open.State != proto.TxnStaged {
		t.Errorf("%+v, %+v, %v", info.Lock, info.Open, err)
	}
	if system := boot(t, a.host, 2); system != two {
		t.Fatalf("it boots %q", system)
	}
	if err := BootGuard(t.Context(), a.host, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if st, err := a.host.status(st.Txn); err != nil || st.State != proto.TxnCommitted || !st.Booted || st.Profile != two || st.BootDefault != two {
		t.Errorf("%+v, %v", st, err)
	}
	if has, err := a.host.hasCandidate(); has || err != nil {
		t.Errorf("the candidate is still there: %v", err)
	}
}

func TestAStagedBootIsTakenBack(t *testing.T) {
	a, one, two := switched(t)
	three := toplevel(t, a.host, "three")
	first := a.do(proto.ActionBoot, two)
	if st := a.abort(first.Txn); st.State != proto.TxnRolledBack {
		t.Errorf("%+v", st)
	}
	a.isOld(one)
	second := a.do(proto.ActionBoot, two)
	// Whoever deploys anew takes it back by that.
	if st := a.do(proto.ActionSwitch, three); st.State != proto.TxnCommitted || st.BootDefault != three {
		t.Errorf("%+v", st)
	}
	if st, err := a.host.status(second.Txn); err != nil || st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "who deploys anew") {
		t.Errorf("%+v, %v", st, err)
	}
	if next, err := a.host.Loader().OneShot(); next != "" || err != nil {
		t.Errorf("the next boot brings %q, %v", next, err)
	}
}

func TestAGuardedRebootIsConfirmedOrGoesBack(t *testing.T) {
	for name, confirm := range map[string]bool{"confirmed": true, "not confirmed": false} {
		t.Run(name, func(t *testing.T) {
			a, one, two := switched(t)
			boot(t, a.host, 2)
			txn, err := a.begin(proto.ActionReboot, two, func(r *proto.BeginRequest) { r.Guard = &proto.GuardPolicy{BootConfirmSeconds: 2} })
			if err != nil {
				t.Fatal(err)
			}
			rebooting := func() bool { _, err := os.Stat(filepath.Join(a.host.Run, "rebooting")); return err == nil }
			waitUntil(t, "the reboot", rebooting)
			if system := boot(t, a.host, 3); system != two {
				t.Fatalf("it boots %q", system)
			}
			if _, err := a.host.startOpen(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			a.reaches(txn, proto.TxnAwaitConfirm)
			if confirm {
				nonce, err := a.nonce(txn)
				if err != nil {
					t.Fatal(err)
				}
				if answer := confirmed(t, a.host, txn, nonce); !answer.Confirmed {
					t.Errorf("%+v", answer)
				}
				if st, _, _ := a.follow(txn, 0); st.State != proto.TxnCommitted || st.BootDefault != two || st.Profile != two {
					t.Errorf("%+v", st)
				}
				return
			}
			// The boot default is the old system still: one reboot brings it back.
			waitUntil(t, "the reboot back", rebooting)
			if system := boot(t, a.host, 4); system != one {
				t.Fatalf("it boots %q", system)
			}
			if err := BootGuard(t.Context(), a.host, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			if st, err := a.host.status(txn); err != nil || st.State != proto.TxnRolledBack {
				t.Errorf("%+v, %v", st, err)
			}
			a.isOld(one)
		})
	}
}

func TestTheHostIsDrainedAndUsedAgain(t *testing.T) {
	a, one, two := switched(t)
	calls := filepath.Join(a.host.Run, "calls")
	hook := func(name, then string) []string {
		return []string{"/bin/sh", "-c", "echo " + name + " /x-" + name + " >>" + calls + "; " + then}
	}
	policy := func(r *proto.BeginRequest) { r.Guard.Drain, r.Guard.Undrain = hook("drain", ""), hook("undrain", "") }
	if st := a.do(proto.ActionSwitch, two, policy); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	a.expect("drain drain", "test nixos-system-two", "boot nixos-system-two", "undrain undrain")
	st := a.do(proto.ActionSwitch, one, func(r *proto.BeginRequest) {
		r.Guard.Drain, r.Guard.Undrain = hook("drain", "exit 3"), hook("undrain", "echo no >&2; exit 1")
	})
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "drain:") || len(st.Notices) != 1 || !strings.Contains(st.Notices[0], "undrain") {
		t.Errorf("%+v", st)
	}
	a.expect("drain drain", "undrain undrain")
}

func TestPreflightNamesWhatSpeaksAgainstIt(t *testing.T) {
	a, one, two := switched(t)
	begin := func(action proto.Action, skip ...string) []string {
		t.Helper()
		txn, err := a.begin(action, two, func(r *proto.BeginRequest) { r.Guard.Skip = skip })
		if err == nil {
			a.follow(txn, 0)
			return nil
		}
		e, ok := errors.AsType[*proto.Error](err)
		var data proto.PreflightData
		if !ok || e.Code != proto.CodePreflight || json.Unmarshal(e.Data, &data) != nil {
			t.Fatalf("%v", err)
		}
		var names []string
		for _, f := range data.Findings {
			names = append(names, f.Check)
		}
		return names
	}
	a.hook("check", "echo not now; exit 1")
	write(t, a.host.efiFile("LoaderEntryDefault"), efiText("gone.conf"))
	if got := begin(proto.ActionSwitch); !slices.Equal(got, []string{checkPreSwitch, checkBootVariable}) {
		t.Errorf("found %q", got)
	}
	if got := begin(proto.ActionSwitch, checkPreSwitch); !slices.Equal(got, []string{checkBootVariable}) {
		t.Errorf("with one skipped: %q", got)
	}
	// The programs of older releases do not know "check".
	a.hook("check", "echo 'Usage: switch-to-configuration [switch|boot|test]'; exit 1")
	if got := begin(proto.ActionSwitch); !slices.Equal(got, []string{checkBootVariable}) {
		t.Errorf("an older program: %q", got)
	}
	lock, err := lockNow(a.host.switchLockFile(), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	if got := begin(proto.ActionSwitch, checkBootVariable, checkSwitchLock, checkPreSwitch); !slices.Equal(got, []string{checkSwitchLock}) {
		t.Errorf("a lock can be skipped: %q", got)
	}
	lock.Close()
	if left, err := a.host.journals(); err != nil || len(left) != 1 {
		t.Errorf("journals of what was refused: %q, %v", left, err)
	}
	a.calls()
	if got := begin(proto.ActionSwitch, checkBootVariable); got != nil {
		t.Errorf("with all skipped: %q", got)
	}
	_ = one
}

func TestAProfileThatSomebodyElseHasMovedIsPutBack(t *testing.T) {
	a, one, two := switched(t)
	three := toplevel(t, a.host, "three")
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{})
	if err := a.host.setGeneration(2, three); err != nil {
		t.Fatal(err)
	}
	nonce, err := a.nonce(txn)
	if err != nil {
		t.Fatal(err)
	}
	confirmed(t, a.host, txn, nonce)
	st, _, _ := a.follow(txn, 0)
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "somebody else") || st.Profile != one {
		t.Errorf("%+v", st)
	}
	// I15: what others have made stays.
	if all, err := a.host.generations(); err != nil || all[2] != three || len(all) != 2 {
		t.Errorf("generations %v, %v", all, err)
	}
}

func TestOldTransactionsAreForgotten(t *testing.T) {
	a, _, two := switched(t)
	first, err := a.host.newest()
	if err != nil {
		t.Fatal(err)
	}
	old := a.host.seen()
	for i := range keptTransactions + 3 {
		id := fmt.Sprintf("t%06d-aaaaaa", i+2)
		state := guard.Begin(guard.Switch, guard.Policy{}, old, two, two, a.host.bootID())
		state.Phase = guard.RolledBack
		if err := a.host.open(opening{Txn: id}, state); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(realDisk{}, a.host.journalPath(id), a.host.shadowPath(id))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.append(entry{State: state, Finished: true}, true), j.close()); err != nil {
			t.Fatal(err)
		}
	}
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted || st.Txn[1:7] != "000025" {
		t.Errorf("%+v", st)
	}
	if ids, err := a.host.transactions(); err != nil || len(ids) > keptTransactions+1 {
		t.Errorf("%d transactions, %v", len(ids), err)
	}
	if _, err := a.host.status(first); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("the first: %v", err)
	}
	var list proto.TransactionsResult
	if err := a.client.Call(t.Context(), proto.MethodTransactions, nil, &list); err != nil || list.Transactions[0].Toplevel != two {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestWhatServesAConnectionIsFound(t *testing.T) {
	chain := func(names ...string) []process { // from the client up
		var out []process
		for i, name := range names {
			out = append(out, process{pid: 100 + i, name: name})
		}
		return out
	}
	for name, tc := range map[string]struct {
		chain    []process
		listener int
		want     string
	}{
		"root at a listener":            {chain("fleet-helper", "bash", "sshd-session", "sshd"), 103, "sshd-session"},
		"a user at a listener":          {chain("fleet-helper", "sh", "sshd-session", "sshd-session", "sshd"), 104, "sshd-session"},
		"root, started by a socket":     {chain("fleet-helper", "bash", "sshd-session"), 0, "sshd-session"},
		"a user, started by a socket":   {chain("fleet-helper", "sh", "sshd", "sshd"), 0, "sshd"},
		"another server":                {chain("fleet-helper", "sh", "tinysshd", "tcpserver"), 103, "tinysshd"},
		"nobody in between":             {chain("fleet-helper"), 0, "fleet-helper"},
		"a console":                     {chain("fleet-helper", "bash", "login"), 0, "login"},
		"a server that is its own kind": {chain("fleet-helper", "sh", "dropbear", "dropbear"), 103, "dropbear"},
	} {
		i := servedBy(tc.chain, func(pid int) bool { return pid == tc.listener })
		if tc.chain[i].name != tc.want || tc.chain[i].pid == tc.listener {
			t.Errorf("%s: %+v", name, tc.chain[i])
		}
	}
}

func TestATransactionThatNeverBeganIsForgotten(t *testing.T) {
	a, one, two := switched(t)
	// Its agent was killed between the journal and the guard.
	id := "t000002-aaaaaa"
	state := guard.Begin(guard.Switch, guard.Policy{Switch: time.Minute}, a.host.seen(), two, two, a.host.bootID())
	if err := a.host.open(opening{Txn: id, BootID: a.host.bootID(), Helper: a.host.Helper}, state); err != nil {
		t.Fatal(err)
	}
	if st := a.do(proto.ActionTest, one); st.State != proto.TxnTested {
		t.Errorf("%+v", st)
	}
	a.expect("test nixos-system-one")
	if _, err := a.host.status(id); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("the one before: %v", err)
	}
	// A guard that comes too late finds nothing.
	if err := RunGuard(t.Context(), a.host, id); err != nil {
		t.Error(err)
	}
	a.expect()
}
