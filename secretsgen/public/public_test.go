package public_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/evaluator/plan"
	"fleet/secretsgen/public"
	"fleet/secretsgen/secret"
)

func certificate(t testing.TB) string {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, private)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der)
}

func block(kind string, data []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
}

func sshKey(t testing.TB) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestEachTypeTakesItsOwnAndNothingElse(t *testing.T) {
	cert, key := certificate(t), sshKey(t)
	wireGuard := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	publicPEM := block("PUBLIC KEY", []byte("any bytes"))
	for name, c := range map[string]struct {
		typ, pattern, value string
		wrong               string // a part of the error; empty where it is right
	}{
		"a line":                       {plan.TypeText, "", "schön und gut", ""},
		"a line with its newline":      {plan.TypeText, "", "a line\n", ""},
		"no type is text":              {"", "", "a line", ""},
		"a public key in PEM":          {plan.TypeText, "", publicPEM, ""},
		"a chain":                      {plan.TypeText, "", cert + "\n" + cert, ""},
		"nothing":                      {plan.TypeText, "", "\n", "empty"},
		"two lines":                    {plan.TypeText, "", "a\nb\n", "several lines"},
		"two newlines":                 {plan.TypeText, "", "a\n\n", "several lines"},
		"a carriage return":            {plan.TypeText, "", "a\r\n", "several lines"},
		"an escape code":               {plan.TypeText, "", "\x1b[31m", "cannot be printed"},
		"a tab":                        {plan.TypeText, "", "a\tb", "cannot be printed"},
		"a zero byte":                  {plan.TypeText, "", "a\x00", "cannot be printed"},
		"no UTF-8":                     {plan.TypeText, "", "\xff", "UTF-8"},
		"a text before PEM":            {plan.TypeText, "", "x\n" + publicPEM, "several lines"},
		"a text after PEM":             {plan.TypeText, "", publicPEM + "x\n", "several lines"},
		"a text between PEM":           {plan.TypeText, "", publicPEM + "x\n" + publicPEM, "several lines"},
		"a block in a block":           {plan.TypeText, "", "-----BEGIN X-----\n" + publicPEM, "several lines"},
		"16 KiB":                       {plan.TypeText, "", strings.Repeat("x", secret.MaxPublic), ""},
		"more than 16 KiB":             {plan.TypeText, "", strings.Repeat("x", secret.MaxPublic+1), "16385 bytes"},
		"1 MB":                         {plan.TypeBinary, "", strings.Repeat("x", 1<<20), "1048576 bytes"},
		"a certificate":                {plan.TypeX509, "", cert, ""},
		"a chain of certificates":      {plan.TypeX509, "", cert + cert, ""},
		"no certificate":               {plan.TypeX509, "", "x\n", "not a certificate"},
		"a public key as certificate":  {plan.TypeX509, "", publicPEM, `type "PUBLIC KEY"`},
		"a damaged certificate":        {plan.TypeX509, "", block("CERTIFICATE", []byte("x")), "cannot be parsed"},
		"a certificate and a text":     {plan.TypeX509, "", cert + "hello\n", "stands beside it"},
		"a text and a certificate":     {plan.TypeX509, "", "Certificate:\n" + cert, "stands beside it"},
		"a truncated certificate":      {plan.TypeX509, "", cert[:len(cert)/2], "not a certificate"},
		"a key of SSH":                 {plan.TypeSSHKey, "", key + "\n", ""},
		"a key of SSH with a comment":  {plan.TypeSSHKey, "", key + " me@home", ""},
		"two keys of SSH":              {plan.TypeSSHKey, "", key + "\n" + key, "several lines"},
		"a key of SSH with options":    {plan.TypeSSHKey, "", `command="rm -rf /" ` + key, "options"},
		"a key of SSH of another type": {plan.TypeSSHKey, "", strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1), "of SSH"},
		"no key of SSH":                {plan.TypeSSHKey, "", "ssh-ed25519 AAAA", "no public key of SSH"},
		"an escape code in a comment":  {plan.TypeSSHKey, "", key + " \x1b[31m", "cannot be printed"},
		"a key of WireGuard":           {plan.TypeWireGuardKey, "", wireGuard + "\n", ""},
		"a short key of WireGuard":     {plan.TypeWireGuardKey, "", "AAAA", "no key of WireGuard"},
		"a key of WireGuard in lines":  {plan.TypeWireGuardKey, "", wireGuard[:20] + "\n" + wireGuard[20:], "no key of WireGuard"},
		"a key of zeros":               {plan.TypeWireGuardKey, "", base64.StdEncoding.EncodeToString(make([]byte, 32)), "all zeros"},
		"a pattern":                    {plan.TypeRegex, "v[0-9]+|w", "v12\n", ""},
		"the other way of a pattern":   {plan.TypeRegex, "v[0-9]+|w", "w", ""},
		"more than a pattern":          {plan.TypeRegex, "v[0-9]+|w", "v12x", "does not match"},
		"a line more than a pattern":   {plan.TypeRegex, "(?m)^v[0-9]+$", "v12\nv13", "does not match"},
		"no pattern":                   {plan.TypeRegex, "(", "x", "no regular expression"},
		"binary for a pattern":         {plan.TypeRegex, "(?s).*", "\x00", "no text"},
		"any bytes":                    {plan.TypeBinary, "", "\x00\xff", ""},
		"an unknown type":              {"jpeg", "", "x", "none of"},
	} {
		t.Run(name, func(t *testing.T) {
			switch err := public.Validate(c.typ, c.pattern, []byte(c.value)); {
			case err == nil && c.wrong != "":
				t.Error("it was taken")
			case err != nil && (c.wrong == "" || !strings.Contains(err.Error(), c.wrong)):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPrivateKeysAreNeverPublic(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	openssh, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	nix := base64.StdEncoding.EncodeToString(private)
	for name, value := range map[string]string{
		"PKCS#8":              block("PRIVATE KEY", []byte("x")),
		"encrypted":           block("ENCRYPTED PRIVATE KEY", []byte("x")),
		"OpenSSH":             string(pem.EncodeToMemory(openssh)),
		"OpenSSH, first line": strings.TrimPrefix(string(pem.EncodeToMemory(openssh)), "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
		"age":                 "AGE-SECRET-KEY-1QQQ",
		"age, post-quantum":   "AGE-SECRET-KEY-PQ-1QQQ",
		"Nix":                 "cache.example.org-1:" + nix + "\n",
		"Nix, in a text":      `{"key":"cache-1:` + nix + `"}`,
		"PuTTY":               "PuTTY-User-Key-File-3: ssh-ed25519",
	} {
		t.Run(name, func(t *testing.T) {
			for _, typ := range plan.PartTypes() {
				err := public.Validate(typ, "(?s).*", []byte(value))
				if err == nil {
					t.Errorf("type %s takes it", typ)
				} else if strings.Contains(err.Error(), nix[:20]) {
					t.Errorf("the error shows it: %v", err)
				}
			}
		})
	}
}

func TestPublicKeysAreNotTakenForPrivateOnes(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Nix":           "cache-1:" + base64.StdEncoding.EncodeToString(pub),
		"a hash":        "sha512:" + strings.Repeat("ab", 64),
		"a longer text": "name:" + strings.Repeat("A", 90) + "==",
		"a certificate": certificate(t),
		"SSH":           sshKey(t),
		"an age file":   "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n",
		"a time":        "12:00:00",
	} {
		if marker := public.PrivateMarker([]byte(value)); marker != "" {
			t.Errorf("%s was taken for %s", name, marker)
		}
	}
}

func FuzzValidate(f *testing.F) {
	for _, typ := range plan.PartTypes() {
		f.Add(typ, "v[0-9]+", []byte("v1\n"))
		f.Add(typ, "", []byte(certificate(f)))
		f.Add(typ, "", []byte(sshKey(f)))
	}
	f.Fuzz(func(t *testing.T, typ, pattern string, value []byte) {
		err := public.Validate(typ, pattern, value)
		if err != nil {
			return
		}
		if public.PrivateMarker(value) != "" || len(value) > secret.MaxPublic {
			t.Errorf("type %s takes %q", typ, value)
		}
		if (typ == plan.TypeSSHKey || typ == plan.TypeWireGuardKey) && strings.ContainsAny(strings.TrimSuffix(string(value), "\n"), "\r\n\x00\x1b") {
			t.Errorf("type %s takes %q", typ, value)
		}
	})
}
