//go:build cluster

package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

func TestSelectorsChooseHosts(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]hostSpec{
		"web-1": {Tags: []string{"web"}}, "web-2": {Tags: []string{"web", "canary"}}, "db-1": {Tags: []string{"db"}},
	})
	for _, tt := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"all", "", nil, "db-1 web-1 web-2"},
		{"not a tag", "", []string{"--on", "@web & !@canary"}, "web-1"},
		{"exclude", "", []string{"--exclude", "@canary"}, "db-1 web-1"},
		{"exclude from a glob", "", []string{"--on", "web-*", "--exclude", "web-1"}, "web-2"},
		{"standard input", "db-1\n@canary\n", []string{"--on", "-"}, "db-1 web-2"},
		{"standard input and more", "db-1\n", []string{"--on", "-", "--on", "web-1"}, "db-1 web-1"},
	} {
		r := p.feed(tt.stdin, slices.Concat([]string{helper, "hosts", "--json"}, tt.args)...).want(0)
		var listed struct{ Hosts []struct{ Name string } }
		if err := json.Unmarshal([]byte(r.stdout), &listed); err != nil {
			t.Fatalf("%v in %s", err, r.stdout)
		}
		var names []string
		for _, h := range listed.Hosts {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		says        string
	}{
		{"unknown host", "", []string{"--on", "web-3"}, "web-3"},
		{"unknown tag", "", []string{"--on", "@wob"}, "@web"},
		{"a glob of nothing", "", []string{"--on", "mail-*"}, "mail-*"},
		{"syntax", "", []string{"--on", "@web & ("}, "@web & ("},
		{"nothing is left", "", []string{"--on", "@db", "--exclude", "db-*"}, "none of the 3 hosts"},
		{"unknown host in an exclusion", "", []string{"--exclude", "web-3"}, "web-3"},
		{"empty standard input", "", []string{"--on", "-"}, "the input holds none"},
		{"unknown host on standard input", "web-1\nmail-1\n", []string{"--on", "-"}, "mail-1"},
	} {
		r := p.feed(tt.stdin, slices.Concat([]string{helper, "deploy", "--yes"}, tt.args)...)
		if r.code != 2 || !strings.Contains(r.stderr, tt.says) {
			t.Errorf("%s: exit code %d, want 2 and %q\n%s", tt.name, r.code, tt.says, r.stderr)
		}
	}
}

func TestDeployTouchesOnlySelectedHosts(t *testing.T) {
	hosts := takeSome(t, 2)
	p := newProject(t, each("selected", hosts))
	before := content(t, hosts[1])
	p.feed(hosts[0].Name+"\n", helper, "deploy", "--yes", "--on", "-").want(0)
	if got, want := content(t, hosts[0]), "selected on "+hosts[0].Name; got != want {
		t.Errorf("the selected host holds %q, want %q", got, want)
	}
	if got := content(t, hosts[1]); got != before {
		t.Errorf("the other host holds %q, want still %q", got, before)
	}
}

func TestTwoFleetsInOneFlake(t *testing.T) {
	hosts := takeSome(t, 2)
	p := newProject(t, map[string]hostSpec{"web": {Content: "production", Deploy: map[string]any{"address": hosts[0].Spec.Address}}})
	p.writeFleet("staging.json", map[string]hostSpec{"web": {Content: "staging", Deploy: map[string]any{"address": hosts[1].Spec.Address}}})
	before := content(t, hosts[0])
	p.run("nix", "run", ".#deploy-staging", "--", "switch", "--yes").want(0, "web")
	if got := content(t, hosts[1]); got != "staging" {
		t.Errorf("the host of staging holds %q", got)
	}
	if got := content(t, hosts[0]); got != before {
		t.Errorf("the other fleet's host holds %q, want still %q", got, before)
	}
	p.run("nix", "run", ".#deploy", "--", "switch", "--yes").want(0, "web")
	if got := content(t, hosts[0]); got != "production" {
		t.Errorf("the host of default holds %q", got)
	}
	p.run("nix", "run", ".#fleet-staging", "--", "status").want(0, "web", "up", "the same")
	if got := p.sh(`cd "$1" && nix eval --json .#nixosConfigurations --apply builtins.attrNames`); strings.TrimSpace(got) != `["web","web-staging"]` {
		t.Errorf("nixosConfigurations are %s", got)
	}
	if got := p.sh(`cd "$1" && ls fleet-state`); got != "default\nstaging\n" {
		t.Errorf("the state of the fleets is not apart: %s", got)
	}
}

func TestStatusOfHostsThatAreDownOrFailed(t *testing.T) {
	well := take(t)
	down := boot(t, "down", lab.Spec{Address: lab.Subnet + ".41"})
	hosts := map[string]hostSpec{well.Name: {Content: "well"}, down.Name: {Content: "down", Deploy: map[string]any{"address": down.Spec.Address}}}
	p := newProject(t, hosts)
	p.fleet("status", "--on", down.Name).want(0, "up") // the host's key is pinned from now on
	if err := down.PowerCut(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	p.deploy("switch", "--on", well.Name).want(0)
	p.fleet("status").want(3, well.Name, "up", "the same", "unreachable", down.Spec.Address)
	var listed struct {
		Hosts []struct {
			Host      string
			Reachable bool
			Error     string
		}
	}
	r := p.fleet("status", "--json").want(3)
	if err := json.Unmarshal([]byte(r.stdout), &listed); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	for _, h := range listed.Hosts {
		if h.Reachable != (h.Host == well.Name) || (h.Error == "") != h.Reachable {
			t.Errorf("%+v", h)
		}
	}

	good := boots(t, well)
	hosts[well.Name] = hostSpec{Content: "ill", UnitFails: true}
	p.write(hosts)
	p.deploy("switch", "--on", well.Name).want(4)
	short := strings.TrimPrefix(good, "/nix/store/")[:7]
	p.fleet("status", "--on", well.Name).want(0, "switch rolled-back by root@operator", short)
}
