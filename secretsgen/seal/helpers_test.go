package seal_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// host is a made-up host with its key.
type host struct {
	to         seal.Recipient
	file       string
	identities []age.Identity
}

// newHost makes a host with an ssh-ed25519 key.
func newHost(t testing.TB) host {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return hostOf(t, private)
}

func newRSAHost(t testing.TB) host {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return hostOf(t, private)
}

func hostOf(t testing.TB, private crypto.Signer) host {
	t.Helper()
	file, public := keyFile(t, private)
	h := host{file: file}
	var err error
	if h.to, err = seal.ParseRecipient(public); err != nil {
		t.Fatal(err)
	}
	if h.identities, err = seal.LoadIdentities(filepath.Join(t.TempDir(), "absent"), file); err != nil {
		t.Fatal(err)
	}
	return h
}

// keyFile writes a private key as sshd keeps it, and returns the public key as "type base64".
func keyFile(t testing.TB, private crypto.Signer) (file, public string) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func ecdsaKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func context(t testing.TB) seal.Context {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return seal.Context{Fleet: "default", ID: secret.ID{Scope: secret.OfHost("web"), Name: "db"}, Part: "secret", Gen: gen, Seq: 7}
}

// sealed is a sealed value and its commitment.
type sealed struct {
	armor, commit string
}

func sealTo(t testing.TB, to seal.Recipient, c seal.Context, value string) sealed {
	t.Helper()
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	plain := secret.NewPlain([]byte(value))
	part, err := seal.Seal(c, salt, plain, to)
	if err != nil {
		t.Fatal(err)
	}
	return sealed{part.Armor, seal.Commit(c, salt, plain)}
}

// requireProgram skips a test on a machine without a program, and fails it where everything is expected to be there.
func requireProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}
