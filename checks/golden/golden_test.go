// Package golden holds the files that several languages agree on. A test in Nix compares plan.json with what the flake module
// renders; the tests here hold it against the schema and against the program's decoder.
package golden

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"fleet/evaluator/plan"
	"fleet/push/health"
	"fleet/push/proto"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	s, err := compiler.Compile("plan.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("plan.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t *testing.T, data []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestTheGoldenPlanIsValid(t *testing.T) {
	if err := schema(t).Validate(parse(t, read(t))); err != nil {
		t.Error(err)
	}
}

func TestTheProgramDecodesTheGoldenPlan(t *testing.T) {
	p, err := plan.Decode(read(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Hosts["web-1"].Deploy.BuildOn; got != "plain-1" {
		t.Errorf("web-1 is built on %q", got)
	}
}

// The golden fleet's web-1 says its checks a second time, in its own modules, and this is the file that its system has of them.
func TestTheProgramReadsTheChecksOfASystem(t *testing.T) {
	data, err := os.ReadFile("health.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := health.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]proto.HealthCheck{
		"site":  {HTTP: &proto.HTTPCheck{URL: "https://web.example.org/healthz", Status: 204}, From: "operator", TimeoutSeconds: 60, IntervalSeconds: 5},
		"ssh":   {TCP: "[2001:db8::1]:2222", From: "plain-1", TimeoutSeconds: 30, IntervalSeconds: 2},
		"nginx": {Unit: "nginx.service", From: "host", TimeoutSeconds: 30, IntervalSeconds: 2},
		"cache": {Command: []string{"/run/current-system/sw/bin/redis-cli", "ping"}, From: "host", TimeoutSeconds: 30, IntervalSeconds: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// A plan that was printed with its records is what the static backend reads.
func TestAPlanWithRecordsIsValid(t *testing.T) {
	p, err := plan.Decode(read(t))
	if err != nil {
		t.Fatal(err)
	}
	path := "/nix/store/" + strings.Repeat("0", 32) + "-nixos-system"
	p.Records = map[string]plan.Record{
		"web-1": {
			Specs: &plan.Specs{
				Secrets: map[string]plan.Secret{"db": p.SharedSecrets["api"], "token": {OnGeneratorChange: "notice", OnDependencyChange: "keep"}},
				Missing: []string{"host/web-1/db", "shared/ca.pem"},
				Health:  p.Hosts["web-1"].Deploy.Health,
			},
			System: &plan.System{DrvPath: path + ".drv", OutPath: path, Specialisations: []string{"maintenance"}},
		},
		"here": {},
	}
	p.Helpers["x86_64-linux"] = plan.Helper{Path: path}
	data, err := plan.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema(t).Validate(parse(t, data)); err != nil {
		t.Error(err)
	}
	if _, err := plan.Decode(data); err != nil {
		t.Error(err)
	}
}

// What the schema refuses, the program refuses too: neither may be the only one that looks.
func TestSchemaAndProgramRefuseTheSame(t *testing.T) {
	for name, change := range map[string]func(root, host map[string]any){
		"an unknown field":             func(root, _ map[string]any) { root["extra"] = 1 },
		"an unknown field of a host":   func(_, host map[string]any) { host["extra"] = 1 },
		"another version":              func(root, _ map[string]any) { root["formatVersion"] = 2 },
		"no version":                   func(root, _ map[string]any) { delete(root, "formatVersion") },
		"no system":                    func(_, host map[string]any) { delete(host, "system") },
		"a tag that is an expression":  func(_, host map[string]any) { host["tags"] = []any{"a & b"} },
		"an address that is an option": func(_, host map[string]any) { deploy(host)["address"] = "-oProxyCommand=x" },
		"an address with a user":       func(_, host map[string]any) { deploy(host)["address"] = "root@a" },
		"a port of 0":                  func(_, host map[string]any) { deploy(host)["port"] = 0 },
		"a user that is an option":     func(_, host map[string]any) { deploy(host)["user"] = "-l" },
		"an unknown transport":         func(_, host map[string]any) { deploy(host)["transport"] = "telnet" },
		"an unknown elevation":         func(_, host map[string]any) { deploy(host)["elevation"] = "su" },
		"a host key that is no key":    func(_, host map[string]any) { deploy(host)["hostKeys"] = []any{"SHA256:abc"} },
		"an IP address that is a name": func(_, host map[string]any) { network(host)["internalIps"] = []any{"x.example"} },
		"a host with a builder's name": func(root, host map[string]any) { root["hosts"].(map[string]any)["target"] = host },
		"a helper that is nowhere":     func(root, _ map[string]any) { root["helpers"] = map[string]any{"x86_64-linux": map[string]any{}} },
		"a secret's name with a slash": func(root, _ map[string]any) {
			shared := root["sharedSecrets"].(map[string]any)
			shared["a/b"] = shared["hsm"]
		},
		"an unknown kind of generator": func(root, _ map[string]any) { generator(root)["kind"] = "magic" },
		"an unknown sandbox":           func(root, _ map[string]any) { generator(root)["sandbox"] = "loose" },
		"a dependency that is no id":   func(root, _ map[string]any) { generator(root)["dependencies"] = map[string]any{"ca": "ca.pem"} },
		"a script that asks": func(root, _ map[string]any) {
			generator(root)["ask"] = map[string]any{"from": "terminal", "prompt": "", "variable": ""}
		},
		"an unknown type of a part":     func(root, _ map[string]any) { part(root, "version")["type"] = "jpeg" },
		"an encrypted part with a type": func(root, _ map[string]any) { part(root, "secret")["type"] = "text" },
		"a record without a store path": func(root, _ map[string]any) { root["records"] = record("/tmp/x") },
		"an unknown field of a guard":   func(_, host map[string]any) { guard(host)["confirm"] = 1 },
		"no time to confirm":            func(_, host map[string]any) { guard(host)["confirmTimeout"] = 0 },
		"a soak of a week":              func(_, host map[string]any) { guard(host)["soak"] = 7 * 86400 },
		"a time that is text":           func(_, host map[string]any) { guard(host)["settle"] = "10s" },
		"an unknown reboot policy":      func(_, host map[string]any) { guard(host)["reboot"] = "sometimes" },
		"a unit that is a path":         func(_, host map[string]any) { guard(host)["ignoreUnits"] = []any{"/etc/x.service"} },
		"a hook without a program":      func(_, host map[string]any) { deploy(host)["drain"] = []any{"", "x"} },
		"a check of nothing":            func(_, host map[string]any) { delete(check(host, "nginx"), "unit") },
		"a check of two things":         func(_, host map[string]any) { check(host, "nginx")["tcp"] = "a:80" },
		"a check of no port":            func(_, host map[string]any) { check(host, "ssh")["tcp"] = "a" },
		"a check of a file":             func(_, host map[string]any) { page(host)["url"] = "file:///etc/passwd" },
		"a status that is none":         func(_, host map[string]any) { page(host)["status"] = 42 },
		"a check with a bad name": func(_, host map[string]any) {
			checks := deploy(host)["health"].(map[string]any)
			checks["a b"] = checks["ssh"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			var root map[string]any
			if err := json.Unmarshal(read(t), &root); err != nil {
				t.Fatal(err)
			}
			change(root, root["hosts"].(map[string]any)["web-1"].(map[string]any))
			data, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			if schema(t).Validate(parse(t, data)) == nil {
				t.Error("the schema accepts it")
			}
			if _, err := plan.Decode(data); err == nil {
				t.Error("the program accepts it")
			}
		})
	}
}

func deploy(host map[string]any) map[string]any { return host["deploy"].(map[string]any) }

func guard(host map[string]any) map[string]any { return deploy(host)["guard"].(map[string]any) }

func check(host map[string]any, name string) map[string]any {
	return deploy(host)["health"].(map[string]any)[name].(map[string]any)
}

func page(host map[string]any) map[string]any { return check(host, "site")["http"].(map[string]any) }

func hsm(root map[string]any) map[string]any {
	return root["sharedSecrets"].(map[string]any)["hsm"].(map[string]any)
}

func generator(root map[string]any) map[string]any { return hsm(root)["generator"].(map[string]any) }

func part(root map[string]any, name string) map[string]any {
	return hsm(root)["parts"].(map[string]any)[name].(map[string]any)
}

func network(host map[string]any) map[string]any { return host["network"].(map[string]any) }

func record(toplevel string) map[string]any {
	return map[string]any{"web-1": map[string]any{"system": map[string]any{"toplevel": toplevel, "specialisations": []any{}}}}
}
