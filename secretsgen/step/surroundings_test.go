package step_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// said runs a script and returns what it wrote to its public part.
func said(t *testing.T, req step.Request, opt step.Options) string {
	t.Helper()
	req.Parts = map[string]step.Part{"public": {Type: "binary"}}
	result, err := step.Run(t.Context(), req, opt)
	if err != nil {
		t.Fatal(err)
	}
	return string(result.Parts["public"].Public)
}

func TestASandboxShowsTheStoreAndTheSystemsProgramsAlone(t *testing.T) {
	o := newOwner(t)
	home, project := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("FLEET_TEST_TOKEN", "not for generators")
	overwrite(t, filepath.Join(home, "diary"), "dear diary\n")
	overwrite(t, filepath.Join(project, "ca.crt"), "a certificate\n")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	script := `exec > $out/public
		try() { echo "$1: $(sh -c "$2" 2>/dev/null || echo no)"; }
		try home 'cat ` + home + `/diary'
		try shadow 'cat /etc/shadow'
		try token 'echo $FLEET_TEST_TOKEN'
		try project 'cat $FLEET_PROJECT/ca.crt'
		try "write project" 'echo x > $FLEET_PROJECT/x && echo yes'
		try "write root" 'echo x > /x && echo yes'
		try "write usr" 'echo x > /usr/x && echo yes'
		try "write tmp" 'echo x > /tmp/x && cat $TMPDIR/x'
		try processes 'ls -d /proc/[0-9]* | wc -l | sed "s/^[0-9]$/few/"'
		try capabilities 'grep CapEff /proc/self/status | tr -d "\t"'
		try network 'bash -c ": < /dev/tcp/127.0.0.1/` + port + `" && echo yes'
		try terminal ': < /dev/tty && echo yes'
		try stdin 'cat'
		try environment 'env | cut -d= -f1 | sort | tr "\n" " "'
	`
	req, opt := request(t, o, script), options(t)
	opt.Project = project
	want := `home: no
shadow: no
token: 
project: a certificate
write project: no
write root: no
write usr: no
write tmp: x
processes: few
capabilities: CapEff:0000000000000000
network: no
terminal: no
stdin: 
environment: FLEET_DEPS FLEET_PROJECT GENERATOR_HELPER_IDENTITIES HOME LC_ALL PATH PWD TMPDIR out ` + "\n"
	if got := said(t, req, opt); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	req.Sandbox = step.SandboxNetwork
	if got, want := said(t, req, opt), strings.Replace(want, "network: no", "network: yes", 1); got != want {
		t.Errorf("with the network:\n%swant:\n%s", got, want)
	}
}

// TestASandboxDoesNotShowAHomeThatTheFlakeLiesIn: people keep a flake in their home directory itself.
func TestASandboxDoesNotShowAHomeThatTheFlakeLiesIn(t *testing.T) {
	parent := t.TempDir()
	home := filepath.Join(parent, "alice")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(home, "flake"), 0o755), os.Symlink(home, link)); err != nil {
		t.Fatal(err)
	}
	overwrite(t, filepath.Join(home, "diary"), "dear diary")
	overwrite(t, filepath.Join(home, "flake", "file"), "here")
	t.Setenv("HOME", home)
	script := `(cat ` + home + `/diary || cat ` + link + `/diary || cat ${FLEET_PROJECT:-/absent}/file || echo nothing) > $out/public 2>/dev/null`
	for project, want := range map[string]string{home: "nothing\n", parent: "nothing\n", link: "nothing\n", filepath.Join(home, "flake"): "here"} {
		req, opt := request(t, newOwner(t), script), options(t)
		opt.Project = project
		warned := ""
		opt.Warn = func(text string) { warned += text }
		if got := said(t, req, opt); got != want || (want == "here") != (warned == "") {
			t.Errorf("%s: got %q, warned %q", project, got, warned)
		}
	}
	// Who asks for no sandbox gets none.
	req, opt := request(t, newOwner(t), `cat $FLEET_PROJECT/diary > $out/public`), options(t)
	req.Sandbox, opt.Project = step.SandboxNone, home
	if got := said(t, req, opt); got != "dear diary" {
		t.Errorf("without a sandbox: got %q", got)
	}
}

func TestOpensslFindsItsConfigurationInASandbox(t *testing.T) {
	requireProgram(t, "openssl")
	req := request(t, newOwner(t), `openssl req -x509 -newkey ed25519 -noenc -subj /CN=test -days 3 -keyout $TMPDIR/key -out $out/public; encrypt < $TMPDIR/key > $out/secret`)
	req.Parts = map[string]step.Part{"secret": {Encrypted: true}, "public": {Type: "x509"}}
	if _, err := step.Run(t.Context(), req, options(t)); err != nil {
		t.Error(err)
	}
}

func TestDependenciesAreOpenedForTheGenerator(t *testing.T) {
	o := newOwner(t)
	for _, sandbox := range []string{step.SandboxStrict, step.SandboxNone} {
		req := request(t, o, `
			cat $FLEET_DEPS/ca/public; cat $FLEET_DEPS/ca/secret
			(cat $FLEET_DEPS/ca/secret; echo -n " and mine") | encrypt > $out/secret
		`)
		req.Sandbox = sandbox
		d := step.Dependency{ID: secret.ID{Scope: secret.Shared, Name: "ca.pem"}, Gen: req.Gen, Seq: 3, Public: map[string][]byte{"public": []byte("the certificate\n")}}
		c := seal.Context{Fleet: req.Fleet, ID: d.ID, Part: "secret", Gen: d.Gen, Seq: d.Seq}
		d.Sealed = map[string]step.SealedInput{"secret": sealedFor(t, o, c, "the CA's key")}
		req.Dependencies = map[string]step.Dependency{"ca": d}
		opt := options(t)
		opt.Identities = o.identities
		var printed []string
		opt.Reporter = func(line string) { printed = append(printed, line) }
		result, err := step.Run(t.Context(), req, opt)
		if err != nil {
			t.Fatal(err)
		}
		if got := value(t, req, result, o, "secret"); got != "the CA's key and mine" {
			t.Errorf("got %q", got)
		}
		if got := strings.Join(printed, "|"); got != "the certificate|[redacted]" {
			t.Errorf("printed %q", got)
		}
		// Somebody else's key opens nothing.
		opt.Identities = newOwner(t).identities
		var failed *step.Error
		if _, err := step.Run(t.Context(), req, opt); !errors.As(err, &failed) || !errors.Is(err, seal.ErrNotForUs) {
			t.Errorf("with another key: %v", err)
		}
	}
}

func sealedFor(t *testing.T, o owner, c seal.Context, text string) step.SealedInput {
	t.Helper()
	to, err := seal.ParseRecipient(o.key)
	if err != nil {
		t.Fatal(err)
	}
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	part, err := seal.Seal(c, salt, secret.NewPlain([]byte(text)), to)
	if err != nil {
		t.Fatal(err)
	}
	return step.SealedInput{Armor: part.Armor, Commit: seal.Commit(c, salt, secret.NewPlain([]byte(text)))}
}

func TestThePrintedSecretIsNeverShown(t *testing.T) {
	o := newOwner(t)
	for name, script := range map[string]string{
		"and it succeeds":          `set -x; pw=correct-horse-battery; echo "it is $pw"; echo -n $pw | encrypt > $out/secret`,
		"and it fails afterwards":  `set -x; pw=correct-horse-battery; echo -n $pw | encrypt > $out/secret; exit 1`,
		"and it was only half way": `set -x; pw=correct-horse-battery; echo -n $pw | encrypt > $TMPDIR/secret; exit 1`,
		"and it was not marked":    `echo correct-horse-battery > $out/secret; cat $out/secret`,
		"in a key that never got so far": `echo "-----BEGIN PRIVATE KEY-----
correct-horse-battery
-----END PRIVATE KEY-----" > key.pem; cat key.pem; exit 1`,
		"in a time that was encrypted": `echo -n x-correct-horse | encrypt > $out/secret; echo correct-horse-battery | encrypt > $out/expires_at; echo correct-horse-battery`,
		"in a time alone":              `echo -n x-correct-horse-x | encrypt > $out/secret; echo correct-horse-battery > $out/expires_at; echo x-correct-horse-x`,
		"in the time it expires":       `echo -n correct-horse-battery | encrypt > $out/secret; echo correct-horse-battery | tee $out/expires_at`,
	} {
		t.Run(name, func(t *testing.T) {
			req, opt := request(t, o, script), options(t)
			var printed []string
			opt.Reporter = func(line string) { printed = append(printed, line) }
			_, err := step.Run(t.Context(), req, opt)
			text := strings.Join(printed, "\n")
			if err != nil {
				text += err.Error()
			}
			if strings.Contains(text, "horse") || !strings.Contains(text, "[redacted]") {
				t.Errorf("shown:\n%s", text)
			}
		})
	}
}

// TestAShortSecretIsNotShownEither: PINs are short.
func TestAShortSecretIsNotShownEither(t *testing.T) {
	for _, end := range []string{"", "; exit 1"} {
		req, opt := request(t, newOwner(t), `set -x; pin=274093; echo "it is $pin"; echo -n $pin | encrypt > $out/secret`+end), options(t)
		var printed []string
		opt.Reporter = func(line string) { printed = append(printed, line) }
		_, err := step.Run(t.Context(), req, opt)
		text := strings.Join(printed, "\n")
		if err != nil {
			text += err.Error()
		}
		if strings.Contains(text, "274093") || !strings.Contains(text, "it is [redacted]") {
			t.Errorf("shown:\n%s", text)
		}
	}
}

func TestAMissingBubblewrapIsNoSilentLackOfASandbox(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `echo x | encrypt > $out/secret`)
	bin := t.TempDir()
	for name, script := range map[string]string{"not installed": "", "refused": "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"} {
		t.Run(name, func(t *testing.T) {
			opt := options(t)
			opt.Bubblewrap = filepath.Join(bin, "absent")
			if script != "" {
				opt.Bubblewrap = filepath.Join(bin, "bwrap")
				overwrite(t, opt.Bubblewrap, script)
			}
			_, err := step.Run(t.Context(), req, opt)
			var failed *step.Error
			if !errors.Is(err, step.ErrSandbox) || !errors.As(err, &failed) || !strings.Contains(failed.Hint(), `sandbox = "none"`) {
				t.Errorf("got %v", err)
			}
			if script != "" && !strings.Contains(err.Error(), "No permissions to create new namespace") {
				t.Errorf("the reason is not said: %v", err)
			}
		})
	}
	req.Sandbox = step.SandboxNone
	if _, err := step.Run(t.Context(), req, options(t)); err != nil {
		t.Errorf("without a sandbox: %v", err)
	}
}

// requireProgram skips a test on a machine without a program, and fails it where everything is expected to be there.
func requireProgram(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// The folder that memory is mounted on hides what is below it, but nothing that a generator was given.
func TestAProjectMayLieWhereThePrivateFolderWouldBe(t *testing.T) {
	project, err := os.MkdirTemp("/dev/shm", "fleet-test-project-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(project)
	overwrite(t, filepath.Join(project, "file"), "here")
	for _, sandbox := range []string{step.SandboxStrict, step.SandboxNone} {
		req, opt := request(t, newOwner(t), `cat $FLEET_PROJECT/file > $out/public`), options(t)
		req.Sandbox, opt.Project = sandbox, project
		if got := said(t, req, opt); got != "here" {
			t.Errorf("%s: got %q", sandbox, got)
		}
	}
}
