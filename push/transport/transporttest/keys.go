// Package transporttest holds what the tests of transports need: an in-process SSH server that can misbehave, a real sshd
// on a loopback port, and a conformance suite that every transport runs against both.
package transporttest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is a key pair of a test.
type Key struct {
	Private any
	Signer  ssh.Signer
}

// NewKey makes an Ed25519 key.
func NewKey(t testing.TB) Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, private)
}

// NewECDSAKey makes a key of another type than NewKey's.
func NewECDSAKey(t testing.TB) Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, private)
}

func newKey(t testing.TB, private any) Key {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return Key{Private: private, Signer: signer}
}

// Public is the public key.
func (k Key) Public() ssh.PublicKey { return k.Signer.PublicKey() }

// Text is the public key as "type base64".
func (k Key) Text() string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Public()))) }

// Write writes the private key to path, and the public one beside it; an empty passphrase leaves it in the clear.
func (k Key) Write(t testing.TB, path, passphrase string) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(k.Private, "test")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k.Private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(pem.EncodeToMemory(block)))
	writeFile(t, path+".pub", k.Text()+"\n")
	return path
}

// Certify signs key with authority, for an hour, as a user or host certificate for principals.
func Certify(t testing.TB, authority, key Key, kind uint32, principals ...string) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: key.Public(), CertType: kind, KeyId: "test", ValidPrincipals: principals, Serial: 7,
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if kind == ssh.UserCert {
		cert.Extensions = map[string]string{"permit-pty": ""}
	}
	if err := cert.SignCert(rand.Reader, authority.Signer); err != nil {
		t.Fatal(err)
	}
	return cert
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
