package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/push/proto"
)

func TestTheSecondOperatorIsToldWhoHoldsTheLock(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	a.hook("test", "while [ ! -e "+a.host.Run+"/go ]; do sleep 0.05; done")
	txn, err := a.begin(proto.ActionSwitch, one)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.begin(proto.ActionSwitch, one, func(r *proto.BeginRequest) { r.Owner = "bob@laptop" })
	e, ok := errors.AsType[*proto.Error](err)
	var holder proto.LockHolder
	if !ok || e.Code != proto.CodeLocked || json.Unmarshal(e.Data, &holder) != nil || holder.Owner != "ann@desk" || holder.Txn != txn {
		t.Errorf("second begin: %v, %+v", err, holder)
	}
	var info proto.HostInfo
	if err := a.client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil || info.Lock == nil || info.Lock.Txn != txn {
		t.Errorf("info: %+v, %v", info.Lock, err)
	}
	waitUntil(t, "the first step", func() bool { st, err := a.host.status(txn); return err == nil && st.Step == stepTest })
	var st proto.TxnStatus
	err = a.client.Call(t.Context(), proto.MethodAbort, proto.TxnRequest{Txn: txn}, &st)
	if proto.CodeOf(err) != proto.CodeForbidden {
		t.Errorf("abort of a running step: %v", err)
	}
	write(t, filepath.Join(a.host.Run, "go"), "")
	if err := a.client.Call(t.Context(), proto.MethodConfirm, proto.TxnRequest{Txn: txn}, &st); err != nil || st.State != proto.TxnCommitted {
		t.Errorf("confirm: %+v, %v", st, err)
	}
}

// prepare makes a transaction without a worker.
func (a *activation) prepare(toplevel string) request {
	a.Helper()
	req, err := a.host.newTxn(request{
		BeginRequest: proto.BeginRequest{Action: proto.ActionSwitch, Toplevel: toplevel, Owner: "ann@desk"},
		Since:        time.Now().UTC().Format(time.RFC3339), BootID: a.host.bootID(),
	})
	if err != nil {
		a.Fatal(err)
	}
	return req
}

func TestAWorkerThatFindsTheLockTakenSaysSo(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	req := a.prepare(one)
	lock, err := a.host.acquireLock(t.Context(), proto.LockHolder{Owner: "bob@laptop", Txn: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := RunWorker(t.Context(), a.host, a.host.txnDir(req.Txn)); err != nil {
		t.Fatal(err)
	}
	st, err := a.host.status(req.Txn)
	if err != nil || st.State != proto.TxnFailed || st.Step != stepLock || st.Lock == nil || st.Lock.Owner != "bob@laptop" {
		t.Errorf("%+v, %v", st, err)
	}
	a.expect()
}

func TestAnAbortBeforeTheFirstStepChangesNothing(t *testing.T) {
	a := newActivation(t)
	req := a.prepare(toplevel(t, a.host, "one"))
	aborted := make(chan error, 1)
	var st proto.TxnStatus
	go func() {
		aborted <- a.client.Call(t.Context(), proto.MethodAbort, proto.TxnRequest{Txn: req.Txn}, &st)
	}()
	waitUntil(t, "the decision", func() bool {
		_, err := os.Lstat(filepath.Join(a.host.txnDir(req.Txn), decisionName))
		return err == nil
	})
	if err := RunWorker(t.Context(), a.host, a.host.txnDir(req.Txn)); err != nil {
		t.Fatal(err)
	}
	if err := <-aborted; err != nil || st.State != proto.TxnFailed || !strings.Contains(st.Reason, "nothing was changed") {
		t.Errorf("%+v, %v", st, err)
	}
	a.expect()
}

func TestAKilledWorkerIsSeenAndFreesTheLock(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	// Without a service manager nobody ends what a killed worker has started: it ends by itself, with the test.
	a.hook("test", "echo $PPID >"+a.host.Run+"/worker; while [ -d "+a.host.Run+" ]; do sleep 0.1; done")
	txn, err := a.begin(proto.ActionSwitch, one)
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	waitUntil(t, "the worker's number", func() bool {
		text, err := os.ReadFile(filepath.Join(a.host.Run, "worker"))
		n, scanErr := fmt.Sscan(string(text), &pid)
		return err == nil && scanErr == nil && n == 1
	})
	worker, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Kill(); err != nil {
		t.Fatal(err)
	}
	st, _, _ := a.follow(txn, 0)
	if st.State != proto.TxnFailed || st.Step != stepTest || !strings.Contains(st.Reason, "its process was ended") {
		t.Errorf("%+v", st)
	}
	a.unhook("test")
	if st := a.do(proto.ActionSwitch, one); st.State != proto.TxnCommitted {
		t.Errorf("the next one: %+v", st)
	}
}

func TestARebootInTheMiddleIsSeen(t *testing.T) {
	a := newActivation(t)
	req := a.prepare(toplevel(t, a.host, "one"))
	write(t, a.host.BootID, "other\n")
	st, err := a.host.status(req.Txn)
	if err != nil || st.State != proto.TxnFailed || !strings.Contains(st.Reason, "rebooted") {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := a.host.status("t000099-aaaaaa"); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("unknown transaction: %v", err)
	}
	if _, err := a.host.status("../../etc"); proto.CodeOf(err) != proto.CodeUsage {
		t.Errorf("no transaction: %v", err)
	}
}

func TestBeginRefusesWhatCannotBeActivated(t *testing.T) {
	a := newActivation(t)
	good := toplevel(t, a.host, "one")
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "no system")
	nonsense := addToStore(t, file)
	for name, tc := range map[string]struct {
		toplevel string
		change   func(*proto.BeginRequest)
		code     proto.ErrorCode
	}{
		"no store path":            {"/etc", nil, proto.CodeUsage},
		"a path below":             {good + "/bin", nil, proto.CodeUsage},
		"not valid":                {"/nix/store/" + strings.Repeat("z", 32) + "-gone", nil, proto.CodeNotFound},
		"no system":                {nonsense, nil, proto.CodeUsage},
		"no such action":           {good, func(r *proto.BeginRequest) { r.Action = "check" }, proto.CodeUsage},
		"no owner":                 {good, func(r *proto.BeginRequest) { r.Owner = "" }, proto.CodeUsage},
		"an owner of two lines":    {good, func(r *proto.BeginRequest) { r.Owner = "a\nb" }, proto.CodeUsage},
		"no specialisation":        {good, func(r *proto.BeginRequest) { r.Specialisation = "red" }, proto.CodeNotFound},
		"a specialisation outside": {good, func(r *proto.BeginRequest) { r.Specialisation = "../.." }, proto.CodeUsage},
		"a negative timeout":       {good, func(r *proto.BeginRequest) { r.Guard = &proto.GuardPolicy{SwitchSeconds: -1} }, proto.CodeUsage},
	} {
		t.Run(name, func(t *testing.T) {
			change := tc.change
			if change == nil {
				change = func(*proto.BeginRequest) {}
			}
			if _, err := a.begin(proto.ActionSwitch, tc.toplevel, change); proto.CodeOf(err) != tc.code {
				t.Errorf("got %v", err)
			}
		})
	}
	a.host.UID = 1000
	_, err := a.begin(proto.ActionSwitch, good)
	if e, ok := errors.AsType[*proto.Error](err); !ok || e.Code != proto.CodeForbidden || e.Remedy == "" {
		t.Errorf("without root: %v", err)
	}
}

func TestOldTransactionsAreForgotten(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	var first string
	for i := range keptTransactions + 5 {
		if req := a.prepare(one); i == 0 {
			first = req.Txn
		}
	}
	ids, err := a.host.transactions()
	if err != nil || len(ids) > keptTransactions+1 {
		t.Errorf("%d transactions, %v", len(ids), err)
	}
	if _, err := a.host.status(first); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("the first: %v", err)
	}
}

// failingUnits is a service manager of which only the list of failed units is asked for.
type failingUnits struct {
	*Processes
	lists [][]string
}

func (f *failingUnits) Failed(context.Context) ([]string, error) {
	list := f.lists[0]
	f.lists = f.lists[1:]
	return list, nil
}

func TestNewlyFailedUnitsAreNamedWithTheEndOfTheirLogs(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	a.hook("test", "ln -sfn $me "+a.host.Run+"/current-system; exit 4")
	req := a.prepare(one)
	a.host.Units = &failingUnits{NewProcesses(), [][]string{{"old.service"}, {"db.service", "fleet-x.service", "old.service"}}}
	real := a.host.Runner
	a.host.Runner = run.RunnerFunc(func(ctx context.Context, cmd run.Cmd) error {
		if cmd.Argv[0] == "journalctl" { // there is no journal outside of a booted system
			_, err := io.WriteString(cmd.Stdout, "one\n\x1b[1mtwo\x1b[0m\n\n"+strings.Repeat("x", 10000)+"\n")
			return err
		}
		return real.Run(ctx, cmd)
	})
	if err := RunWorker(t.Context(), a.host, a.host.txnDir(req.Txn)); err != nil {
		t.Fatal(err)
	}
	st, err := a.host.status(req.Txn)
	if err != nil {
		t.Fatal(err)
	}
	want := []proto.FailedUnit{{Name: "db.service", Log: []string{"one", "two", strings.Repeat("x", maxLine) + "…"}}}
	if diff := cmp.Diff(want, st.FailedUnits); diff != "" {
		t.Error(diff)
	}
}

func TestLogPiecesEndWithWholeCharacters(t *testing.T) {
	text := []byte("aä€😀")
	for cut := range len(text) + 1 {
		n := wholeRunes(text[:cut], false)
		if !bytes.Equal([]byte(string([]rune(string(text[:n])))), text[:n]) || cut-n > 3 {
			t.Errorf("cut at %d gives %d", cut, n)
		}
	}
	if n := wholeRunes([]byte{0xff, 0xfe}, false); n != 2 {
		t.Errorf("what is no text is kept back: %d", n)
	}
}

// reexecuted starts units as systemd does that is executed anew meanwhile: they start, and nobody is told.
type reexecuted struct {
	Units
	before func()
}

func (u reexecuted) Start(ctx context.Context, unit Unit) error {
	err := u.Units.Start(ctx, unit)
	u.before()
	return errors.Join(err, errors.New("the connection to systemd was closed"))
}

func TestAWorkerThatWasStartedAllTheSameIsKept(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	a.host.Units = reexecuted{a.host.Units, func() {
		waitUntil(t, "the worker's first step", func() bool {
			id, err := a.host.newest()
			if err != nil {
				return false
			}
			st, err := a.host.status(id)
			return err == nil && st.State != proto.TxnPrepared
		})
	}}
	if st := a.do(proto.ActionSwitch, one); st.State != proto.TxnCommitted || st.BootDefault != one {
		t.Errorf("%+v", st)
	}
}

func TestAWorkerThatComesTooLateChangesNothing(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	late := make(chan Unit, 1)
	a.host.Units = lost{a.host.Units, late}
	if _, err := a.begin(proto.ActionSwitch, one); err == nil {
		t.Fatal("a worker that did not start was no error")
	}
	unit := <-late
	if err := RunWorker(t.Context(), a.host, unit.Argv[len(unit.Argv)-1]); err == nil {
		t.Error("it found its transaction")
	}
	a.expect()
}

// lost starts nothing.
type lost struct {
	Units
	units chan Unit
}

func (u lost) Start(_ context.Context, unit Unit) error {
	u.units <- unit
	return errors.New("no answer")
}

func TestTheClockDoesNotDecideWhetherAWorkerIsLate(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	for _, set := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		req := a.prepare(one)
		dir := a.host.txnDir(req.Txn)
		when := time.Now().Add(set)
		if err := os.Chtimes(filepath.Join(dir, requestName), when, when); err != nil {
			t.Fatal(err)
		}
		if st, err := a.host.status(req.Txn); err != nil || st.State != proto.TxnPrepared {
			t.Errorf("%v: just begun: %+v, %v", set, st, err)
		}
		req.Begun -= time.Hour
		if err := writeJSON(filepath.Join(dir, requestName), req); err != nil {
			t.Fatal(err)
		}
		if st, err := a.host.status(req.Txn); err != nil || st.State != proto.TxnFailed {
			t.Errorf("%v: begun an hour ago: %+v, %v", set, st, err)
		}
	}
}

// silent is a systemd that does not answer.
type silent struct{ Units }

func (silent) Failed(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestASilentSystemdDoesNotKeepTheLock(t *testing.T) {
	w := &worker{host: &Host{Units: silent{}}}
	synctest.Test(t, func(t *testing.T) {
		if _, err := w.listFailed(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
