package material_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/material"
	"fleet/secretsgen/secret"
)

func caOptions(t testing.TB, key string) material.CertificateOptions {
	t.Helper()
	subject, err := material.ParseSubject(`{"CN": "Test CA", "O": "Fleet", "OU": ["a", "b"]}`)
	if err != nil {
		t.Fatal(err)
	}
	return material.CertificateOptions{Key: key, Subject: subject, Days: 3650, Now: time.Now()}
}

func leafOptions(t testing.TB, ca material.Certificate, key string) material.LeafOptions {
	t.Helper()
	opt := material.LeafOptions{CertificateOptions: caOptions(t, key), CACertificate: ca.Public, CAKey: ca.Private, Server: true}
	opt.Days = 90
	var err error
	if opt.Subject, err = material.ParseSubject(`{"CN": "web"}`); err != nil {
		t.Fatal(err)
	}
	if opt.Names, err = material.ParseNames(`["DNS:web.example.org", "DNS:*.web.example.org", "IP:192.0.2.1", "IP:2001:db8::1", "URI:spiffe://fleet/web", "email:root@example.org"]`); err != nil {
		t.Fatal(err)
	}
	return opt
}

func parse(t testing.TB, certificate []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(certificate)
	if block == nil || len(rest) != 0 {
		t.Fatal("not one block of PEM")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestCertificatesVerify(t *testing.T) {
	requireProgram(t, "openssl")
	keys := material.CertificateKeys()
	for i, caKey := range keys {
		if caKey == "rsa-4096" {
			continue // seconds each, and no other code than rsa-2048
		}
		leafKey := keys[(i+1)%len(keys)]
		if leafKey == "rsa-4096" {
			leafKey = "rsa-2048"
		}
		t.Run(caKey+" signs "+leafKey, func(t *testing.T) {
			ca, err := material.CA(rand.Reader, caOptions(t, caKey))
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := material.Leaf(rand.Reader, leafOptions(t, ca, leafKey))
			if err != nil {
				t.Fatal(err)
			}
			checkWithGo(t, ca, leaf)
			checkWithOpenssl(t, ca, leaf)
		})
	}
}

func checkWithGo(t *testing.T, ca, leaf material.Certificate) {
	t.Helper()
	roots := x509.NewCertPool()
	root, parsed := parse(t, ca.Public), parse(t, leaf.Public)
	roots.AddCert(root)
	for _, host := range []string{"web.example.org", "a.web.example.org", "192.0.2.1", "2001:db8::1"} {
		if _, err := parsed.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := parsed.Verify(x509.VerifyOptions{Roots: roots, DNSName: "db.example.org"}); err == nil {
		t.Error("it is valid for another name")
	}
	if _, err := parsed.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a server's certificate is valid for clients")
	}
	if !root.IsCA || parsed.IsCA || !parsed.BasicConstraintsValid || root.KeyUsage&x509.KeyUsageCertSign == 0 || parsed.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("CA and leaf are not told apart")
	}
	if !cmp.Equal(parsed.AuthorityKeyId, root.SubjectKeyId) || len(parsed.SubjectKeyId) != 20 {
		t.Errorf("key ids %x and %x", parsed.AuthorityKeyId, root.SubjectKeyId)
	}
	if bits := parsed.SerialNumber.BitLen(); bits > 159 || bits < 100 || parsed.SerialNumber.Sign() <= 0 {
		t.Errorf("a serial number of %d bits", bits)
	}
	if root.Subject.String() != "CN=Test CA,OU=a+OU=b,O=Fleet" {
		t.Errorf("subject %q", root.Subject)
	}
	if !leaf.NotAfter.Equal(parsed.NotAfter) || time.Until(parsed.NotAfter) > 90*24*time.Hour+time.Hour || !parsed.NotBefore.Before(time.Now()) {
		t.Errorf("valid from %v to %v", parsed.NotBefore, parsed.NotAfter)
	}
}

func checkWithOpenssl(t *testing.T, ca, leaf material.Certificate) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.crt": ca.Public, "leaf.crt": leaf.Public, "leaf.key": leaf.Private.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := output(t, nil, "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "web.example.org", "-CAfile", filepath.Join(dir, "ca.crt"), filepath.Join(dir, "leaf.crt"))
	if !strings.HasSuffix(got, "leaf.crt: OK") {
		t.Errorf("openssl says %q", got)
	}
	ofKey := output(t, nil, "openssl", "pkey", "-in", filepath.Join(dir, "leaf.key"), "-pubout")
	if ofCert := output(t, nil, "openssl", "x509", "-in", filepath.Join(dir, "leaf.crt"), "-noout", "-pubkey"); ofKey != ofCert {
		t.Errorf("the certificate has another key: %q, %q", ofKey, ofCert)
	}
	text := output(t, nil, "openssl", "x509", "-in", filepath.Join(dir, "leaf.crt"), "-noout", "-ext", "subjectAltName")
	for _, want := range []string{"DNS:web.example.org", "IP Address:192.0.2.1", "IP Address:2001:DB8:0:0:0:0:0:1", "URI:spiffe://fleet/web", "email:root@example.org"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
}

// A CA that another program has made, with the key in that program's format.
func TestALeafIsSignedByACAOfOpenssl(t *testing.T) {
	requireProgram(t, "openssl")
	dir := t.TempDir()
	for name, commands := range map[string]string{
		"ec, SEC 1":  "openssl ecparam -genkey -name secp384r1 -out ca.key; openssl req -x509 -new -key ca.key -subj /CN=ca -addext keyUsage=critical,keyCertSign -days 30 -out ca.crt",
		"rsa, PKCS1": "openssl genrsa -traditional -out ca.key 2048; openssl req -x509 -new -key ca.key -subj /CN=ca -addext keyUsage=critical,keyCertSign -days 30 -out ca.crt",
	} {
		t.Run(name, func(t *testing.T) {
			output(t, []byte("cd "+dir+"; set -e; "+commands), "sh")
			var read [2][]byte
			for i, name := range []string{"ca.crt", "ca.key"} {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				read[i] = data
			}
			ca := material.Certificate{Pair: material.Pair{Public: read[0], Private: secret.NewPlain(read[1])}}
			leaf, err := material.Leaf(rand.Reader, leafOptions(t, ca, "ecdsa-p256"))
			if err != nil {
				t.Fatal(err)
			}
			checkWithOpenssl(t, ca, leaf)
			if days := time.Until(leaf.NotAfter).Hours() / 24; days > 30 {
				t.Errorf("it outlives its CA: %.0f days", days)
			}
		})
	}
}

func TestWhatIsNoCASignsNothing(t *testing.T) {
	ca, err := material.CA(rand.Reader, caOptions(t, "ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := material.CA(rand.Reader, caOptions(t, "ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := material.Leaf(rand.Reader, leafOptions(t, ca, "ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		spoil func(*material.LeafOptions)
		want  string
	}{
		"a key of another CA": {func(o *material.LeafOptions) { o.CAKey = other.Private }, "not the one of its certificate"},
		"a leaf":              {func(o *material.LeafOptions) { o.CACertificate, o.CAKey = leaf.Public, leaf.Private }, "not one of a CA"},
		"no certificate":      {func(o *material.LeafOptions) { o.CACertificate = []byte("hello") }, "not in PEM"},
		"a broken certificate": {func(o *material.LeafOptions) {
			o.CACertificate = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, "cannot be read"},
		"no key":                {func(o *material.LeafOptions) { o.CAKey = secret.NewPlain([]byte("hello")) }, "no private key in PEM"},
		"an expired CA":         {func(o *material.LeafOptions) { o.Now = o.Now.AddDate(20, 0, 0) }, "has expired"},
		"a CA of the future":    {func(o *material.LeafOptions) { o.Now = o.Now.AddDate(-1, 0, 0) }, "not valid before"},
		"no lifetime":           {func(o *material.LeafOptions) { o.Days = 0 }, "lifetime of 0 days"},
		"a lifetime of a dozen": {func(o *material.LeafOptions) { o.Days = 1 << 20 }, "lifetime of 1048576 days"},
		"an unknown key":        {func(o *material.LeafOptions) { o.Key = "dsa" }, `key "dsa" is none of`},
	} {
		t.Run(name, func(t *testing.T) {
			opt := leafOptions(t, ca, "ed25519")
			test.spoil(&opt)
			if _, err := material.Leaf(rand.Reader, opt); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestNamesAndSubjectsThatAreNoneAreRefused(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `[]`, `"DNS:x"`, `["x"]`, `["DNS:"]`, `["DNS:a..b"]`, `["DNS:a b"]`, `["DNS:a.*"]`, `["DNS:a."]`, `["IP:1.2.3"]`, `["IP:web"]`, `["URI:nowhere"]`, `["email:root"]`,
		`["email:Root <root@example.org>"]`, `["dns:x"]`, `["DNS:` + strings.Repeat("a", 64) + `"]`,
	} {
		if _, err := material.ParseNames(text); err == nil && text != `[]` {
			t.Errorf("names %s are accepted", text)
		}
	}
	for _, text := range []string{``, `{}`, `null`, `[]`, `{"CN": ""}`, `{"CN": ["a", "b"]}`, `{"XX": "a"}`, `{"CN": 1}`, `{"O": []}`, `{"CN": "a\nb"}`, `{"CN": "` + strings.Repeat("a", 300) + `"}`} {
		if _, err := material.ParseSubject(text); err == nil {
			t.Errorf("subject %s is accepted", text)
		}
	}
}
