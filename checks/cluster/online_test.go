//go:build cluster

package cluster

import (
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// A deployment waits for what it starts, and nothing else starts it: no boot, and no switch by another program.
func TestOnlineActivationIsForDeploymentsAlone(t *testing.T) {
	h := boot(t, "online", lab.Spec{Address: lab.Subnet + ".61"})
	p := newProject(t, nil)
	write := func(content string) {
		p.write(map[string]hostSpec{h.Name: {
			Content: content, Modules: []string{"online"}, Deploy: map[string]any{"address": lab.Subnet + ".61"},
		}})
	}
	seen := func(when string, want ...string) {
		t.Helper()
		if got := strings.Fields(on(t, h, "cat /var/lib/cluster-online")); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		state := strings.TrimSpace(on(t, h, "systemctl is-active online-activation.target || true"))
		if state != "inactive" {
			t.Errorf("%s: the target is %s", when, state)
		}
	}
	write("online 1")
	p.deploy("switch").want(0)
	seen("after a deployment", "script", "unit")
	if state := strings.TrimSpace(on(t, h, "systemctl is-active fleet-boot-guard.service")); state != "active" {
		t.Errorf("the boot guard is %s", state)
	}

	on(t, h, "/run/current-system/bin/switch-to-configuration test")
	seen("after a switch by hand", "script", "unit")

	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen("after a boot", "script", "unit")
	if state := strings.TrimSpace(on(t, h, "systemctl is-active fleet-boot-guard.service")); state != "active" {
		t.Errorf("the boot guard is %s after a boot", state)
	}

	write("online 2")
	p.deploy("dry-activate").want(0)
	seen("after a dry activation", "script", "unit")
	p.deploy("switch").want(0)
	seen("after the next deployment", "script", "unit", "script", "unit")
}
