package public_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"fleet/secretsgen/public"
)

func pemOf(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestKeysThatAreThereAsAWholeAreFound(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ed)
	pkcs8PEM := pemOf(t, "PRIVATE KEY", pkcs8, err)
	sec1, sec1Err := x509.MarshalECPrivateKey(ec)
	openssh, sshErr := ssh.MarshalPrivateKey(ed, "")
	locked, lockedErr := ssh.MarshalPrivateKeyWithPassphrase(ed, "", []byte("passphrase"))
	if sshErr != nil || lockedErr != nil {
		t.Fatal(sshErr, lockedErr)
	}
	inJSON, err := json.Marshal(map[string]string{"key": pkcs8PEM})
	if err != nil {
		t.Fatal(err)
	}
	twice, err := json.Marshal(string(inJSON))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"PKCS #8":            pkcs8PEM,
		"SEC 1":              pemOf(t, "EC PRIVATE KEY", sec1, sec1Err),
		"PKCS #1":            pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil),
		"OpenSSH":            string(pem.EncodeToMemory(openssh)),
		"with text around":   "key = '''\n" + pkcs8PEM + "'''\n",
		"indented":           "  " + strings.ReplaceAll(pkcs8PEM, "\n", "\n  "),
		"in JSON":            string(inJSON),
		"in JSON in JSON":    string(twice),
		"CRLF":               strings.ReplaceAll(pkcs8PEM, "\n", "\r\n"),
		"age":                "key=" + identity.String() + "\n",
		"after a mere mark":  "PRIVATE KEY----- AGE-SECRET-KEY-1 " + pkcs8PEM,
		"age, after a mark":  "AGE-SECRET-KEY-… " + identity.String(),
		"after an encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n" + pkcs8PEM,
	} {
		if public.WholePrivateKey([]byte(text)) == "" {
			t.Errorf("%s: not found in\n%s", name, text)
		}
	}
	for name, text := range map[string]string{
		"nothing":               "",
		"a certificate":         "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
		"a program's text":      "-----BEGIN PRIVATE KEY-----\x00-----END PRIVATE KEY-----\x00AGE-SECRET-KEY-1\x00",
		"documentation":         "-----BEGIN PRIVATE KEY-----\n…\n-----END PRIVATE KEY-----\nAGE-SECRET-KEY-1XXXX",
		"encrypted":             "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + strings.SplitN(pkcs8PEM, "\n", 2)[1],
		"with a passphrase":     string(pem.EncodeToMemory(locked)),
		"a sealed file":         "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n",
		"a key without its end": pkcs8PEM[:len(pkcs8PEM)-20],
		"an age recipient":      identity.Recipient().String(),
		"a short identity":      identity.String()[:60],
		"a lock file's hash":    `integrity sha512:` + strings.Repeat("A", 86) + "==",
	} {
		if got := public.WholePrivateKey([]byte(text)); got != "" {
			t.Errorf("%s: found %s", name, got)
		}
	}
}
