package deploy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/push/proto"
)

func TestUnchangedMeansAllThatTheActionPromises(t *testing.T) {
	const old, top, spec = "/nix/store/old", "/nix/store/top", "/nix/store/spec"
	all := proto.HostInfo{Current: top, Profile: top, BootDefault: top}
	plain := target{toplevel: top, activated: top}
	for name, test := range map[string]struct {
		action Action
		info   proto.HostInfo
		want   target
		result bool
	}{
		"switch: runs and boots it":                         {ActionSwitch, all, plain, true},
		"switch: runs another":                              {ActionSwitch, proto.HostInfo{Current: old, Profile: top, BootDefault: top}, plain, false},
		"switch: the profile is another":                    {ActionSwitch, proto.HostInfo{Current: top, Profile: old, BootDefault: top}, plain, false},
		"switch: boots another":                             {ActionSwitch, proto.HostInfo{Current: top, Profile: top, BootDefault: old}, plain, false},
		"switch: nothing is known of the boot":              {ActionSwitch, proto.HostInfo{Current: top, Profile: top}, plain, false},
		"test: runs it, boots another":                      {ActionTest, proto.HostInfo{Current: top, Profile: old, BootDefault: old}, plain, true},
		"test: boots it, runs another":                      {ActionTest, proto.HostInfo{Current: old, Profile: top, BootDefault: top}, plain, false},
		"boot: boots it, runs another":                      {ActionBoot, proto.HostInfo{Current: old, Profile: top, BootDefault: top}, plain, true},
		"boot: runs it, boots another":                      {ActionBoot, proto.HostInfo{Current: top, Profile: top, BootDefault: old}, plain, false},
		"switch: the test failed last time":                 {ActionSwitch, unfinished(all, "test"), plain, false},
		"switch: the boot loader failed last time":          {ActionSwitch, unfinished(all, "boot"), plain, false},
		"test: the boot loader failed last time":            {ActionTest, unfinished(all, "boot"), plain, true},
		"boot: the boot loader failed last time":            {ActionBoot, unfinished(all, "boot"), plain, false},
		"dry-activate always runs":                          {ActionDryActivate, all, plain, false},
		"push always runs":                                  {ActionPush, all, plain, false},
		"build always runs":                                 {ActionBuild, all, plain, false},
		"boot: it is staged already":                        {ActionBoot, proto.HostInfo{Current: old, Profile: old, BootDefault: old, Open: &proto.TxnStatus{State: proto.TxnStaged, Toplevel: top}}, plain, true},
		"boot: another one is staged":                       {ActionBoot, proto.HostInfo{Current: old, Profile: old, BootDefault: old, Open: &proto.TxnStatus{State: proto.TxnStaged, Toplevel: old}}, plain, false},
		"reboot always reboots":                             {ActionReboot, all, plain, false},
		"rollback: runs and boots it":                       {ActionRollback, all, plain, true},
		"switch: runs the specialisation":                   {ActionSwitch, proto.HostInfo{Current: spec, Profile: top, BootDefault: top}, target{top, spec}, true},
		"switch: runs the toplevel, not the specialisation": {ActionSwitch, all, target{top, spec}, false},
		"switch: the specialisation is not known":           {ActionSwitch, proto.HostInfo{Profile: top, BootDefault: top}, target{toplevel: top}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := unchanged(test.action, test.info, test.want); got != test.result {
				t.Errorf("got %v", got)
			}
		})
	}
}

func unfinished(info proto.HostInfo, steps ...string) proto.HostInfo {
	info.Unfinished = steps
	return info
}

func TestAFinishedTransactionIsJudged(t *testing.T) {
	const old, top = "/nix/store/old", "/nix/store/top"
	want := target{toplevel: top, activated: top}
	status := func(action proto.Action, state proto.TxnState, change func(*proto.TxnStatus)) proto.TxnStatus {
		s := proto.TxnStatus{Txn: "t1", Action: action, State: state, Toplevel: top, Current: top, Profile: top, BootDefault: top}
		if change != nil {
			change(&s)
		}
		return s
	}
	for name, test := range map[string]struct {
		status          proto.TxnStatus
		outcome         Outcome
		text            string
		runsNewBootsOld bool
	}{
		"switch":                       {status(proto.ActionSwitch, proto.TxnCommitted, nil), OutcomeSwitched, "", false},
		"test":                         {status(proto.ActionTest, proto.TxnTested, func(s *proto.TxnStatus) { s.Profile, s.BootDefault = old, old }), OutcomeTested, "", false},
		"boot":                         {status(proto.ActionBoot, proto.TxnStaged, func(s *proto.TxnStatus) { s.Current, s.Profile, s.BootDefault = old, old, old }), OutcomeStaged, "", false},
		"boot, which has come":         {status(proto.ActionBoot, proto.TxnCommitted, nil), OutcomeRebooted, "", false},
		"reboot":                       {status(proto.ActionReboot, proto.TxnCommitted, func(s *proto.TxnStatus) { s.Booted = true }), OutcomeRebooted, "", false},
		"reboot, which has not booted": {status(proto.ActionReboot, proto.TxnCommitted, nil), OutcomeFailed, "has not booted", false},
		"switch that is only tested":   {status(proto.ActionSwitch, proto.TxnTested, nil), OutcomeFailed, "no reason", false},
		"rolled back": {status(proto.ActionSwitch, proto.TxnRolledBack, func(s *proto.TxnStatus) {
			s.Current, s.Profile, s.BootDefault, s.Reason = old, old, old, "no confirmation came in time"
		}), OutcomeRolledBack, "no confirmation came in time; the old system runs and boots, and was verified", false},
		"rolled back, but to something else": {status(proto.ActionSwitch, proto.TxnRolledBack, func(s *proto.TxnStatus) { s.Reason = "it was slow" }), OutcomeFailed, `it reports that it is rolled back, but runs "/nix/store/top"; it was slow`, false},
		"a rollback that has failed":         {status(proto.ActionSwitch, proto.TxnRollbackFailed, func(s *proto.TxnStatus) { s.Reason, s.Trouble, s.BootDefault = "a unit", "the disk", old }), OutcomeFailed, "a unit; THE ROLLBACK HAS FAILED, and the host goes on trying: the disk", true},
		"left as it is":                      {status(proto.ActionSwitch, proto.TxnLeftAsIs, func(s *proto.TxnStatus) { s.Reason, s.BootDefault = "a unit", old }), OutcomeFailed, "a unit; the host runs new, boots old", true},
		"dry-activate":                       {status(proto.ActionDryActivate, proto.TxnCommitted, func(s *proto.TxnStatus) { s.Current, s.Profile, s.BootDefault = old, old, old }), OutcomeDryActivated, "", false},
		"success that contradicts itself: another system runs": {status(proto.ActionSwitch, proto.TxnCommitted, func(s *proto.TxnStatus) { s.Current = old }), OutcomeFailed, `it reports success, but runs "/nix/store/old"`, false},
		"success that contradicts itself: another boots":       {status(proto.ActionSwitch, proto.TxnCommitted, func(s *proto.TxnStatus) { s.BootDefault = old }), OutcomeFailed, `it boots "/nix/store/old"`, true},
		"success of another system":                            {status(proto.ActionBoot, proto.TxnStaged, func(s *proto.TxnStatus) { s.Toplevel = old }), OutcomeFailed, "about another system", false},
		"units failed: runs new, boots old": {status(proto.ActionSwitch, proto.TxnFailed, func(s *proto.TxnStatus) {
			s.Step, s.ExitCode, s.Profile, s.BootDefault = "test", 4, old, old
			s.FailedUnits = []proto.FailedUnit{{Name: "nginx.service"}}
		}), OutcomeFailed, "failed units: nginx.service; the host runs new, boots old", true},
		"the activation script failed": {status(proto.ActionSwitch, proto.TxnFailed, func(s *proto.TxnStatus) {
			s.Step, s.ExitCode, s.Current, s.Profile, s.BootDefault = "test", 2, old, old, old
		}), OutcomeFailed, "exit code 2", false},
		"locked": {status(proto.ActionSwitch, proto.TxnFailed, func(s *proto.TxnStatus) {
			s.Step, s.Lock = "lock", &proto.LockHolder{Owner: "bob@laptop", Txn: "t0", Since: "2026-11-01T12:00:00Z"}
		}), OutcomeLocked, "bob@laptop", false},
		"aborted before it began, which is nobody else's lock": {status(proto.ActionSwitch, proto.TxnFailed, func(s *proto.TxnStatus) {
			s.Step, s.Reason, s.Current, s.Profile, s.BootDefault = "lock", "aborted before it began", old, old, old
		}), OutcomeFailed, "aborted before it began", false},
		"success that does not say what runs":          {status(proto.ActionTest, proto.TxnTested, func(s *proto.TxnStatus) { s.Current = "" }), OutcomeFailed, `runs ""`, false},
		"success that does not know the profile":       {status(proto.ActionBoot, proto.TxnCommitted, func(s *proto.TxnStatus) { s.Profile = "" }), OutcomeFailed, `its profile is ""`, false},
		"success with a boot loader that nobody knows": {status(proto.ActionSwitch, proto.TxnCommitted, func(s *proto.TxnStatus) { s.BootDefault = "" }), OutcomeSwitched, "", false},
		"not ended": {status(proto.ActionSwitch, proto.TxnSwitching, nil), OutcomeFailed, "no reason", false},
	} {
		t.Run(name, func(t *testing.T) {
			outcome, err := judge("web-1", want, proto.HostInfo{Current: old, Profile: old, BootDefault: old}, test.status)
			if outcome != test.outcome {
				t.Errorf("outcome %q, want %q", outcome, test.outcome)
			}
			if (err == nil) != (test.text == "") || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %q", err, test.text)
			}
			var failed *ActivationError
			if errors.As(err, &failed) && failed.RunsNewBootsOld != test.runsNewBootsOld {
				t.Errorf("runs new, boots old: %v", failed.RunsNewBootsOld)
			}
			if err != nil && !strings.Contains(err.Error(), "web-1") {
				t.Errorf("%q does not name the host", err)
			}
		})
	}
}

func TestOnlyBuildsThatNeedAHostConnect(t *testing.T) {
	on := func(where string) plan.Host { return plan.Host{Deploy: plan.Deploy{BuildOn: where}} }
	for name, test := range map[string]struct {
		action Action
		host   plan.Host
		want   bool
	}{
		"build here":               {ActionBuild, on("operator"), false},
		"build on the target":      {ActionBuild, on("target"), true},
		"build on another host":    {ActionBuild, on("builder"), false},
		"push what is built here":  {ActionPush, on("operator"), true},
		"switch, built elsewhere":  {ActionSwitch, on("builder"), true},
		"build on itself, by name": {ActionBuild, on("web"), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := needsSession("web", test.action, test.host); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestSpec(t *testing.T) {
	const a, b = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"
	for name, test := range map[string]struct {
		plan, pins []string
		want       []string
		conflict   bool
	}{
		"no keys at all leaves it to known_hosts": {nil, nil, nil, false},
		"the state's pins":                        {nil, []string{a}, []string{a}, false},
		"the plan's keys":                         {[]string{a}, nil, []string{a}, false},
		"both, equal but for the comment":         {[]string{a + " root@web"}, []string{a}, []string{a + " root@web"}, false},
		"the plan may know more":                  {[]string{a, b}, []string{b}, []string{a, b}, false},
		"the state may not":                       {[]string{a}, []string{b}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := plan.Host{Deploy: plan.Deploy{Address: "web", HostKeys: test.plan, Transport: "native"}}
			spec, err := Spec("web", h, Overrides{Transport: "openssh", AcceptNewHostKeys: true, Pins: map[string][]string{"web": test.pins}})
			var conflict *PinConflictError
			if errors.As(err, &conflict) != test.conflict || (err != nil) != test.conflict {
				t.Fatalf("got %v", err)
			}
			if test.conflict {
				return
			}
			if diff := cmp.Diff(test.want, spec.Target.HostKeys); diff != "" {
				t.Error(diff)
			}
			if spec.Transport != "openssh" || !spec.Target.AcceptNewHostKey {
				t.Errorf("overrides are not applied: %+v", spec)
			}
		})
	}
}
