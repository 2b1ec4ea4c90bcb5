package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fleet/closure/run"
	"fleet/push/guard"
	"fleet/push/proto"
)

func TestScriptsAreToldThatSomebodyDeploys(t *testing.T) {
	a := newActivation(t)
	one, two := toplevel(t, a.host, "one"), toplevel(t, a.host, "two")
	told := filepath.Join(a.host.Run, "told")
	for _, action := range []string{"test", "boot", "dry-activate"} {
		a.hook(action, `echo "$1 ${FLEET_ONLINE_ACTIVATION-never}" >>`+told+"\n"+`[ "$1 $me" != "test `+two+`" ] || code=2`+"\n")
	}
	a.do(proto.ActionSwitch, one)
	a.do(proto.ActionDryActivate, two)
	if st := a.do(proto.ActionSwitch, two); st.State != proto.TxnRolledBack {
		t.Errorf("%+v", st)
	}
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	want := "test 1\nboot never\ndry-activate 1\ntest 1\ntest never\n"
	if string(text) != want {
		t.Errorf("told:\n%swant:\n%s", text, want)
	}
}

func TestTheTargetOfADeploymentIsStartedAfterTheSwitch(t *testing.T) {
	for name, tc := range map[string]struct {
		p       program
		exit    int
		missing bool
		started bool
	}{
		"switched":               {program{Verb: guard.VerbTest, Online: true}, 0, false, true},
		"switched, units failed": {program{Verb: guard.VerbTest, Online: true}, 4, false, true},
		"half switched":          {program{Verb: guard.VerbTest, Online: true}, 2, false, false},
		"going back":             {program{Verb: guard.VerbTest, NoCheck: true}, 0, false, false},
		"committing":             {program{Verb: guard.VerbBoot}, 0, false, false},
		"a dry activation":       {program{Verb: guard.Verb(proto.ActionDryActivate), Online: true}, 0, false, false},
		"a system without it":    {program{Verb: guard.VerbTest, Online: true}, 0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			system := t.TempDir()
			if !tc.missing {
				write(t, filepath.Join(system, "etc", "systemd", "system", onlineTarget), "[Unit]\n")
			}
			var ran []string
			host := &Host{Run: t.TempDir(), Runner: run.RunnerFunc(func(_ context.Context, cmd run.Cmd) error {
				ran = append(ran, strings.Join(cmd.Argv, " "))
				if cmd.Argv[0] != "systemctl" && tc.exit != 0 {
					return &run.ExitError{Argv: cmd.Argv, Code: tc.exit}
				}
				return nil
			})}
			file, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			tc.p.System = system
			end := host.runSwitch(t.Context(), tc.p, newSwitchWriter(file, 1<<20))
			if end.Exit != tc.exit {
				t.Errorf("exit code %d, want %d", end.Exit, tc.exit)
			}
			if started := slices.Contains(ran, "systemctl start "+onlineTarget); started != tc.started {
				t.Errorf("ran %q", ran)
			}
		})
	}
}

// What fails in the target is a failed unit: the switch is not called failed for it.
func TestATargetThatFailsIsNoFailedSwitch(t *testing.T) {
	system := t.TempDir()
	write(t, filepath.Join(system, "etc", "systemd", "system", onlineTarget), "[Unit]\n")
	host := &Host{Run: t.TempDir(), Runner: run.RunnerFunc(func(_ context.Context, cmd run.Cmd) error {
		if cmd.Argv[0] == "systemctl" {
			return &run.ExitError{Argv: cmd.Argv, Code: 1}
		}
		return nil
	})}
	log := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if end := host.runSwitch(t.Context(), program{System: system, Verb: guard.VerbTest, Online: true}, newSwitchWriter(file, 1<<20)); end.Exit != 0 {
		t.Errorf("%+v", end)
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), onlineTarget+": ") {
		t.Errorf("log %q, %v", text, err)
	}
}
