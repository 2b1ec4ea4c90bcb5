package seal_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
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
	identities []age.Identity
}

func newHost(t testing.TB) host {
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
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	h := host{}
	if h.to, err = seal.ParseRecipient(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))); err != nil {
		t.Fatal(err)
	}
	if h.identities, err = seal.LoadIdentities(filepath.Join(t.TempDir(), "absent"), file); err != nil {
		t.Fatal(err)
	}
	return h
}

func context(t testing.TB) seal.Context {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return seal.Context{Fleet: "default", ID: secret.ID{Scope: secret.OfHost("web"), Name: "db"}, Part: "secret", Gen: gen, Seq: 7}
}

func TestOnlyItsOwnerOpensASealedValue(t *testing.T) {
	owner, other := newHost(t), newHost(t)
	c := context(t)
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	value := secret.NewPlain([]byte("hunter2\x00\n"))
	sealed, err := seal.Seal(c, salt, value, owner.to)
	if err != nil {
		t.Fatal(err)
	}
	commit := seal.Commit(c, salt, value)
	opened, err := seal.Open(sealed.Armor, c, commit, owner.identities...)
	if err != nil || string(opened.Value.Bytes()) != "hunter2\x00\n" {
		t.Fatalf("got %q, %v", opened.Value.Bytes(), err)
	}
	if _, err := seal.Open(sealed.Armor, c, commit, other.identities...); !errors.Is(err, seal.ErrNotForUs) {
		t.Errorf("another host: %v", err)
	}
	swapped := c
	swapped.ID.Name = "api"
	if _, err := seal.Open(sealed.Armor, swapped, commit, owner.identities...); !errors.Is(err, seal.ErrContext) {
		t.Errorf("as another secret: %v", err)
	}
	if _, err := seal.Open(sealed.Armor, c, strings.Repeat("0", 64), owner.identities...); !errors.Is(err, seal.ErrCommit) {
		t.Errorf("under another commitment: %v", err)
	}
	ref := seal.Ref{Fleet: c.Fleet, ID: c.ID, Part: c.Part, Gen: c.Gen, Seq: c.Seq, Armor: sealed.Armor, Commit: commit}
	result, err := seal.RewrapAll(seal.RewrapRequest{Parts: []seal.Ref{ref}, To: map[string]string{"other": other.to.Key}}, owner.identities...)
	if err != nil || result.Parts[0].Error != "" {
		t.Fatal(result, err)
	}
	if opened, err = seal.Open(result.Parts[0].Sealed["other"].Armor, c, commit, other.identities...); err != nil || string(opened.Value.Bytes()) != "hunter2\x00\n" {
		t.Errorf("after wrapping again: %q, %v", opened.Value.Bytes(), err)
	}
	header, err := seal.Inspect(sealed.Armor)
	if err != nil || !header.IsFor(owner.to) || header.IsFor(other.to) {
		t.Errorf("header %+v, %v", header, err)
	}
}
