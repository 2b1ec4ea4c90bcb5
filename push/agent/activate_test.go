package agent

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// switchScript behaves as switch-to-configuration does, on the folders of a test host. What a test wants to go wrong
// is a file hook-<action>, which is run first.
const switchScript = `#!/bin/sh
me=$(readlink -f "$(dirname "$0")/..")
echo "$1 $me" >>RUN/calls
echo "the $1 of $me"
printf '\033[31mred\033[0m\n'
code=0
[ -f "RUN/hook-$1" ] && . "RUN/hook-$1"
case $1 in
test) ln -sfn "$me" RUN/current-system ;;
boot)
	mkdir -p BOOT/loader/entries
	printf 'title NixOS\nsort-key nixos\noptions init=%s/init\n' "$me" >BOOT/loader/entries/nixos-new.conf
	echo "default nixos-new.conf" >BOOT/loader/loader.conf ;;
esac
exit $code
`

// toplevel puts a system into the real store: what activates it is a real program, started by a real worker.
func toplevel(t *testing.T, host *Host, name string, specialisations ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "nixos-system-"+name)
	script := strings.NewReplacer("RUN", host.Run, "BOOT", host.Boot[0]).Replace(switchScript)
	put := func(dir, what string) {
		write(t, filepath.Join(dir, "nixos-version"), "26.05."+what)
		write(t, filepath.Join(dir, "bin", "switch-to-configuration"), script)
		if err := os.Chmod(filepath.Join(dir, "bin", "switch-to-configuration"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(dir, name)
	for _, s := range specialisations {
		child := filepath.Join(t.TempDir(), "nixos-system-"+name+"-"+s)
		put(child, s)
		if err := os.MkdirAll(filepath.Join(dir, "specialisation"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(addToStore(t, child), filepath.Join(dir, "specialisation", s)); err != nil {
			t.Fatal(err)
		}
	}
	return addToStore(t, dir)
}

func addToStore(t *testing.T, dir string) string {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: []string{"nix-store", "--add", dir}})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// activation is a host with a client.
type activation struct {
	*testing.T
	host   *Host
	client *proto.Client
}

func newActivation(t *testing.T) *activation {
	t.Helper()
	storetest.RequireNix(t)
	requireRoot(t)
	host := testHost(t)
	client, _ := connect(t, host)
	return &activation{t, host, client}
}

func (a *activation) begin(action proto.Action, toplevel string, change ...func(*proto.BeginRequest)) (string, error) {
	a.Helper()
	req := proto.BeginRequest{Action: action, Toplevel: toplevel, Owner: "ann@desk"}
	for _, c := range change {
		c(&req)
	}
	var result proto.BeginResult
	err := a.client.Call(a.Context(), proto.MethodBegin, req, &result)
	return result.Txn, err
}

// follow attaches to a transaction and returns its end, its log, and the states that it went through.
func (a *activation) follow(txn string, offset uint64) (proto.TxnStatus, string, []proto.TxnState) {
	a.Helper()
	stream, err := a.client.Open(a.Context(), proto.MethodAttach, proto.AttachRequest{Txn: txn, Offset: offset})
	if err != nil {
		a.Fatal(err)
	}
	var log strings.Builder
	var states []proto.TxnState
	dec := json.NewDecoder(stream)
	for {
		var e proto.TxnEvent
		if err := dec.Decode(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				a.Error(err)
			}
			break
		}
		log.WriteString(e.Log)
		if e.State != "" {
			states = append(states, e.State)
		}
		if e.Log != "" && e.Offset != offset+uint64(log.Len()) {
			a.Errorf("offset %d after %d bytes", e.Offset, log.Len())
		}
	}
	var st proto.TxnStatus
	if err := stream.Result(&st); err != nil {
		a.Fatal(err)
	}
	return st, log.String(), states
}

func (a *activation) do(action proto.Action, toplevel string, change ...func(*proto.BeginRequest)) proto.TxnStatus {
	a.Helper()
	txn, err := a.begin(action, toplevel, change...)
	if err != nil {
		a.Fatal(err)
	}
	st, log, _ := a.follow(txn, 0)
	a.Log(log)
	return st
}

// calls returns what was run since the last look, without the store's part of the paths.
func (a *activation) calls() []string {
	a.Helper()
	file := filepath.Join(a.host.Run, "calls")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := errors.Join(err, os.Remove(file)); err != nil {
		a.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		action, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		out = append(out, action+" "+strings.SplitN(filepath.Base(path), "-", 2)[1])
	}
	return out
}

func (a *activation) hook(action, script string) {
	a.Helper()
	write(a.T, filepath.Join(a.host.Run, "hook-"+action), script)
}

func (a *activation) unhook(action string) {
	a.Helper()
	if err := os.Remove(filepath.Join(a.host.Run, "hook-"+action)); err != nil {
		a.Fatal(err)
	}
}

func (a *activation) expect(want ...string) {
	a.Helper()
	if diff := cmp.Diff(want, a.calls()); diff != "" {
		a.Errorf("programs run: %s", diff)
	}
}

func TestSwitchTestsFirstAndCommitsThen(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	txn, err := a.begin(proto.ActionSwitch, one)
	if err != nil {
		t.Fatal(err)
	}
	st, log, states := a.follow(txn, 0)
	want := proto.TxnStatus{
		Txn: txn, State: proto.TxnCommitted, Action: proto.ActionSwitch, Toplevel: one, Owner: "ann@desk", Since: st.Since,
		Current: one, Profile: one, BootDefault: one, Generation: 1,
	}
	if diff := cmp.Diff(want, st); diff != "" {
		t.Error(diff)
	}
	a.expect("test nixos-system-one", "boot nixos-system-one")
	if !strings.Contains(log, "the test of "+one) || strings.Contains(log, "\x1b") {
		t.Errorf("log: %q", log)
	}
	if states[len(states)-1] != proto.TxnCommitted {
		t.Errorf("states: %q", states)
	}
	// A client that comes later gets the rest of the log.
	if _, rest, _ := a.follow(txn, 10); rest != log[10:] {
		t.Errorf("from offset 10: %q", rest)
	}
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted || st.Generation != 2 || st.BootDefault != two {
		t.Errorf("second switch: %+v", st)
	}
	var newest proto.TxnStatus
	if err := a.client.Call(t.Context(), proto.MethodStatus, proto.TxnRequest{}, &newest); err != nil || newest.Toplevel != two {
		t.Errorf("newest: %+v, %v", newest, err)
	}
	if left, _ := filepath.Glob(filepath.Join(a.host.NixVar, "gcroots/fleet/*")); len(left) != 0 {
		t.Errorf("roots left: %q", left)
	}
}

func TestOnlyMissingStepsAreDone(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	a.do(proto.ActionSwitch, one)
	a.calls()
	for _, action := range []proto.Action{proto.ActionSwitch, proto.ActionTest, proto.ActionBoot} {
		if st := a.do(action, one); st.State != proto.TxnCommitted {
			t.Errorf("%s again: %+v", action, st)
		}
		a.expect()
	}
	if st := a.do(proto.ActionTest, two); st.State != proto.TxnCommitted || st.Profile != one || st.BootDefault != one || st.Current != two {
		t.Errorf("test: %+v", st)
	}
	a.expect("test nixos-system-two")
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted || st.Profile != two {
		t.Errorf("switch after test: %+v", st)
	}
	a.expect("boot nixos-system-two")
	if st := a.do(proto.ActionBoot, one); st.State != proto.TxnCommitted || st.Current != two || st.BootDefault != one {
		t.Errorf("boot: %+v", st)
	}
	a.expect("boot nixos-system-one")
	if st := a.do(proto.ActionDryActivate, two); st.State != proto.TxnCommitted || st.BootDefault != one {
		t.Errorf("dry-activate: %+v", st)
	}
	a.expect("dry-activate nixos-system-two")
}

func TestASpecialisationRunsAndItsParentBoots(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one", "blue")
	st := a.do(proto.ActionSwitch, one, func(r *proto.BeginRequest) { r.Specialisation = "blue" })
	if st.State != proto.TxnCommitted || st.Profile != one || st.BootDefault != one || !strings.HasSuffix(st.Current, "-one-blue") {
		t.Errorf("%+v", st)
	}
	a.expect("test nixos-system-one-blue", "boot nixos-system-one")
}

func TestFailuresLeaveTheDefaultAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		action, hook, step, reason string
		code                       int
	}{
		"units failed":            {"test", "ln -sfn $me RUN/current-system; exit 4", "test", "units have failed: the host runs the new system and boots the old one", 4},
		"an activation script":    {"test", "exit 2", "test", "an activation script failed", 2},
		"refused":                 {"test", "echo no >&2; exit 1", "test", "refused", 1},
		"needs a reboot":          {"test", "exit 100", "test", "needs a reboot", 100},
		"killed":                  {"test", "kill -9 $$", "test", "was killed by SIGKILL", -1},
		"lies about what it did":  {"test", "exit 0", "verify", "but the host runs", 0},
		"the loader cannot write": {"boot", "exit 1", "boot", "refused", 1},
		"the loader did nothing":  {"boot", "exit 0", "verify", "still boots", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := newActivation(t)
			one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
			a.do(proto.ActionSwitch, one)
			a.hook(tc.action, strings.ReplaceAll(tc.hook, "RUN", a.host.Run))
			st := a.do(proto.ActionSwitch, two)
			if st.State != proto.TxnFailed || st.Step != tc.step || st.ExitCode != tc.code || !strings.Contains(st.Reason, tc.reason) {
				t.Errorf("%+v", st)
			}
			if st.BootDefault != one || (tc.action == "test" && st.Profile != one) {
				t.Errorf("profile %s, default %s", st.Profile, st.BootDefault)
			}
			if holder, err := a.host.LockHolder(); holder != nil || err != nil {
				t.Errorf("lock: %+v, %v", holder, err)
			}
		})
	}
}

func TestAfterFailedUnitsTheTestIsRunAgain(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	a.hook("test", "ln -sfn $me "+a.host.Run+"/current-system; exit 4")
	if st := a.do(proto.ActionSwitch, one); st.Current != one || st.Profile != "" {
		t.Errorf("%+v", st)
	}
	a.calls()
	a.unhook("test")
	if st := a.do(proto.ActionSwitch, one); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	a.expect("test nixos-system-one", "boot nixos-system-one")
}

func TestAStepThatFailedLastTimeIsDoneAgain(t *testing.T) {
	for step, hook := range map[string]string{
		"test": "ln -sfn $me RUN/current-system; exit 4",
		// As install-grub does: the menu is written, then the installation fails.
		"boot": "mkdir -p BOOT/loader/entries; printf 'options init=%s/init\\n' $me >BOOT/loader/entries/nixos-new.conf; " +
			"echo 'default nixos-new.conf' >BOOT/loader/loader.conf; exit 1",
	} {
		t.Run(step, func(t *testing.T) {
			a := newActivation(t)
			one := toplevel(t, a.host, "one")
			a.hook(step, strings.NewReplacer("RUN", a.host.Run, "BOOT", a.host.Boot[0]).Replace(hook))
			action := proto.Action(step)
			if st := a.do(action, one); st.State != proto.TxnFailed || st.Step != step {
				t.Fatalf("%+v", st)
			}
			a.expect(step + " nixos-system-one")
			unfinished := func() []string {
				var info proto.HostInfo
				if err := a.client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil {
					t.Fatal(err)
				}
				return info.Unfinished
			}
			if got := unfinished(); !cmp.Equal(got, []string{step}) {
				t.Errorf("unfinished: %q", got)
			}
			a.unhook(step)
			if st := a.do(action, one); st.State != proto.TxnCommitted {
				t.Errorf("%+v", st)
			}
			a.expect(step + " nixos-system-one")
			if got := unfinished(); len(got) != 0 {
				t.Errorf("unfinished at last: %q", got)
			}
			a.do(action, one)
			a.expect()
		})
	}
}

func TestASlowSwitchIsEnded(t *testing.T) {
	a := newActivation(t)
	one := toplevel(t, a.host, "one")
	a.hook("test", "sleep 600")
	st := a.do(proto.ActionSwitch, one, func(r *proto.BeginRequest) { r.Guard = &proto.GuardPolicy{SwitchSeconds: 1} })
	if st.State != proto.TxnFailed || !strings.Contains(st.Reason, "did not end within 1s") {
		t.Errorf("%+v", st)
	}
}
