//go:build cluster

package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGuardAndASecondOperator(t *testing.T) {
	f := newField(t)
	other := &project{t: t, operator: f.project.operator, dir: f.project.dir + "-other"}
	other.sh(`rm -rf "$1" && cp -r ` + baseProject + ` "$1"`)
	other.write(map[string]hostSpec{f.host.Name: {Content: "of another", Deploy: f.base.Deploy}})
	f.try(
		trial{fault: "a second operator deploys during the activation", want: []ending{endNew}, with: hostSpec{SlowSeconds: 4}, during: func(i *incident) {
			i.reach(switching)
			i.strike()
			o := *other
			o.t = i.t
			o.deploy("switch").want(6, f.host.Name, "root@operator")
		}},
		trial{fault: "a second operator deploys while the confirmation is waited for", want: []ending{endOld}, code: 4, deploy: lookedAtFromHere(f), guard: map[string]any{"confirmTimeout": 10}, during: func(i *incident) {
			i.reach(awaitConfirm)
			i.strike()
			o := *other
			o.t = i.t
			o.deploy("switch").want(6, f.host.Name, "root@operator")
		}},
		trial{fault: "another operator aborts", want: []ending{endOld}, code: 4, deploy: lookedAtFromHere(f), guard: map[string]any{"confirmTimeout": 30}, says: []string{"aborted"}, during: func(i *incident) {
			i.reach(awaitConfirm)
			i.strike()
			o := *other
			o.t = i.t
			o.fleet("abort", f.host.Name)
		}},
	)
}

// client sends one line to a transaction's guard, over an SSH connection that stands already.
type client struct {
	i    *incident
	line chan string
	said chan string
}

// knock makes the connection.
func (i *incident) knock() *client {
	i.t.Helper()
	c := &client{i: i, line: make(chan string, 1), said: make(chan string, 1)}
	cmd := i.p.command(i.t.Context(), "ssh", "-o", "BatchMode=yes", "root@"+i.h.Spec.Address, "echo up; bash")
	in, err := cmd.StdinPipe()
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		i.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	up := make([]byte, 3)
	if _, err := out.Read(up); err != nil {
		i.t.Fatal(err)
	}
	go func() {
		line := <-c.line
		fmt.Fprintln(in, line)
		in.Close()
		var answer strings.Builder
		buffer := make([]byte, 4096)
		for {
			n, err := out.Read(buffer)
			answer.Write(buffer[:n])
			if err != nil {
				break
			}
		}
		_ = cmd.Wait() // its answer is what counts
		c.said <- answer.String()
	}()
	return c
}

// confirmation is the shell text that confirms the transaction.
func (i *incident) confirmation() string {
	i.t.Helper()
	txn, _ := i.now()
	var nonce string
	waitFor(i.t, "the nonce", func() bool {
		text, err := i.h.Sh(i.t.Context(), "cat /run/fleet/"+txn+"/nonce")
		nonce = strings.TrimSpace(text)
		return err == nil && nonce != ""
	})
	helper := on(i.t, i.h, "readlink -f /nix/var/nix/gcroots/fleet/.txn-"+txn+"-helper")
	line, err := json.Marshal(map[string]string{"nonce": nonce})
	if err != nil {
		i.t.Fatal(err)
	}
	return fmt.Sprintf("printf '%%s\\n' '%s' | %s/bin/fleet-helper attach --guard %s", line, strings.TrimSuffix(helper, "/bin/fleet-helper"), txn)
}

// sinceBoot is CLOCK_BOOTTIME.
func sinceBoot() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // Linux has that clock
	return time.Duration(now.Nano())
}

func TestGuardAndAConfirmationAtTheDeadline(t *testing.T) {
	f := newField(t)
	for _, early := range []time.Duration{60, 10, 0} {
		early *= time.Millisecond
		var said string
		f.try(trial{
			fault: "a confirmation comes at the very deadline", want: []ending{endNew, endOld}, code: killed, deploy: lookedAtFromHere(f), guard: map[string]any{"confirmTimeout": 6}, during: func(i *incident) {
				i.reach(awaitConfirm)
				i.kill()
				c, line := i.knock(), i.confirmation()
				_, r := i.now()
				time.Sleep(r.State.Deadline - sinceBoot() - early)
				i.strike()
				c.line <- line
				said = <-c.said
			}, after: func(i *incident, _ result) {
				_, r := i.now()
				if confirmed := strings.Contains(said, `"confirmed":true`); confirmed != (r.State.Phase == committed) {
					i.t.Errorf("the guard said %q and ended as %q", said, r.State.Phase)
				}
			},
		})
	}
	f.try(trial{
		fault: "a confirmation comes over a connection that is older than the switch", want: []ending{endOld}, code: killed, deploy: lookedAtFromHere(f), guard: map[string]any{"confirmTimeout": 5}, with: hostSpec{SlowSeconds: 1}, during: func(i *incident) {
			i.reach(switching)
			c := i.knock()
			i.reach(awaitConfirm)
			i.kill()
			c.line <- i.confirmation()
			if said := <-c.said; !strings.Contains(said, "began before the new system stood") {
				i.t.Errorf("the guard says %q", said)
			}
		},
	})
}

// TestGuardHoldsNothingOfTheConnection: a process with a descriptor of the SSH session would end, or hang, with it.
func TestGuardHoldsNothingOfTheConnection(t *testing.T) {
	f := newField(t)
	f.try(trial{fault: "no fault", want: []ending{endNew}, with: hostSpec{SlowSeconds: 2}, during: func(i *incident) {
		i.reach(switching)
		waitFor(i.t, "the worker", func() bool { return processes(i.t, i.h, "switch-to-configuration test") > 0 })
		shared := on(i.t, i.h, `
fds() { for pid in "$@"; do find /proc/$pid/fd -type l -printf '%l\n' 2>/dev/null; done | grep -E '^(socket|pipe|/dev/(pts|tty))' | sort -u; }
of() { cat /sys/fs/cgroup/system.slice/$1/cgroup.procs; }
ours=$(of 'fleet-guard-*'; of 'fleet-switch-*')
theirs=$(for p in /proc/[0-9]*; do if grep -qsE 'session-|ssh\.service|fleet-agent' $p/cgroup; then echo ${p#/proc/}; fi; done)
[ -n "$ours" ] && [ -n "$theirs" ]
comm -12 <(fds $ours) <(fds $theirs)
echo "ours: $(echo $ours | wc -w), theirs: $(echo $theirs | wc -w)"`)
		lines := strings.Split(shared, "\n")
		i.t.Log(lines[len(lines)-1])
		for _, line := range lines[:len(lines)-1] {
			i.t.Errorf("guard or worker share %s with the session", line)
		}
	}})
}

func TestGuardOfAHostsVeryFirstDeployment(t *testing.T) {
	t.Parallel()
	h := boot(t, "guardfirst", labSpec(".62", ""))
	spec := hostSpec{Content: "first", Deploy: map[string]any{"address": h.Spec.Address, "guard": quick()}, UnitFails: true}
	p := newProject(t, map[string]hostSpec{h.Name: spec})
	p.deploy("switch").want(3, "cluster-test.service", "runs new, boots old", "none to go back to")
	spec.UnitFails = false
	p.write(map[string]hostSpec{h.Name: spec})
	p.deploy("switch").want(0, string(endNew))
	if runs(t, h) != boots(t, h) || content(t, h) != "first" {
		t.Errorf("runs %s, boots %s", runs(t, h), boots(t, h))
	}
}

func TestRollbackToAnOlderGeneration(t *testing.T) {
	f := newField(t)
	first := f.stand(t)
	number := on(t, f.host, "readlink /nix/var/nix/profiles/system | tr -dc 0-9")
	deploy := func(content string) stance {
		f.project.write(map[string]hostSpec{f.host.Name: {Content: content, Deploy: f.base.Deploy}})
		f.project.deploy("switch").want(0)
		return f.stand(t)
	}
	second, third := deploy("second"), deploy("third")
	l := lookOut(t, f.host)
	defer l.close()
	f.project.deploy("rollback", "--on", f.host.Name).want(0, string(endNew))
	if got := f.stand(t); got != second {
		t.Errorf("after rollback: %+v, want %+v", got, second)
	}
	f.project.deploy("rollback", "--on", f.host.Name, "--to", number).want(0, string(endNew))
	if got := f.stand(t); got != first {
		t.Errorf("after rollback --to %s: %+v, want %+v", number, got, first)
	}
	// It is guarded itself.
	on(t, f.host, "mkdir -p /run/fleet-faults; echo test exit 1 >/run/fleet-faults/switch-to-configuration.checked")
	f.project.deploy("rollback", "--on", f.host.Name, "--to", "9999").want(3, "9999")
	last := on(t, f.host, "for link in /nix/var/nix/profiles/system-*-link; do if [ $(readlink -f $link) = "+third.runs+" ]; then echo $link | tr -dc 0-9; fi; done")
	f.project.deploy("rollback", "--on", f.host.Name, "--to", last).want(4, string(endOld))
	on(t, f.host, "rm -r /run/fleet-faults")
	if got := f.stand(t); got != first {
		t.Errorf("after a rollback that failed: %+v, want still %+v", got, first)
	}
}
