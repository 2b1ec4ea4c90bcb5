package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The states that units have in these tests.
func up() unitState      { return unitState{Load: "loaded", Active: "active", Sub: "running"} }
func down() unitState    { return unitState{Load: "loaded", Active: "inactive", Sub: "dead"} }
func broken() unitState  { return unitState{Load: "loaded", Active: "failed", Sub: "failed"} }
func looping() unitState { return unitState{Load: "loaded", Active: "activating", Sub: "auto-restart"} }
func starting() unitState {
	return unitState{Load: "loaded", Active: "activating", Sub: "start", Job: true}
}

func texts(found []suspicion) []string {
	var all []string
	for _, s := range found {
		all = append(all, s.text)
	}
	return all
}

func TestUnitsAreComparedWithWhatWas(t *testing.T) {
	ours := broken()
	ours.Transient = true
	for name, tc := range map[string]struct {
		baseline Baseline
		units    map[string]unitState
		restarts map[string]uint32
		began    map[string]uint32
		hasty    bool
		ignore   []string
		want     []string
		notice   string
	}{
		"nothing has changed": {
			baseline: Baseline{Active: []string{"a.service"}, Failed: []string{"b.service"}},
			units:    map[string]unitState{"a.service": up(), "b.service": broken()},
			notice:   "failed before and still: b.service",
		},
		"a unit has failed": {
			baseline: Baseline{Active: []string{"a.service"}},
			units:    map[string]unitState{"a.service": broken(), "mnt.mount": broken()},
			want:     []string{"unit a.service has failed", "unit mnt.mount has failed"},
		},
		"it failed before in another way": {
			baseline: Baseline{Failed: []string{"a.service", "b.service"}},
			units:    map[string]unitState{"a.service": looping(), "b.service": broken()},
			notice:   "failed before and still: a.service, b.service",
		},
		"what failed before works now": {
			baseline: Baseline{Failed: []string{"a.service"}},
			units:    map[string]unitState{"a.service": up()},
		},
		"a new unit loops": {
			units: map[string]unitState{"a.service": looping()},
			want:  []string{"unit a.service ends and is started again and again"},
		},
		"a unit that is up between two failures": {
			units:    map[string]unitState{"a.service": up()},
			began:    map[string]uint32{"a.service": 1},
			restarts: map[string]uint32{"a.service": 2},
			want:     []string{"unit a.service was started again 2 times"},
		},
		"started again once and at rest since": {
			units:    map[string]unitState{"a.service": up()},
			began:    map[string]uint32{"a.service": 1},
			restarts: map[string]uint32{"a.service": 1},
			notice:   "unit a.service was started again once and has stayed up since",
		},
		"started again once, and nobody has waited": {
			hasty:    true,
			units:    map[string]unitState{"a.service": up()},
			began:    map[string]uint32{"a.service": 1},
			restarts: map[string]uint32{"a.service": 1},
			want:     []string{"unit a.service was started again once"},
		},
		"started again while it was looked at": {
			units:    map[string]unitState{"a.service": up()},
			restarts: map[string]uint32{"a.service": 1},
			want:     []string{"unit a.service was started again once"},
		},
		"restarts of long ago": {
			baseline: Baseline{Restarts: map[string]uint32{"a.service": 7, "b.service": 7}},
			units:    map[string]unitState{"a.service": up(), "b.service": up()},
			began:    map[string]uint32{"a.service": 7},
			restarts: map[string]uint32{"a.service": 7}, // b's were reset
		},
		"restarts that were counted anew": {
			baseline: Baseline{Restarts: map[string]uint32{"a.service": 7}},
			units:    map[string]unitState{"a.service": up()},
			began:    map[string]uint32{"a.service": 2},
			restarts: map[string]uint32{"a.service": 3},
			want:     []string{"unit a.service was started again 3 times"},
		},
		"a unit is not there any more": {
			baseline: Baseline{Active: []string{"a.service", "b.socket", "c.target"}},
			units:    map[string]unitState{"a.service": down(), "c.target": up()},
			want:     []string{"unit a.service ran before and does not run", "unit b.socket ran before and does not run"},
		},
		"a unit is on its way": {
			baseline: Baseline{Active: []string{"a.service", "b.service"}},
			units:    map[string]unitState{"a.service": starting(), "b.service": {Active: "inactive", Job: true}},
		},
		"what fails in a session, and what the deployment itself runs": {
			units: map[string]unitState{"session-3.scope": broken(), "fleet-switch-t000001-abcdef-1.service": ours},
		},
		"secrets that cannot be installed": {
			units: map[string]unitState{"fleet-secrets.service": broken()},
			want:  []string{"unit fleet-secrets.service has failed"},
		},
		"ignored by name and pattern": {
			baseline: Baseline{Active: []string{"c-1.service"}},
			units:    map[string]unitState{"a.service": broken(), "b@x.service": looping(), "c-1.service": down(), "d.service": up()},
			restarts: map[string]uint32{"d.service": 9},
			ignore:   []string{"a.service", "b@*.service", "c-?.service", "d.*"},
		},
		"what the next deployment needs is ignored by its name alone": {
			units:  map[string]unitState{"sshd.service": broken(), "nix-daemon.socket": broken(), "a.service": broken()},
			ignore: []string{"*", "nix-daemon.socket"},
			want:   []string{"unit sshd.service has failed"},
		},
	} {
		found, notices := suspect(tc.baseline, sight{restarts: tc.began}, sight{tc.units, tc.restarts}, tc.ignore, !tc.hasty)
		if diff := cmp.Diff(tc.want, texts(found)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := strings.Join(notices, "; "); got != tc.notice {
			t.Errorf("%s: said %q, wanted %q", name, got, tc.notice)
		}
	}
}

func TestAUnitThatIsGoneMayHaveDoneItsWork(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.service":                      "[Unit]\nDescription=a\n",
		"a.socket":                       "[Unit]\n",
		"a.target":                       "[Unit]\n",
		"getty@.service":                 "[Unit]\n",
		"sysinit-reactivation.target":    "[Unit]\n",
		"manual.service":                 "[Unit]\nX-OnlyManualStart = yes\n",
		"later.service":                  "[Unit]\n",
		"later.service.d/overrides.conf": "[Unit]\nX-OnlyManualStart=true\n",
		"not.service":                    "[Service]\nX-OnlyManualStart=true\n",
	} {
		write(t, filepath.Join(dir, "etc/systemd/system", name), text)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "etc/systemd/system/masked.service")); err != nil {
		t.Fatal(err)
	}
	now := sight{units: map[string]unitState{"multi-user.target": up(), "a.socket": up(), "old.target": down()}}
	wanted := func(change func(*unitFacts)) unitFacts {
		f := unitFacts{State: down(), Type: "simple", Result: "success", PulledIn: []string{"old.target", "multi-user.target"}}
		if change != nil {
			change(&f)
		}
		return f
	}
	for _, tc := range []struct {
		unit string
		f    unitFacts
		want string // empty: it is missed
	}{
		{"a.service", wanted(nil), ""},
		{"not.service", wanted(nil), ""},
		{"getty@tty1.service", wanted(nil), ""},
		{"a.socket", unitFacts{State: down()}, ""},
		{"a.target", unitFacts{State: down()}, ""},
		{"a.target", unitFacts{State: down(), NoManualStart: true}, "nothing but other units"},
		{"sysinit-reactivation.target", unitFacts{State: down()}, "never by a boot"},
		{"a.target", unitFacts{State: down(), OnlyWhileNeeded: true}, "nothing needs it"},
		{"other.service", wanted(nil), "the system does not have it"},
		{"masked.service", wanted(nil), "the system does not have it"},
		{"manual.service", wanted(nil), "only a person"},
		{"later.service", wanted(nil), "only a person"},
		{"a.service", wanted(func(f *unitFacts) { f.Type = "oneshot" }), "done its work"},
		{"a.service", wanted(func(f *unitFacts) { f.Type, f.Result = "oneshot", "exit-code" }), ""},
		{"a.service", wanted(func(f *unitFacts) { f.Type, f.RemainAfterExit = "oneshot", true }), ""},
		{"a.service", wanted(func(f *unitFacts) { f.TriggeredBy = []string{"a.socket"} }), "when it is needed"},
		{"a.service", wanted(func(f *unitFacts) { f.TriggeredBy = []string{"b.socket"} }), ""},
		{"a.service", wanted(func(f *unitFacts) { f.PulledIn = []string{"old.target"} }), "nothing that runs asks for it"},
		{"a.service", wanted(func(f *unitFacts) { f.PulledIn, f.Result = nil, "signal" }), ""},
		{"a.service", wanted(func(f *unitFacts) { f.ConditionFailed = true }), "conditions"},
		{"a.service", wanted(func(f *unitFacts) { f.State, f.Found = up(), "b.service" }), "it is b.service now"},
	} {
		yes, why := missed(tc.unit, tc.f, treeOf(dir), now)
		if yes != (tc.want == "") || !strings.Contains(why, tc.want) {
			t.Errorf("%s %+v: %v, %q, wanted %q", tc.unit, tc.f, yes, why, tc.want)
		}
	}
	// Without a tree of units, systemd says what there is.
	transient, unknown := wanted(nil), wanted(nil)
	transient.State.Transient, unknown.State.Load = true, "not-found"
	for _, f := range []unitFacts{transient, unknown} {
		if yes, _ := missed("a.service", f, treeOf(t.TempDir()), now); yes {
			t.Errorf("missed: %+v", f)
		}
	}
	if yes, _ := missed("a.service", wanted(nil), treeOf(t.TempDir()), now); !yes {
		t.Error("not missed")
	}
}

func TestTheMostTellingFailureComesFirst(t *testing.T) {
	found := []suspicion{
		{"a.service", unitGone, "a"}, {"b.service", unitLoops, "b"}, {"sshd.service", unitGone, "sshd"}, {"c.service", unitBroken, "c"},
	}
	byWeight(found)
	if got := strings.Join(texts(found), " "); got != "sshd c b a" {
		t.Error(got)
	}
}

func TestABaselineHoldsWhatAnActivationCanChange(t *testing.T) {
	transient, mounted := up(), up()
	transient.Transient, mounted.Sub = true, "mounted"
	b := baselineOf(sight{units: map[string]unitState{
		"a.service": up(), "b.socket": up(), "c.target": up(), "d.timer": up(), "e.service": down(), "f.service": broken(), "g.service": looping(),
		"run-u1.service": transient, "session-1.scope": broken(), "user.slice": up(), "user@0.service": up(), "sshd@1-2.service": up(),
		"dev-sda.device": up(), "-.mount": mounted, "fleet-guard-t000001-abcdef.service": transient,
	}})
	if diff := cmp.Diff(Baseline{
		Active: []string{"a.service", "b.socket", "c.target", "d.timer"}, Failed: []string{"f.service", "g.service"},
	}, b); diff != "" {
		t.Error(diff)
	}
}

func TestABaselineFitsIntoARecord(t *testing.T) {
	b := Baseline{Active: []string{"sshd.service"}, Restarts: map[string]uint32{}}
	for i := range 2000 {
		b.Active = append(b.Active, fmt.Sprintf("timer-with-a-rather-long-name-%d.timer", i))
	}
	if b = b.bounded(); !b.fits() || !slices.Equal(b.Active, []string{"sshd.service"}) {
		t.Errorf("%d units", len(b.Active))
	}
	for i := range 5000 {
		name := fmt.Sprintf("service-%d.service", i)
		b.Active, b.Failed, b.Restarts[name] = append(b.Active, name), append(b.Failed, name), 1
	}
	if b = b.bounded(); !b.fits() {
		t.Error("it does not fit")
	}
}

func TestListenersAreFound(t *testing.T) {
	const line = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0"
	if s, ok := parseListener(line); !ok || s != (socket{22, "4711", false}) {
		t.Errorf("%+v, %v", s, ok)
	}
	for _, other := range []string{
		"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		strings.Replace(line, " 0A ", " 01 ", 1), strings.Replace(line, ":0016", ":zz", 1), line[:40],
	} {
		if s, ok := parseListener(other); ok {
			t.Errorf("%q: %+v", other, s)
		}
	}
	if s, _ := parseListener(strings.Replace(line, "00000000:0016", "0100007F:1F90", 1)); s != (socket{8080, "4711", true}) {
		t.Errorf("%+v", s)
	}
	port := listenSomewhere(t)
	host := &Host{}
	begun := time.Now()
	if missing := host.SSHMissing(Baseline{SSHPorts: []uint16{port}}); len(missing) > 0 {
		t.Errorf("port %d is missing", port)
	}
	if time.Since(begun) > listenPatience {
		t.Error("it waited")
	}
}
