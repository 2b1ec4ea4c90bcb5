package plan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

func ptr[T any](v T) *T { return &v }

// full is a plan in which every field has a value.
func full() *plan.Plan {
	return &plan.Plan{
		FormatVersion: 1,
		Fleet:         "default",
		Helpers: map[string]plan.Helper{
			"x86_64-linux":  {Package: "fleet-helper-x86_64-linux"},
			"aarch64-linux": {Package: "fleet-helper-aarch64-linux", Path: "/nix/store/00000000000000000000000000000000-fleet-helper"},
		},
		Hosts: map[string]plan.Host{
			"web-1": {
				System: "x86_64-linux",
				Tags:   []string{"all", "system/x86_64-linux", "web"},
				Deploy: plan.Deploy{
					Address: "fe80::1%eth0", Port: ptr(22), User: ptr("root"),
					JumpHosts: []string{"admin@relay:2222", "[2001:db8::1]:22"}, HostKeys: []string{key},
					Transport: "native", Elevation: "auto", BuildOn: "db", Relay: ptr("db"), RelayPort: 7171,
					SubstituteOnDestination: true, Specialisation: ptr("debug"),
					Guard: &plan.Guard{
						Enable: true, SwitchTimeout: 1, RollbackTimeout: 2, ConfirmTimeout: 5, BootConfirm: 6, Settle: 7, Soak: 8, Reboot: "never",
						IgnoreUnits: []string{"backup-*.service"}, SkipChecks: []string{"boot-space"}, Vantages: []string{"db"},
					},
					Health: map[string]plan.HealthCheck{
						"page":    {HTTP: &plan.HTTPCheck{URL: "https://web-1.example.org/", Status: ptr(204)}, Timeout: 9, Interval: 10, From: "operator"},
						"port":    {TCP: ptr("[2001:db8::1]:22"), From: "db"},
						"unit":    {Unit: ptr("nginx.service"), From: "host"},
						"program": {Command: []string{"true", ""}, From: "host"},
					},
					Drain: []string{"pool", "leave"}, Undrain: []string{"pool", "join"},
				},
				Network: plan.Network{InternalIPs: []string{"10.0.0.1"}, ExternalIPs: []string{"2001:db8::/64"}},
				Record:  []string{"fleetConfigurations", "default", "hosts", "web-1", "record"},
			},
			"db": host("db.example.org"),
		},
		SharedSecrets: map[string]plan.Secret{"ca.pem": {
			Owners: []string{"db", "web-1"},
			Generator: &plan.Generator{
				Kind: "script", On: ptr("db"), Sandbox: "none", Data: json.RawMessage(`"size 3"`), Seed: ptr("00ff"),
				Dependencies: map[string]string{"root": "shared/root", "pin": "host/db/pin"},
			},
			Parts: map[string]plan.SecretPart{
				"secret": {Encrypted: true}, "public": {Type: plan.TypeX509}, "version": {Type: plan.TypeRegex, Pattern: "v[0-9]+"},
			},
			RegenerateOnOwnerAdded: true, OnGeneratorChange: "notice", OnDependencyChange: "regenerate",
		}},
		Warnings: []string{"old option <a&b>"},
		Records: map[string]plan.Record{"db": {
			Specs: &plan.Specs{
				Secrets: map[string]plan.Secret{"pin": {
					Owners: []string{},
					Generator: &plan.Generator{
						Kind: "ask", Sandbox: "strict", Data: json.RawMessage("null"), Dependencies: map[string]string{},
						Ask: &plan.Ask{From: "env", Prompt: "PIN", Variable: "PIN"},
					},
					OnGeneratorChange: "regenerate", OnDependencyChange: "keep",
				}},
				Missing: []string{"host/db/pin"},
				Health:  map[string]plan.HealthCheck{"db": {Unit: ptr("postgresql.service"), Timeout: 1, Interval: 1, From: "host"}},
			},
			System: &plan.System{
				DrvPath: "/nix/store/00000000000000000000000000000000-x.drv", OutPath: "/nix/store/11111111111111111111111111111111-x",
				Specialisations: []string{"debug"},
			},
		}},
	}
}

func host(address string) plan.Host {
	return plan.Host{
		System: "x86_64-linux", Tags: []string{"all"},
		Deploy: plan.Deploy{
			Address: address, HostKeys: []string{}, Transport: "native", Elevation: "auto", BuildOn: "operator",
			Health: map[string]plan.HealthCheck{}, Drain: []string{}, Undrain: []string{},
		},
		Network: plan.Network{InternalIPs: []string{}, ExternalIPs: []string{}},
	}
}

func encode(t *testing.T, p *plan.Plan) []byte {
	t.Helper()
	data, err := plan.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeReadsWhatEncodeWrites(t *testing.T) {
	data := encode(t, full())
	got, err := plan.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got); diff != "" {
		t.Errorf("decode(encode(p)) differs (-want +got):\n%s", diff)
	}
	if again := encode(t, got); !bytes.Equal(data, again) {
		t.Errorf("encoding twice differs:\n%s", cmp.Diff(string(data), string(again)))
	}
}

func TestEncodeGivesListsAndLeavesItsArgumentAlone(t *testing.T) {
	p := full()
	h := p.Hosts["db"]
	h.Tags, h.Deploy.HostKeys, h.Deploy.JumpHosts = nil, nil, nil
	p.Hosts["db"] = h
	p.Warnings = nil
	text := string(encode(t, p))
	for _, want := range []string{`"tags": []`, `"hostKeys": []`, `"jumpHosts": null`, `"warnings": []`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if p.Hosts["db"].Tags != nil || p.Warnings != nil {
		t.Error("Encode changed the plan")
	}
}

func TestDecodeRefuses(t *testing.T) {
	valid := string(encode(t, full()))
	replace := func(from, to string) string {
		if !strings.Contains(valid, from) {
			t.Fatalf("no %q in the plan", from)
		}
		return strings.Replace(valid, from, to, 1)
	}
	for name, c := range map[string]struct{ data, want string }{
		"nothing":                      {"", "line 1"},
		"a cut plan":                   {valid[:len(valid)/2], "unexpected end"},
		"a list":                       {"[]", "cannot unmarshal array"},
		"trailing data":                {valid + "{}", "invalid character '{' after top-level value"},
		"an unknown field":             {replace(`"fleet":`, `"colour": "red", "fleet":`), `unknown field "colour"`},
		"an unknown field deep inside": {replace(`"port": 22`, `"prot": 22`), `unknown field "hosts.web-1.deploy.prot"`},
		"a field in another case":      {replace(`"fleet":`, `"Fleet":`), `unknown field "Fleet"`},
		"a field given twice":          {replace(`"fleet":`, `"fleet": "a", "fleet":`), `"fleet" is given twice`},
		"a host given twice":           {replace(`"db": {`, `"db": {}, "db": {`), `"hosts.db" is given twice`},
		"null for a string":            {replace(`"fleet": "default"`, `"fleet": null`), "fleet must be string, not null"},
		"a number for a string":        {replace(`"fleet": "default"`, `"fleet": 7`), "fleet must be string, not the number 7"},
		"a fraction for a port":        {replace(`"port": 22`, `"port": 22.5`), "hosts.web-1.deploy.port must be an integer, not the number 22.5"},
		"an object for a list":         {replace(`"warnings": [`, `"warnings": {}, "x": [`), "warnings must be a list, not an object"},
		"a host name with a dot":       {replace(`"db": {`, `"d.b": {"x": 1}, "db": {`), `unknown field "hosts.\"d.b\".x"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plan.Decode([]byte(c.data))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestDecodeLooksAtTheVersionFirst(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"newer, with fields of the future": {`{"formatVersion": 2, "colour": "red"}`, "it has format 2, newer than format 1"},
		"older":                            {`{"formatVersion": -1}`, "it has format -1"},
		"none":                             {`{"fleet": "default"}`, "no formatVersion"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plan.Decode([]byte(c.data))
			if !errors.Is(err, plan.ErrVersion) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrVersion that says %q", err, c.want)
			}
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || hint.Hint() == "" {
				t.Error("no remedy")
			}
		})
	}
}

func TestDecodeRecord(t *testing.T) {
	got, err := plan.DecodeRecord([]byte(`{"system": {"drvPath": "/nix/store/00000000000000000000000000000000-x.drv",
		"toplevel": "/nix/store/11111111111111111111111111111111-x", "specialisations": null}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full().Records["db"].System.OutPath, got.System.OutPath); diff != "" || got.System.Specialisations == nil {
		t.Errorf("got %+v", got.System)
	}
	for _, bad := range []string{`{"systems": {}}`, `{"system": {"toplevel": "/etc/passwd"}}`, `{} 1`} {
		if _, err := plan.DecodeRecord([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestMerge(t *testing.T) {
	a, b := full(), full()
	b.Fleet = "staging"
	b.Hosts = map[string]plan.Host{"s-1": host("s-1")}
	b.Records = nil
	got, err := plan.Merge("both", a, b)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Hosts) != 3 || got.Fleet != "both" || len(got.Records) != 1 {
		t.Errorf("got %+v", got)
	}
	b.Hosts["db"] = host("other")
	b.Helpers["x86_64-linux"] = plan.Helper{Package: "other"}
	_, err = plan.Merge("both", a, b)
	for _, want := range []string{`hosts.db: both "default" and "staging"`, "helpers.x86_64-linux"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	data, err := plan.Encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"formatVersion":1,"fleet":"a","hosts":{"":{}}}`))
	if golden, err := os.ReadFile("../../checks/golden/plan.json"); err == nil {
		f.Add(golden)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := plan.Decode(data)
		if err != nil {
			return
		}
		again, err := plan.Decode(encode(t, p))
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Fatalf("decode(encode(p)) differs:\n%s", diff)
		}
	})
}

func TestWhatAGuardLeavesOutIsTheDefault(t *testing.T) {
	const head, tail = `{"formatVersion": 1, "fleet": "f", "helpers": {}, "warnings": [], "hosts": {"a": {"system": "x86_64-linux", "tags": [], "network": {"internalIps": [], "externalIps": []}, "deploy": {"address": "a", "transport": "native", "elevation": "auto", "buildOn": "operator"`, `}}}}`
	for text, change := range map[string]func(*plan.Guard){
		"":                                     func(*plan.Guard) {},
		`, "guard": null`:                      func(*plan.Guard) {},
		`, "guard": {}`:                        func(*plan.Guard) {},
		`, "guard": {"settle": 0, "soak": 30}`: func(g *plan.Guard) { g.Settle, g.Soak = 0, 30 },
		`, "guard": {"enable": false}`:         func(g *plan.Guard) { g.Enable = false },
	} {
		p, err := plan.Decode([]byte(head + text + tail))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want := plan.DefaultGuard()
		change(&want)
		if diff := cmp.Diff(want, p.Hosts["a"].Deploy.GuardOf()); diff != "" {
			t.Errorf("%s:\n%s", text, diff)
		}
	}
	if _, err := plan.Decode([]byte(head + `, "guard": {"timeout": 3}` + tail)); err == nil || !strings.Contains(err.Error(), `unknown field "hosts.a.deploy.guard.timeout"`) {
		t.Errorf("got %v", err)
	}
}
