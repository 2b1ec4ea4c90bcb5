package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/run"
	"fleet/push/proto"
)

func TestTheStateIsKeptBesideTheFlakeOrThePlan(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "flake", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flake", "flake.nix"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	flake, err := filepath.EvalSymlinks(filepath.Join(dir, "flake"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(flake, "sub"))
	for name, test := range map[string]struct {
		options fleetOptions
		want    string
	}{
		"the nearest flake":       {fleetOptions{}, flake},
		"a folder":                {fleetOptions{flake: flake}, flake},
		"a relative folder":       {fleetOptions{flake: ".."}, flake},
		"a path reference":        {fleetOptions{flake: "path:" + flake + "?lastModified=1"}, flake},
		"a git reference":         {fleetOptions{flake: "git+file://" + flake + "?ref=main"}, flake},
		"a remote flake has none": {fleetOptions{flake: "github:someone/fleet"}, ""},
		"an id has none":          {fleetOptions{flake: "flake:fleet"}, ""},
		"no flake at all":         {fleetOptions{flake: "/nonexistent"}, ""},
		"a plan":                  {fleetOptions{planFiles: []string{"/srv/fleet/plan.json", "other.json"}}, "/srv/fleet"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.options.workTree(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestASigningKeyIsReadAndNeverShown(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "c2VjcmV0IGtleSB0aGF0IG11c3Qgbm90IGxlYWs="
	for name, path := range map[string]string{
		"absent": filepath.Join(dir, "absent"), "no key": write("bad", "name:"+secret), "too large": write("large", strings.Repeat("x", maxKeyFile+1)), "empty": write("empty", ""),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadSigningKey(path)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("a key of nix", func(t *testing.T) {
		text, err := run.Output(t.Context(), run.Cmd{Argv: []string{"nix", "--extra-experimental-features", "nix-command", "key", "generate-secret", "--key-name", "test-1"}})
		if err != nil {
			if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skipf("nix does not run here: %v", err)
		}
		key, err := loadSigningKey(write("good", string(text)))
		if err != nil || key.Name() != "test-1" {
			t.Errorf("got %v, %v", key, err)
		}
	})
}

func TestASpecialisationIsALinkBelowTheToplevel(t *testing.T) {
	top := t.TempDir()
	if err := os.Mkdir(filepath.Join(top, "specialisation"), 0o755); err != nil {
		t.Fatal(err)
	}
	const path = "/nix/store/00000000000000000000000000000000-nixos-night"
	if err := os.Symlink(path, filepath.Join(top, "specialisation", "night")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(top, "specialisation", "odd")); err != nil {
		t.Fatal(err)
	}
	if got, err := specialisation(top, "night"); err != nil || got != path {
		t.Errorf("got %q, %v", got, err)
	}
	for _, name := range []string{"absent", "odd", "..", "../specialisation/night", ""} {
		if got, err := specialisation(top, name); err == nil {
			t.Errorf("%q: got %q", name, got)
		}
	}
}

func TestStatusInWords(t *testing.T) {
	const old, now = "/nix/store/11111111111111111111111111111111-nixos-web-1", "/nix/store/22222222222222222222222222222222-nixos-web-1"
	yes, no := true, false
	for name, test := range map[string]struct{ got, want string }{
		"boots what runs":     {(&hostStatus{Current: now, BootDefault: now}).boots(), "the same"},
		"boots another":       {(&hostStatus{Current: now, BootDefault: old}).boots(), "1111111…-nixos-web-1"},
		"boots nothing known": {(&hostStatus{Current: now}).boots(), "-"},
		"locked":              {(&hostStatus{Reachable: true, Lock: &proto.LockHolder{Owner: "bob@laptop"}}).state(), "locked by bob@laptop"},
		"matches":             {(&hostStatus{Matches: &yes}).matches(), "matches"},
		"differs":             {(&hostStatus{Matches: &no, Toplevel: now}).matches(), "differs: 2222222…-nixos-web-1"},
		"not compared":        {(&hostStatus{}).matches(), "-"},
		"never activated":     {(&hostStatus{}).last(), "-"},
		"a path of no store":  {short("/somewhere"), "/somewhere"},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %q, want %q", name, test.got, test.want)
		}
	}
	if statusCode([]hostStatus{{Reachable: true}, {Error: "no route"}}) != 3 || statusCode([]hostStatus{{Reachable: true}}) != 0 {
		t.Error("exit codes")
	}
}

func TestTheAttachCommandIsTheOneThatThePersonCanType(t *testing.T) {
	for want, g := range map[string]globals{
		"fleet attach":                      {fleet: "default"},
		"fleet --fleet staging attach":      {fleet: "staging"},
		"nix run .#fleet -- attach":         {fleet: "default", appSource: "/nix/store/x"},
		"nix run .#fleet-staging -- attach": {fleet: "staging", appSource: "/nix/store/x"},
	} {
		if got := g.attachCommand(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
