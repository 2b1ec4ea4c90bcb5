package transport

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/run"
)

const sampleSettings = `host web
user deploy
hostname 10.0.0.1
port 2222
addressfamily inet6
hostkeyalias web-key
identitiesonly yes
pubkeyauthentication true
identityfile ~/.ssh/id one
identityfile none
certificatefile ~/%h-cert.pub
proxyjump a,user@b:22
connecttimeout none
serveraliveinterval 30
serveralivecountmax 2
userknownhostsfile /root/.ssh/known_hosts /root/.ssh/known hosts2
globalknownhostsfile none
ciphers aes128-ctr,aes256-ctr
somethingnew with a value
`

func TestSettingsAreReadAsSSHPrintsThem(t *testing.T) {
	got, err := parseSettings([]byte(sampleSettings))
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		hostname: "10.0.0.1", user: "deploy", port: 2222, alias: "web-key", network: "tcp6", identitiesOnly: true, pubkeyAuth: true,
		identityFiles: []string{"~/.ssh/id one"}, certificateFiles: []string{"~/%h-cert.pub"}, proxyJump: []string{"a", "user@b:22"},
		aliveInterval: 30 * time.Second, aliveCount: 2,
		userKnownHosts: "/root/.ssh/known_hosts /root/.ssh/known hosts2", globalKnownHosts: "none",
		algorithms: algorithms{ciphers: []string{"aes128-ctr", "aes256-ctr"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}, endpoint{}, algorithms{})); diff != "" {
		t.Error(diff)
	}
	if got.keyName() != "web-key:22" {
		t.Errorf("key name is %q", got.keyName())
	}
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, text := range []string{"", "hostname x\n", "hostname x\nport 0\n", "hostname x\nport 99999\n", "hostname x\nport 22\nconnecttimeout soon\n"} {
		if s, err := parseSettings([]byte(text)); err == nil {
			t.Errorf("%q gives %+v", text, s)
		}
	}
	if _, err := parseSettings([]byte(strings.Repeat("a b\n", maxSettingsBytes))); err == nil {
		t.Error("no limit")
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add([]byte(sampleSettings))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := parseSettings(in)
		if err == nil && (s.hostname == "" || s.port < 1 || s.port > 65535 || s.connectTimeout < 0) {
			t.Errorf("accepted %+v", s)
		}
	})
}

func TestPathsAreExpandedAsSSHDoes(t *testing.T) {
	o := operator{home: "/home/me", user: "me", uid: "1000", name: "desk.example.org", getenv: func(name string) string {
		return map[string]string{"KEYS": "/keys", "SSH_AUTH_SOCK": "/run/agent", "MY_AGENT": "/run/mine"}[name]
	}}
	s := &settings{given: endpoint{host: "web"}, hostname: "10.0.0.1", user: "root", port: 2222}
	for in, want := range map[string]string{
		"~/.ssh/id": "/home/me/.ssh/id", "%d/%n-%h-%p-%r-%u-%i-%%-%k": "/home/me/web-10.0.0.1-2222-root-me-1000-%-web",
		"%L.%l": "desk.desk.example.org", "${KEYS}/a": "/keys/a", "/a~/b": "/a~/b", "~other": "~other",
	} {
		if got, err := o.expand(in, s); err != nil || got != want {
			t.Errorf("%q is %q, want %q (%v)", in, got, want, err)
		}
	}
	for _, in := range []string{"%", "%z", "%C", "${NOT_SET}", "${KEYS"} {
		if got, err := o.expand(in, s); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
	for agent, want := range map[string]string{"": "/run/agent", "SSH_AUTH_SOCK": "/run/agent", "none": "", "$MY_AGENT": "/run/mine", "~/a": "/home/me/a"} {
		s.identityAgent = agent
		if got, err := o.agentSocket(s); err != nil || got != want {
			t.Errorf("agent %q is %q (%v)", agent, got, err)
		}
	}
}

func TestPathsWithSpacesAreFoundByTheirExistence(t *testing.T) {
	exists := func(path string) bool { return path == "/a b" || path == "/c" }
	for in, want := range map[string][]string{"/a b /c": {"/a b", "/c"}, "/x /c": {"/x", "/c"}, "none": nil, "/dev/null": nil, "": nil} {
		if got := splitPaths(in, exists); !slices.Equal(got, want) {
			t.Errorf("%q is %q", in, got)
		}
	}
}

func TestJumpHostsAreReadAsSSHReadsThem(t *testing.T) {
	for in, want := range map[string]endpoint{
		"a": {host: "a"}, "me@a": {user: "me", host: "a"}, "a:2222": {host: "a", port: 2222}, "me@a:1": {user: "me", host: "a", port: 1},
		"[::1]:22": {host: "::1", port: 22}, "[::1]": {host: "::1"}, "fe80::1%eth0": {host: "fe80::1%eth0"},
		"me@[fe80::1%eth0]:5": {user: "me", host: "fe80::1%eth0", port: 5}, "ssh://me@a:22": {user: "me", host: "a", port: 22}, "a@b@c": {user: "a@b", host: "c"},
	} {
		if got, err := parseJump(in); err != nil || got != want {
			t.Errorf("%q is %+v (%v)", in, got, err)
		}
	}
	for _, in := range []string{"", "@a", "a:", "a:0", "a:65536", "[::1", "-a", "a b", "a;b", "$(a)", "a\nb", "me@", strings.Repeat("a", 300)} {
		if got, err := parseJump(in); err == nil {
			t.Errorf("%q is %+v", in, got)
		}
	}
}

func TestWithoutOpenSSHItsDefaultsHold(t *testing.T) {
	missing := run.RunnerFunc(func(_ context.Context, cmd run.Cmd) error { return &run.NotFoundError{Program: cmd.Argv[0]} })
	r := Options{Runner: missing}.withDefaults().resolver()
	r.operator.home, r.operator.user = "/home/me", "me"
	hops, err := r.route(context.Background(), Target{Host: "web", Address: "web.example", JumpHosts: []string{"admin@jump:2222"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(hops) != 2 || hops[0].address() != "jump:2222" || hops[0].user != "admin" || hops[1].address() != "web.example:22" || hops[1].user != "me" {
		t.Errorf("route is %+v", hops)
	}
	if got := hops[1].identityFiles[2]; got != filepath.Join("/home/me", ".ssh", "id_ed25519") {
		t.Errorf("identity is %q", got)
	}
	_, err = NewOpenSSH(Options{Runner: missing}).Dial(context.Background(), Target{Host: "web", Address: "127.0.0.1"})
	var config *ConfigError
	if !errors.As(err, &config) || !strings.Contains(config.Hint(), "OpenSSH") {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyWhatTheUserChangedReplacesOurAlgorithms(t *testing.T) {
	a := algorithms{ciphers: []string{"x"}, macs: []string{"m"}, kex: []string{"k", "l"}}
	a.keepChanged(algorithms{ciphers: []string{"x"}, macs: []string{"other"}, kex: []string{"l", "k"}})
	if a.ciphers != nil || a.macs == nil || a.kex == nil {
		t.Errorf("kept %+v", a)
	}
	if got := onlySupported([]string{"new", "b"}, []string{"a", "b"}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("supported %q", got)
	}
	if got := onlySupported([]string{"new"}, []string{"a", "b"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("supported %q", got)
	}
}

func TestASocketsPathStaysShort(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp/"+strings.Repeat("long/", 20))
	dir, err := socketDir()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 || len(dir) > 70 {
		t.Errorf("%s: %v %v", dir, info.Mode(), err)
	}
}
