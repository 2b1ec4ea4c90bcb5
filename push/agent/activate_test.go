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

// switchScript behaves as switch-to-configuration and the installer of a boot loader do, on the folders of a test host. What a test wants to go wrong
// is a file hook-<action>, which is run first.
const switchScript = `#!/bin/sh
me=$(readlink -f "$(dirname "$0")/..")
[ -f "RUN/hook-$1" ] || [ "$1" != check ] || exit 0
echo "$1 $me" >>RUN/calls
echo "the $1 of $me"
printf '\033[31mred\033[0m\n'
code=0
[ -f "RUN/hook-$1" ] && . "RUN/hook-$1"
case $1 in
test) ln -sfn "$me" RUN/current-system.new; mv -T RUN/current-system.new RUN/current-system ;;
boot)
	loader=BOOT/loader
	mkdir -p $loader/entries BOOT/EFI
	: >$loader/oneshot-by-file
	echo kernel >BOOT/EFI/kernel
	default=none
	names=
	for link in VAR/profiles/system-profiles/*-link VAR/profiles/system-*-link; do
		[ -L "$link" ] || continue
		top=$(readlink "$link")
		name=$(basename "$link")
		printf 'title NixOS\nsort-key nixos\nversion %s\nlinux /EFI/kernel\noptions init=%s/init\n' "$name" "$top" >$loader/entries/new
		mv $loader/entries/new $loader/entries/nixos-$name.conf
		names="$names nixos-$name.conf"
		[ "$top" != "$me" ] || default=nixos-$name.conf
	done
	echo "default $default" >$loader/loader.conf.new
	mv $loader/loader.conf.new $loader/loader.conf
	for entry in $loader/entries/*.conf; do
		case $names in *"$(basename $entry)"*) ;; *) rm -f $entry ;; esac
	done ;;
esac
exit $code
`

// stubSystem makes the files of a system that can be activated.
func stubSystem(t *testing.T, host *Host, dir, version string) {
	t.Helper()
	script := strings.NewReplacer("RUN", host.Run, "BOOT", host.Boot[0], "VAR", host.NixVar).Replace(switchScript)
	for file, text := range map[string]string{
		"nixos-version": "26.05." + version, "bin/switch-to-configuration": script, "activate": "",
		"etc/systemd/system/fleet-boot-guard.service": "[Unit]\n",
	} {
		write(t, filepath.Join(dir, file), text)
	}
	if err := os.Chmod(filepath.Join(dir, "bin", "switch-to-configuration"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// toplevel puts a system into the real store: what activates it is a real program, started by a real worker.
func toplevel(t *testing.T, host *Host, name string, specialisations ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "nixos-system-"+name)
	stubSystem(t, host, dir, name)
	for _, s := range specialisations {
		child := filepath.Join(t.TempDir(), "nixos-system-"+name+"-"+s)
		stubSystem(t, host, child, s)
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
	req := proto.BeginRequest{Action: action, Toplevel: toplevel, Owner: "ann@desk", Guard: &proto.GuardPolicy{SelfConfirm: true}}
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
		if e.Log != "" && e.Offset < 2*maxSwitchLog && e.Offset != offset+uint64(log.Len()) {
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
		Current: one, Profile: one, BootDefault: one, Generation: 1, Notices: st.Notices,
	}
	if diff := cmp.Diff(want, st); diff != "" {
		t.Error(diff)
	}
	if len(st.Notices) != 1 || !strings.Contains(st.Notices[0], "none to go back to") {
		t.Errorf("notices: %q", st.Notices)
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
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted || st.Generation != 2 || st.BootDefault != two || len(st.Notices) != 0 {
		t.Errorf("second switch: %+v", st)
	}
	var newest proto.TxnStatus
	if err := a.client.Call(t.Context(), proto.MethodStatus, proto.TxnRequest{}, &newest); err != nil || newest.Toplevel != two {
		t.Errorf("newest: %+v, %v", newest, err)
	}
	left, err := os.ReadDir(a.host.rootsDir())
	if err != nil || len(left) != 1 || left[0].Name() != lastGood || toplevelAt(filepath.Join(a.host.rootsDir(), lastGood)).String() != two {
		t.Errorf("roots left: %v, %v", left, err)
	}
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

func TestADryActivationChangesNothing(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	a.do(proto.ActionSwitch, one)
	a.calls()
	if st := a.do(proto.ActionDryActivate, two); st.State != proto.TxnCommitted || st.BootDefault != one || st.Current != one {
		t.Errorf("%+v", st)
	}
	a.expect("dry-activate nixos-system-two")
	a.hook("dry-activate", "exit 1")
	if st := a.do(proto.ActionDryActivate, two); st.State != proto.TxnFailed || st.ExitCode != 1 || !strings.Contains(st.Reason, "refused") {
		t.Errorf("%+v", st)
	}
}

func TestAFailureBringsTheOldSystemBack(t *testing.T) {
	for name, tc := range map[string]struct {
		action, hook, step, reason string
		code                       int
	}{
		"an activation script":    {"test", "[ $me = OLD ] || exit 2", "test", "exit code 2", 2},
		"refused":                 {"test", "[ $me = OLD ] || exit 1", "test", "exit code 1", 1},
		"needs a reboot":          {"test", "[ $me = OLD ] || exit 100", "test", "exit code 100", 100},
		"killed":                  {"test", "[ $me = OLD ] || kill -9 $$", "test", "was killed by SIGKILL", -1},
		"lies about what it did":  {"test", "[ $me = OLD ] || exit 0", "health", "but the host runs", 0},
		"the loader cannot write": {"boot", "[ $me = OLD ] || exit 1", "boot", "exit code 1", 0},
		"the loader did nothing":  {"boot", "[ $me = OLD ] || exit 0", "verify", "boots", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := newActivation(t)
			one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
			a.do(proto.ActionSwitch, one)
			a.hook(tc.action, strings.ReplaceAll(tc.hook, "OLD", one))
			st := a.do(proto.ActionSwitch, two)
			if st.State != proto.TxnRolledBack || st.Step != tc.step || st.ExitCode != tc.code || !strings.Contains(st.Reason, tc.reason) {
				t.Errorf("%+v", st)
			}
			if st.BootDefault != one || st.Profile != one || st.Current != one || st.Generation != 1 {
				t.Errorf("runs %s, profile %s, default %s", st.Current, st.Profile, st.BootDefault)
			}
			if all, err := a.host.generations(); err != nil || len(all) != 1 {
				t.Errorf("generations: %v, %v", all, err)
			}
			if holder, err := a.host.LockHolder(); holder != nil || err != nil {
				t.Errorf("lock: %+v, %v", holder, err)
			}
		})
	}
}

func TestWithoutARollbackAFailureIsLeftAndDoneAgain(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	a.do(proto.ActionSwitch, one)
	a.hook("test", "ln -sfn $me "+a.host.Run+"/current-system; exit 2")
	noRollback := func(r *proto.BeginRequest) { r.Guard.NoRollback = true }
	if st := a.do(proto.ActionSwitch, two, noRollback); st.State != proto.TxnLeftAsIs || st.Current != two || st.Profile != one {
		t.Errorf("%+v", st)
	}
	unfinished := func() []string {
		var info proto.HostInfo
		if err := a.client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil {
			t.Fatal(err)
		}
		return info.Unfinished
	}
	if got := unfinished(); !cmp.Equal(got, []string{"test"}) {
		t.Errorf("unfinished: %q", got)
	}
	a.unhook("test")
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnCommitted {
		t.Errorf("%+v", st)
	}
	if got := unfinished(); len(got) != 0 {
		t.Errorf("unfinished at last: %q", got)
	}
}

func TestASlowSwitchIsEndedAndRolledBack(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	a.do(proto.ActionSwitch, one)
	a.hook("test", "[ $me = "+one+" ] || { trap '' TERM; while :; do sleep 1; done; }")
	st := a.do(proto.ActionSwitch, two, func(r *proto.BeginRequest) { r.Guard.SwitchSeconds = 1 })
	if st.State != proto.TxnRolledBack || !strings.Contains(st.Reason, "did not end within 1s") || st.Current != one {
		t.Errorf("%+v", st)
	}
}
