package health

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/push/proto"
)

func TestChecksOfASystemAreRead(t *testing.T) {
	got, err := Parse([]byte(`{
		"web": {"http": {"url": "http://localhost:8080/healthz", "status": 204}, "timeoutSeconds": 60, "intervalSeconds": 2, "from": "host"},
		"db": {"command": ["/nix/store/x/bin/pg_isready", "--quiet"], "timeoutSeconds": 30, "intervalSeconds": 2, "from": "host"},
		"port": {"tcp": "[::1]:5432", "from": "operator"},
		"unit": {"unit": "getty@tty1.service"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]proto.HealthCheck{
		"web":  {HTTP: &proto.HTTPCheck{URL: "http://localhost:8080/healthz", Status: 204}, TimeoutSeconds: 60, IntervalSeconds: 2, From: "host"},
		"db":   {Command: []string{"/nix/store/x/bin/pg_isready", "--quiet"}, TimeoutSeconds: 30, IntervalSeconds: 2, From: "host"},
		"port": {TCP: "[::1]:5432", From: "operator"},
		"unit": {Unit: "getty@tty1.service"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if chosen := Select(got, proto.CheckHost); len(chosen) != 3 || chosen["port"].TCP != "" {
		t.Errorf("of the host: %v", chosen)
	}
}

func TestChecksThatAreNoneAreRefused(t *testing.T) {
	many := make([]string, MaxChecks+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"c%d": {"tcp": "a:1"}`, i)
	}
	for text, want := range map[string]string{
		`{"a": {}}`: "exactly one",
		`{"a": {"tcp": "a:1", "unit": "b.service"}}`:        "exactly one",
		`{"a": {"tcp": "a:1", "retries": 3}}`:               "retries",
		`{"a": {"tcp": "a"}}`:                               "HOST:PORT",
		`{"a": {"tcp": ":80"}}`:                             "HOST:PORT",
		`{"a": {"tcp": "a:0"}}`:                             "1 to 65535",
		`{"a": {"tcp": "a:1", "timeoutSeconds": -1}}`:       "seconds",
		`{"a": {"tcp": "a:1", "timeoutSeconds": 90000}}`:    "seconds",
		`{"a": {"http": {"url": "file:///etc"}}}`:           "http://",
		`{"a": {"http": {"url": "http://a", "status": 7}}}`: "status",
		`{"a": {"unit": "../x.service"}}`:                   "unit",
		`{"a": {"unit": "sshd"}}`:                           "unit",
		`{"a": {"command": [""]}}`:                          "no name",
		`{"a": {"command": ["a\u0000"]}}`:                   "zero byte",
		`{"../a": {"tcp": "a:1"}}`:                          "no name",
		`{"": {"tcp": "a:1"}}`:                              "no name",
		`{"a": {"tcp": "a:1"}} {}`:                          "follows",
		`[]`:                                                "array",
		`{` + strings.Join(many, ",") + `}`:                 "limit",
		strings.Repeat(" ", MaxFile) + `{}`:                 "limit",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func TestThePlanReplacesChecksOfTheSystem(t *testing.T) {
	a, b, c := proto.HealthCheck{TCP: "a:1"}, proto.HealthCheck{TCP: "b:1"}, proto.HealthCheck{TCP: "c:1"}
	merged, replaced := Merge(map[string]proto.HealthCheck{"x": a, "y": b}, map[string]proto.HealthCheck{"x": c, "z": c})
	if diff := cmp.Diff(map[string]proto.HealthCheck{"x": a, "y": b, "z": c}, merged); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"x"}, replaced); diff != "" {
		t.Error(diff)
	}
}
