package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"fleet/closure/run"
	"fleet/push/proto"
)

// onHost marks a process on a host of the testbed, where systemd is PID 1: that host, and not the machine that tests, runs these tests.
const onHost = "FLEET_AGENT_ON_HOST"

// systemdHost is a host whose units are systemd's.
func systemdHost(t *testing.T) *Host {
	t.Helper()
	if os.Getenv(onHost) == "" {
		t.Skip("runs on a host of the testbed, see TestOnAHostWithSystemd (build tag cluster)")
	}
	host := testHost(t)
	host.Units = SystemdUnits{}
	places{
		Run: host.Run, NixVar: host.NixVar, Boot: host.Boot, EFIVars: host.EFIVars, BootID: host.BootID, Systemd: true,
	}.save(t)
	return host
}

func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: append([]string{"/bin/sh", "-euc", script, "sh"}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestSystemdRunsAgentAndWorker(t *testing.T) {
	host := systemdHost(t)
	ready := start(t, host, StartOptions{Grace: 30 * time.Second})
	unit := "fleet-" + filepath.Base(filepath.Dir(ready.Socket)) + ".service"
	if got := sh(t, `systemctl show --property=MainPID,ActiveState --value "$1" | tr '\n' ' '`, unit); !strings.Contains(got, "active") {
		t.Errorf("unit %s: %s", unit, got)
	}
	checkSecrecy(t, ready)
	client, err := proto.NewClient(t.Context(), attach(t, ready.Socket), proto.Hello{Token: ready.Token})
	if err != nil {
		t.Fatal(err)
	}
	a := &activation{t, host, client}
	one := toplevel(t, host, "one")
	a.hook("test", `unit=$(sed -n 's,^0::.*/,,p' /proc/self/cgroup); echo "$unit"; systemctl show --property=RuntimeMaxUSec,IgnoreOnIsolate,DefaultDependencies,Type "$unit"`)
	txn, err := a.begin(proto.ActionSwitch, one)
	if err != nil {
		t.Fatal(err)
	}
	st, log, _ := a.follow(txn, 0)
	if st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	for _, want := range []string{workerUnit(txn, 1), "Type=exec", "RuntimeMaxUSec=16min", "IgnoreOnIsolate=yes", "DefaultDependencies=no"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	client.Close()
	end(t, ready)
	waitUntil(t, "the end of the units", func() bool {
		return sh(t, `systemctl list-units --all --plain --no-legend 'fleet-*'`) == ""
	})
}

func TestSystemdNamesFailedUnitsWithTheirLogs(t *testing.T) {
	host := systemdHost(t)
	client, _ := connect(t, host)
	a := &activation{t, host, client}
	one := toplevel(t, host, "one")
	a.hook("test", `systemd-run --quiet --unit=broken-one --property=RemainAfterExit=yes sh -c 'echo reason one; echo reason two; exit 7' || true
sleep 0.3
ln -sfn "$me" `+host.Run+`/current-system
exit 4`)
	st := a.do(proto.ActionSwitch, one)
	defer sh(t, "systemctl reset-failed")
	i := slices.IndexFunc(st.FailedUnits, func(u proto.FailedUnit) bool { return u.Name == "broken-one.service" })
	if i < 0 {
		t.Fatalf("%+v", st)
	}
	if log := strings.Join(st.FailedUnits[i].Log, "\n"); !strings.Contains(log, "reason one\nreason two") {
		t.Errorf("its log: %q", log)
	}
	// There is no old system to go back to.
	if st.State != proto.TxnLeftAsIs || st.ExitCode != 4 || st.Profile != "" || st.Current != one {
		t.Errorf("%+v", st)
	}
}

func TestSystemdEndsAllOfAWorker(t *testing.T) {
	host := systemdHost(t)
	client, _ := connect(t, host)
	a := &activation{t, host, client}
	one, two := toplevel(t, host, "one"), toplevel(t, host, "two")
	a.do(proto.ActionSwitch, one)
	a.hook("test", "[ $me = "+one+" ] || { setsid sleep 4242 & echo running >"+host.Run+"/running; sleep 4242; }")
	txn, err := a.begin(proto.ActionSwitch, two)
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the hook", func() bool { return !gone(filepath.Join(host.Run, "running")) })
	if running, err := host.Units.Running(t.Context(), workerUnit(txn, 1)); err != nil || !running {
		t.Errorf("running: %v, %v", running, err)
	}
	sh(t, `systemctl kill --signal=KILL --kill-whom=main "$1"`, workerUnit(txn, 1))
	st, _, _ := a.follow(txn, 0)
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "was killed") || st.Current != one {
		t.Errorf("%+v", st)
	}
	waitUntil(t, "the end of what the worker had started", func() bool { return sh(t, "pgrep -f 'sleep 424[2]' || true") == "" })
	// A switch that is too slow ends as a whole, too.
	st = a.do(proto.ActionSwitch, two, func(r *proto.BeginRequest) { r.Guard.SwitchSeconds = 1 })
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "did not end within") {
		t.Errorf("%+v", st)
	}
	if left := sh(t, "pgrep -f 'sleep 424[2]' || true"); left != "" {
		t.Errorf("processes are left: %s", left)
	}
	a.unhook("test")
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted {
		t.Errorf("the next one: %+v", st)
	}
	if err := host.Units.Stop(t.Context(), "fleet-none.service"); err != nil {
		t.Errorf("stop of a unit that is not there: %v", err)
	}
}

func TestSystemdKeepsTheGuardAlive(t *testing.T) {
	host := systemdHost(t)
	client, _ := connect(t, host)
	a := &activation{t, host, client}
	one, two := toplevel(t, host, "one"), toplevel(t, host, "two")
	a.do(proto.ActionSwitch, one)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{ConfirmSeconds: 60})
	unit := guardUnit(txn)
	shown := sh(t, `systemctl show --property=Restart,IgnoreOnIsolate,DefaultDependencies,OOMScoreAdjust,RestartPreventExitStatus,StartLimitIntervalUSec "$1" | sort | tr '\n' ' '`, unit)
	if want := "DefaultDependencies=no IgnoreOnIsolate=yes OOMScoreAdjust=-1000 Restart=always RestartPreventExitStatus=0 StartLimitIntervalUSec=0"; shown != want {
		t.Errorf("unit: %s", shown)
	}
	if timer := sh(t, `systemctl list-timers --all --no-legend --plain 'fleet-backstop-*' | grep -c "$1"`, txn); timer != "1" {
		t.Errorf("%s backstop timers", timer)
	}
	before := sh(t, `systemctl show --property=MainPID --value "$1"`, unit)
	for _, signal := range []string{"KILL", "TERM", "HUP", "SEGV"} {
		sh(t, `systemctl kill --signal="$2" "$1"; systemctl daemon-reload; systemctl daemon-reexec`, unit, signal)
		waitUntil(t, "the next guard", func() bool {
			pid := sh(t, `systemctl show --property=MainPID --value "$1"`, unit)
			if pid == before || pid == "0" || !host.journalHeld(txn) {
				return false
			}
			before = pid
			return true
		})
	}
	if st, err := host.status(txn); err != nil || st.State != proto.TxnAwaitConfirm {
		t.Errorf("%+v, %v", st, err)
	}
	for _, fd := range strings.Fields(sh(t, `ls -l /proc/"$1"/fd | sed -n 's/.* -> //p'`, before)) { // I7
		if strings.HasPrefix(fd, "pipe:") || strings.HasPrefix(fd, "/dev/pts") {
			t.Errorf("the guard holds %s", fd)
		}
	}
	nonce, err := a.nonce(txn)
	if err != nil {
		t.Fatal(err)
	}
	listens(t, host, txn)
	waitUntil(t, "the confirmation", func() bool { return confirmed(t, host, txn, nonce).Confirmed })
	if st, _, _ := a.follow(txn, 0); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	left := ""
	defer func() {
		if t.Failed() {
			t.Log(left, sh(t, `systemctl status --no-pager --lines=50 'fleet-*' || true; journalctl --no-pager --unit="$1" --lines=80`, unit))
		}
	}()
	waitUntil(t, "the end of all units", func() bool {
		left = sh(t, `systemctl list-units --all --plain --no-legend 'fleet-guard-*' 'fleet-switch-*' 'fleet-backstop-*'`)
		return left == ""
	})
}

func TestSystemdStartsTheBackstopWhereTheGuardIsGone(t *testing.T) {
	host := systemdHost(t)
	client, _ := connect(t, host)
	a := &activation{t, host, client}
	one, two := toplevel(t, host, "one"), toplevel(t, host, "two")
	a.do(proto.ActionSwitch, one)
	txn := a.guarded(proto.ActionSwitch, two, proto.GuardPolicy{ConfirmSeconds: 5})
	sh(t, `systemctl stop "$1" "$2"`, guardUnit(txn), backstopTimer(txn))
	unit := host.guardProcess(backstopUnit(txn), txn, host.Helper)
	unit.Once = 2 * time.Second
	if err := host.Units.Start(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	sh(t, "systemctl daemon-reload") // which would begin to count anew what is counted from now
	begun := time.Now()
	st, _, _ := a.follow(txn, 0)
	if st.State != proto.TxnRolledBack || st.Current != one {
		t.Errorf("%+v", st)
	}
	if took := time.Since(begun); took > 12*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestSystemdRefusesAProgramThatIsNone(t *testing.T) {
	host := systemdHost(t)
	err := host.Units.Start(t.Context(), Unit{Name: "fleet-test-none.service", Argv: []string{"/does/not/exist"}})
	if err == nil || !strings.Contains(err.Error(), "fleet-test-none.service") {
		t.Errorf("got %v", err)
	}
	err = host.Units.Start(t.Context(), Unit{Name: "fleet-test-short.service", Argv: []string{"/bin/sleep", "60"}, MaxRuntime: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the end of its time", func() bool {
		running, err := host.Units.Running(t.Context(), "fleet-test-short.service")
		return err == nil && !running
	})
}

func TestSystemdIsExecutedAnewMeanwhile(t *testing.T) {
	host := systemdHost(t)
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			_ = run.Run(t.Context(), run.Cmd{Argv: []string{"systemctl", "daemon-reexec"}})
			select {
			case <-done:
				return
			case <-time.After(700 * time.Millisecond):
			}
		}
	}()
	defer func() { close(done); <-stopped }()
	for i := range 10 {
		name := fmt.Sprintf("fleet-test-reexec-%d-%d.service", os.Getpid(), i)
		if err := host.Units.Start(t.Context(), Unit{Name: name, Argv: []string{"/bin/sleep", "60"}, Env: host.environment()}); err != nil {
			t.Error(err)
		}
		if got := sh(t, `for i in 1 2 3 4 5 6 7 8 9; do systemctl is-active "$1" && exit; sleep 0.3; done; exit 0`, name); got != "active" {
			t.Errorf("%s: %q", name, got)
		}
		_ = host.Units.Stop(t.Context(), name)
	}
}

func TestAnAnswerOfSystemdIsFinal(t *testing.T) {
	for _, tc := range []struct {
		err  error
		away bool
	}{
		{fmt.Errorf("start: %w", godbus.Error{Name: "org.freedesktop.systemd1.UnitExists"}), false},
		{fmt.Errorf("start: %w", &jobError{"x.service", "failed"}), false},
		{fmt.Errorf("connect: %w", syscall.ECONNREFUSED), true},
		{context.DeadlineExceeded, true},
	} {
		if got := wentAway(tc.err); got != tc.away {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
}
