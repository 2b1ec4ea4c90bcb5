package plan_test

import (
	"errors"
	"strings"
	"testing"

	"fleet/evaluator/plan"
)

func TestValidateNamesEachFault(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *plan.Plan, web *plan.Host)
		want   string
	}{
		"fleet name with a slash":            {func(p *plan.Plan, _ *plan.Host) { p.Fleet = "a/b" }, "fleet: "},
		"format version":                     {func(p *plan.Plan, _ *plan.Host) { p.FormatVersion = 9 }, "formatVersion: it is 9"},
		"no system":                          {func(_ *plan.Plan, w *plan.Host) { w.System = "" }, "hosts.web-1.system: it is missing"},
		"no system name":                     {func(_ *plan.Plan, w *plan.Host) { w.System = "linux" }, "hosts.web-1.system: \"linux\""},
		"tag with white space":               {func(_ *plan.Plan, w *plan.Host) { w.Tags = []string{"all", "a b"} }, "hosts.web-1.tags[1]: "},
		"tag that is an operator":            {func(_ *plan.Plan, w *plan.Host) { w.Tags = []string{"a&b"} }, "hosts.web-1.tags[0]: "},
		"empty address":                      {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "" }, "deploy.address: \"\": it is empty"},
		"address as an option":               {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "-oProxyCommand=x" }, "deploy.address: "},
		"address with shell text":            {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "a;b" }, "deploy.address: "},
		"address with user":                  {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "root@a" }, "deploy.user"},
		"address with port":                  {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "a:22" }, "deploy.port"},
		"address in brackets":                {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Address = "[::1]" }, "without brackets"},
		"port 0":                             {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Port = ptr(0) }, "deploy.port: 0"},
		"port too high":                      {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Port = ptr(65536) }, "deploy.port: 65536"},
		"user as an option":                  {func(_ *plan.Plan, w *plan.Host) { w.Deploy.User = ptr("-l") }, "deploy.user: "},
		"jump host with a bad port":          {func(_ *plan.Plan, w *plan.Host) { w.Deploy.JumpHosts = []string{"a:x"} }, "jumpHosts[0]: "},
		"jump host as an option":             {func(_ *plan.Plan, w *plan.Host) { w.Deploy.JumpHosts = []string{"-J"} }, "jumpHosts[0]: "},
		"jump host, open bracket":            {func(_ *plan.Plan, w *plan.Host) { w.Deploy.JumpHosts = []string{"[::1"} }, "closing bracket"},
		"host key without type":              {func(_ *plan.Plan, w *plan.Host) { w.Deploy.HostKeys = []string{"AAAA"} }, "hostKeys[0]: "},
		"host key, no base64":                {func(_ *plan.Plan, w *plan.Host) { w.Deploy.HostKeys = []string{"ssh-ed25519 !!"} }, "not base64"},
		"host key of another type":           {func(_ *plan.Plan, w *plan.Host) { w.Deploy.HostKeys = []string{"ssh-rsa" + key[11:]} }, "no key of the type"},
		"transport":                          {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Transport = "telnet" }, "must be one of native, openssh"},
		"elevation":                          {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Elevation = "su" }, "must be one of auto, none, sudo, doas, run0"},
		"specialisation with a slash":        {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Specialisation = ptr("../x") }, "deploy.specialisation: "},
		"internal IP":                        {func(_ *plan.Plan, w *plan.Host) { w.Network.InternalIPs = []string{"ten"} }, "internalIps[0]: "},
		"record with an empty name":          {func(_ *plan.Plan, w *plan.Host) { w.Record = []string{""} }, "record[0]: "},
		"buildOn an unknown host":            {func(_ *plan.Plan, w *plan.Host) { w.Deploy.BuildOn = "dd" }, "did you mean db?"},
		"buildOn itself":                     {func(_ *plan.Plan, w *plan.Host) { w.Deploy.BuildOn = "web-1" }, `says "target"`},
		"helper without anything":            {func(p *plan.Plan, _ *plan.Host) { p.Helpers["riscv64-linux"] = plan.Helper{} }, "neither package nor path"},
		"helper outside the store":           {func(p *plan.Plan, _ *plan.Host) { p.Helpers["riscv64-linux"] = plan.Helper{Path: "/bin/sh"} }, "helpers.riscv64-linux.path"},
		"record of an unknown host":          {func(p *plan.Plan, _ *plan.Host) { p.Records["x"] = plan.Record{} }, "records.x: there is no host"},
		"record with a bad store path":       {func(p *plan.Plan, _ *plan.Host) { p.Records["db"].System.OutPath = "/nix/store/x" }, "records.db.system.toplevel"},
		"record with a non-derivation":       {func(p *plan.Plan, _ *plan.Host) { p.Records["db"].System.DrvPath = p.Records["db"].System.OutPath }, "drvPath"},
		"record, store path going up":        {func(p *plan.Plan, _ *plan.Host) { p.Records["db"].System.OutPath += "/../.." }, "toplevel"},
		"host named as a builder":            {func(p *plan.Plan, _ *plan.Host) { p.Hosts["target"] = host("t") }, "hosts.target: "},
		"host name with escape codes":        {func(p *plan.Plan, _ *plan.Host) { p.Hosts["\x1b[31mred"] = host("t") }, `\x1b[31mred`},
		"host name going up":                 {func(p *plan.Plan, _ *plan.Host) { p.Hosts[".."] = host("t") }, "must begin with"},
		"host name too long":                 {func(p *plan.Plan, _ *plan.Host) { p.Hosts[strings.Repeat("a", 200)] = host("t") }, "longer than 128"},
		"a guard that nobody can confirm":    {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.ConfirmTimeout = 1 }, "deploy.guard.confirmTimeout: 1 must be a number of seconds from 5 to 86400"},
		"a guard that never settles":         {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.Settle = -1 }, "deploy.guard.settle: "},
		"a guard that reboots when it likes": {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.Reboot = "sometimes" }, "must be one of never, if-safe, always"},
		"a pattern of units with a slash":    {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.IgnoreUnits = []string{"a/b"} }, "ignoreUnits[0]: "},
		"a relay that is no host":            {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Relay = ptr("dd") }, "deploy.relay: \"dd\" is no host of the fleet; did you mean db?"},
		"a relay that is the host":           {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Relay = ptr("web-1") }, "must be another host"},
		"a relay that has one": {func(p *plan.Plan, w *plan.Host) {
			db := p.Hosts["db"]
			db.Deploy.Relay = ptr("web-2")
			p.Hosts["db"], p.Hosts["web-2"] = db, host("web-2")
			w.Deploy.Relay = ptr("db")
		}, "hosts.web-1.deploy.relay: \"db\" has a relay itself, \"web-2\"; a relay is sent its paths directly"},
		"a relay's port":             {func(_ *plan.Plan, w *plan.Host) { w.Deploy.RelayPort = 65536 }, "65536 is no port"},
		"a vantage that is no host":  {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.Vantages = []string{"dd"} }, "vantages[0]: \"dd\" is no host of the fleet; did you mean db?"},
		"a vantage that is the host": {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Guard.Vantages = []string{"web-1"} }, "must be another host"},
		"a check of nothing":         {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Health["x"] = plan.HealthCheck{} }, "health.x: it must have exactly one of command, tcp, http and unit, not 0"},
		"a check of two things": {func(_ *plan.Plan, w *plan.Host) {
			w.Deploy.Health["x"] = plan.HealthCheck{Command: []string{"true"}, Unit: ptr("a.service")}
		}, "not 2"},
		"a check from a host that is none": {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Health["x"] = plan.HealthCheck{TCP: ptr("a:1"), From: "dd"} }, "health.x.from: "},
		"a unit that the operator looks at": {func(_ *plan.Plan, w *plan.Host) {
			w.Deploy.Health["x"] = plan.HealthCheck{Unit: ptr("a.service"), From: "operator"}
		}, "health.x.from: a unit is looked at on a host"},
		"a unit without its type":   {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Health["x"] = plan.HealthCheck{Unit: ptr("nginx")} }, "health.x.unit: "},
		"an address without a port": {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Health["x"] = plan.HealthCheck{TCP: ptr("localhost")} }, "must be HOST:PORT"},
		"a URL of a file": {func(_ *plan.Plan, w *plan.Host) {
			w.Deploy.Health["x"] = plan.HealthCheck{HTTP: &plan.HTTPCheck{URL: "file:///etc/passwd"}}
		}, "http.url: "},
		"a status that is none": {func(_ *plan.Plan, w *plan.Host) {
			w.Deploy.Health["x"] = plan.HealthCheck{HTTP: &plan.HTTPCheck{URL: "http://a/", Status: ptr(7)}}
		}, "http.status: 7"},
		"a program without a name": {func(_ *plan.Plan, w *plan.Host) { w.Deploy.Drain = []string{""} }, "deploy.drain[0]: "},
		"a record's check from a host that is none": {func(p *plan.Plan, _ *plan.Host) {
			p.Records["db"].Specs.Health["x"] = plan.HealthCheck{TCP: ptr("a:1"), From: "dd"}
		}, "records.db.specs.health.x.from: "},
		"hosts that build for another": {circle, "in a circle: a → b → c → a"},
	} {
		t.Run(name, func(t *testing.T) {
			p := full()
			web := p.Hosts["web-1"]
			c.change(p, &web)
			p.Hosts["web-1"] = web
			err := p.Validate()
			var invalid *plan.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if strings.ContainsRune(err.Error(), 0x1b) {
				t.Error("the error has an escape code")
			}
			if len(invalid.Faults) != 1 {
				t.Errorf("%d faults: %v", len(invalid.Faults), invalid.Faults)
			}
		})
	}
}

func circle(p *plan.Plan, _ *plan.Host) {
	for name, on := range map[string]string{"a": "b", "b": "c", "c": "a", "d": "a"} {
		h := host(name)
		h.Deploy.BuildOn = on
		p.Hosts[name] = h
	}
}

func TestValidateNamesAllFaultsAtOnce(t *testing.T) {
	p := full()
	for name := range p.Hosts {
		h := p.Hosts[name]
		h.System, h.Deploy.Transport = "", "x"
		p.Hosts[name] = h
	}
	var invalid *plan.InvalidError
	if err := p.Validate(); !errors.As(err, &invalid) || len(invalid.Faults) != 4 {
		t.Errorf("got %v, want 4 faults", err)
	}
}

func TestValidateAccepts(t *testing.T) {
	for _, address := range []string{"local", "10.0.0.1", "::1", "fe80::1%eth0", "web_1.example.org", "prod+web"} {
		p := full()
		p.Hosts["db"] = host(address)
		if err := p.Validate(); err != nil {
			t.Errorf("address %q: %v", address, err)
		}
	}
	for _, jump := range []string{"a", "u@a", "u@a:1", "[::1]", "[::1]:22", "u@[fe80::1%x]:22", "2001:db8::1"} {
		p := full()
		h := host("a")
		h.Deploy.JumpHosts = []string{jump}
		p.Hosts["db"] = h
		if err := p.Validate(); err != nil {
			t.Errorf("jump host %q: %v", jump, err)
		}
	}
}
