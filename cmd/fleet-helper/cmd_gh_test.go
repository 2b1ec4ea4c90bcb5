package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// requireProgram skips a test on a machine without a program, and fails it where everything is expected to be there.
func requireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
}

// runGenerator runs a script as a generator with this program as its helper, and returns the parts that came out.
func runGenerator(t *testing.T, script string) (map[string]string, step.Result) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("generators run on Linux alone")
	}
	dir := t.TempDir()
	helper, program := filepath.Join(dir, "fleet"), filepath.Join(dir, "generate")
	if err := os.Symlink(os.Args[0], helper); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\nset -eu\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	key, identities := testHost(t)
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	req := step.Request{
		Program: program, Fleet: "default", ID: secret.ID{Scope: secret.OfHost("web"), Name: "db"}, Gen: gen, Seq: 1,
		Owners: map[string]string{"web": key}, Sandbox: step.SandboxStrict, Timeout: time.Minute,
	}
	result, err := step.Run(t.Context(), req, step.Options{Helper: helper})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for name, part := range result.Parts {
		values[name] = string(part.Public)
		if !part.Encrypted {
			continue
		}
		opened, err := seal.Open(result.Sealed["web"][name].Armor, req.Context(name), part.Commit, identities...)
		if err != nil {
			t.Fatal(err)
		}
		values[name] = string(opened.Value.Bytes())
	}
	return values, result
}

func testHost(t *testing.T) (key string, identities []age.Identity) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if identities, err = seal.LoadIdentities(file); err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))), identities
}

func TestGeneratorsUseGhAndEncryptInASandbox(t *testing.T) {
	requireProgram(t, "bwrap")
	values, result := runGenerator(t, `
		gh generate password -o $out/secret --size 24
		gh hash bcrypt -i $out/secret -o $out/hash --cost 10
		gh generate wireguard -p $out/wg-public -s $out/wg-private
		gh x509 ca -p $out/ca -s $out/ca-key --subject '{"CN": "Test CA"}' --days 30
		printf 'by hand' | encrypt > $out/plain
		echo "$GENERATOR_HELPER_IDENTITIES" > $out/public
	`)
	if len(values["secret"]) != 24 || !strings.HasPrefix(values["hash"], "$2a$10$") || values["plain"] != "by hand" || !strings.HasPrefix(values["public"], "ssh-ed25519 ") {
		t.Errorf("got %q", values)
	}
	for name, encrypted := range map[string]bool{"secret": true, "hash": true, "wg-private": true, "ca-key": true, "plain": true, "wg-public": false, "ca": false, "public": false} {
		if result.Parts[name].Encrypted != encrypted {
			t.Errorf("%s is encrypted: %v", name, result.Parts[name].Encrypted)
		}
	}
	if result.ExpiresAt == nil || time.Until(*result.ExpiresAt) > 31*24*time.Hour || time.Until(*result.ExpiresAt) < 29*24*time.Hour {
		t.Errorf("expires at %v", result.ExpiresAt)
	}
}

func TestYescryptHashesAreWhatCryptMakes(t *testing.T) {
	requireProgram(t, "mkpasswd")
	requireProgram(t, "perl")
	values, _ := runGenerator(t, `printf 'correct horse battery\n' > $TMPDIR/password; gh hash yescrypt -i $TMPDIR/password -o $out/secret`)
	hash := values["secret"]
	out, err := run.Output(t.Context(), run.Cmd{
		Argv: []string{"perl", "-e", `chomp(my $h = <STDIN>); print crypt("correct horse battery", $h)`}, Stdin: strings.NewReader(hash),
	})
	if err != nil || string(out) != hash || !strings.HasPrefix(hash, "$y$") {
		t.Errorf("crypt(3) says %q of %q: %v", out, hash, err)
	}
}
