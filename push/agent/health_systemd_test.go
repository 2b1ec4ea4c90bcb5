package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet/closure/run"
	"fleet/push/proto"
)

// unitFile declares a unit on the host, until the end of the test, and starts it.
func unitFile(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("/etc/systemd/system", name)
	write(t, path, text)
	t.Cleanup(func() {
		_ = run.Run(t.Context(), run.Cmd{Argv: []string{"systemctl", "stop", name}})
		os.Remove(path)
	})
	sh(t, `systemctl daemon-reload; systemctl start "$1"`, name)
}

const wantedService = "[Service]\nExecStart=/bin/sleep 4711\n[Install]\nWantedBy=multi-user.target\n"

func TestSystemdUnitsAreJudged(t *testing.T) {
	host := systemdHost(t)
	for _, name := range []string{"fine", "stopped", "killed", "unwanted"} {
		unitFile(t, "fleettest-"+name+".service", wantedService)
	}
	unitFile(t, "fleettest-job.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
	unitFile(t, "fleettest-kept.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
	unitFile(t, "fleettest-before.service", "[Service]\nExecStart=/bin/false\n")
	sh(t, `systemctl enable --quiet fleettest-fine fleettest-stopped fleettest-killed fleettest-kept`)
	defer sh(t, `systemctl disable --quiet fleettest-fine fleettest-stopped fleettest-killed fleettest-kept; systemctl reset-failed`)
	waitUntil(t, "the failure", func() bool { return sh(t, "systemctl is-failed fleettest-before || true") == "failed" })
	begun := time.Now()
	b, err := host.TakeBaseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a baseline of %d units took %s", len(b.Active), time.Since(begun))
	if !slices.Contains(b.Active, "fleettest-kept.service") || slices.Contains(b.Active, "fleettest-job.service") || !slices.Contains(b.Failed, "fleettest-before.service") {
		t.Errorf("%+v", b)
	}
	if !slices.Contains(b.SSHPorts, 22) {
		t.Errorf("SSH: %v", b.SSHPorts)
	}
	sh(t, "systemctl stop ssh.socket ssh.service")
	if missing := host.SSHMissing(b); !slices.Contains(missing, 22) {
		t.Errorf("without an SSH server: %v", missing)
	}
	sh(t, "systemctl start ssh.service")
	if missing := host.SSHMissing(b); len(missing) > 0 {
		t.Errorf("with an SSH server: %v", missing)
	}
	trial := Trial{Baseline: b, Toplevel: t.TempDir(), Dir: host.Run, Log: func(line string) { t.Log(line) }, Exit: 4}
	begun = time.Now()
	if v := host.Examine(t.Context(), trial); len(v.Failures) > 0 {
		t.Errorf("nothing has changed: %+v", v)
	}
	t.Logf("an examination without settling took %s", time.Since(begun))

	unitFile(t, "fleettest-loop.service", "[Service]\nExecStart=/bin/sh -c 'echo because; sleep 0.3; exit 3'\nRestart=always\nRestartSec=400ms\n[Unit]\nStartLimitIntervalSec=0\n")
	sh(t, `systemctl stop fleettest-stopped fleettest-unwanted fleettest-kept; systemctl kill --signal=KILL fleettest-killed`)
	trial.Policy.SettleSeconds = 3
	v := host.Examine(t.Context(), trial)
	failures := strings.Join(v.Failures, "\n")
	for _, want := range []string{"fleettest-stopped.service ran before", "fleettest-kept.service ran before", "fleettest-killed.service has failed (signal)", "fleettest-loop.service"} {
		if !strings.Contains(failures, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if len(v.Failures) != 4 {
		t.Error(failures)
	}
	if i := slices.IndexFunc(v.Units, func(u proto.FailedUnit) bool { return u.Name == "fleettest-loop.service" }); i < 0 || !slices.Contains(v.Units[i].Log, "because") {
		t.Errorf("%+v", v.Units)
	}
	trial.Policy.IgnoreUnits = []string{"fleettest-loop.*", "fleettest-stopped.service", "fleettest-k*"}
	if v := host.Examine(t.Context(), trial); len(v.Failures) > 0 {
		t.Errorf("ignored: %+v", v)
	}

	sh(t, "systemctl stop fleettest-loop")
	if missing := host.RestoreUnits(t.Context(), b, nil, trial.Log); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	if got := sh(t, "systemctl is-active fleettest-stopped fleettest-kept fleettest-killed | sort -u"); got != "active" {
		t.Error(got)
	}
}

func TestSystemdRunsHealthChecks(t *testing.T) {
	host := systemdHost(t)
	trial := Trial{Toplevel: t.TempDir(), Dir: host.Run, Log: func(line string) { t.Log(line) }}
	check := func(timeout int, argv ...string) string {
		trial.Policy.Health = map[string]proto.HealthCheck{"c": {Command: argv, TimeoutSeconds: timeout, IntervalSeconds: 1}}
		return strings.Join(host.Examine(t.Context(), trial).Failures, "; ")
	}
	if got := check(5, "sh", "-c", "test $(id -u) = 0; exec true"); got != "" {
		t.Error(got)
	}
	if got := check(5, "/bin/sh", "-c", `x='$HOME %n'; test "$x" = '$'HOME\ %n && test $1 = '$LC_ALL'`, "sh", "$LC_ALL"); got != "" {
		t.Errorf("arguments are taken as they are: %s", got)
	}
	if got := check(5, "/bin/sh", "-c", "test -e "+host.Run+"/once || { touch "+host.Run+"/once; exit 1; }"); got != "" {
		t.Errorf("the second try: %s", got)
	}
	for want, got := range map[string]string{
		"exit status 3: reason":     check(1, "/bin/sh", "-c", `echo not this; printf '\033[1mreason\n' >&2; exit 3`),
		"did not":                   check(1, "/bin/sh", "-c", "setsid sleep 4343 & sleep 4343"),
		"more than 1024 KiB":        check(5, "/bin/sh", "-c", "yes"),
		"/does/not/exist":           check(1, "/does/not/exist"),
		"no program \"fleet-none\"": check(1, "fleet-none"),
		"signal 9":                  check(1, "/bin/sh", "-c", "kill -9 $$"),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
	if got := sh(t, "pgrep -f 'sleep 434[3]' || true; systemctl list-units --all --plain --no-legend 'fleet-health-*'"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	// One that a killed guard has left.
	sh(t, "systemd-run --quiet --unit=fleet-health-c sleep 4343")
	if got := check(5, "/bin/true"); got != "" {
		t.Error(got)
	}
	if got := sh(t, "pgrep -f 'sleep 434[3]' || true"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	r, err := host.Check(t.Context(), proto.CheckRequest{Name: "far", Check: proto.HealthCheck{Command: []string{"sh", "-c", "echo because; exit 1"}}})
	if err != nil || !strings.HasSuffix(r.Problem, "exit status 1: because") {
		t.Errorf("%+v, %v", r, err)
	}
	trial.Policy.Health = map[string]proto.HealthCheck{"u": {Unit: "ssh.service"}, "p": {TCP: "localhost:22"}}
	if v := host.Examine(t.Context(), trial); len(v.Failures) > 0 {
		t.Errorf("%+v", v)
	}
}

func TestSystemdIsExecutedAnewWhileItIsWatched(t *testing.T) {
	host := systemdHost(t)
	b, err := host.TakeBaseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trial := Trial{Baseline: b, Toplevel: t.TempDir(), Dir: host.Run, Log: func(line string) { t.Log(line) }}
	trial.Policy.SoakSeconds = 8
	trial.Policy.Health = map[string]proto.HealthCheck{"c": {Command: []string{"/bin/sleep", "0.2"}, IntervalSeconds: 1}, "u": {Unit: "ssh.service", IntervalSeconds: 1}}
	done := make(chan Verdict)
	go func() { done <- host.Examine(t.Context(), trial) }()
	for {
		select {
		case v := <-done:
			if len(v.Failures) > 0 {
				t.Errorf("%+v", v)
			}
			return
		case <-time.After(600 * time.Millisecond):
			_ = run.Run(t.Context(), run.Cmd{Argv: []string{"systemctl", "daemon-reexec"}})
		}
	}
}
