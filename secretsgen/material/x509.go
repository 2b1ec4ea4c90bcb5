package material

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"fleet/secretsgen/secret"
)

// CertificateKeys are the types of keys that certificates are made for.
func CertificateKeys() []string {
	return []string{"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-4096"}
}

func newCertificateKey(random io.Reader, kind string) (crypto.Signer, error) {
	switch kind {
	case "ed25519":
		_, key, err := newEd25519(random)
		return key, err
	case "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), random)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), random)
	case "rsa-2048":
		return newRSA(random, 2048)
	case "rsa-4096":
		return newRSA(random, 4096)
	}
	return nil, fmt.Errorf("key %q is none of %s", kind, strings.Join(CertificateKeys(), ", "))
}

// CertificateOptions say what a certificate is to be.
type CertificateOptions struct {
	// Key is one of [CertificateKeys].
	Key     string
	Subject pkix.Name
	// Days is the lifetime from Now on.
	Days int
	Now  time.Time
}

// LeafOptions say what a certificate that is signed by a CA is to be.
type LeafOptions struct {
	CertificateOptions
	Names Names
	// Client and Server are what the certificate is for; neither means both.
	Client, Server bool
	// CACertificate and CAKey are the CA's, in PEM.
	CACertificate []byte
	CAKey         secret.Plain
}

// Certificate is a private key in PKCS #8 and its certificate, both in PEM.
type Certificate struct {
	Pair
	NotAfter time.Time
}

const (
	// backdated is how long before now a certificate begins: the clocks of those who check it differ.
	backdated = time.Hour
	// maxDays is a bound for a lifetime; what is meant to be for ever takes it.
	maxDays = 100 * 366
	// serialBytes make a positive serial number of 159 bits (RFC 5280, 4.1.2.2: at most 20 octets).
	serialBytes = 20
)

// CA makes a self-signed certificate that signs others.
func CA(random io.Reader, opt CertificateOptions) (Certificate, error) {
	template, key, err := opt.template(random)
	if err != nil {
		return Certificate{}, fmt.Errorf("make a CA: %w", err)
	}
	template.IsCA, template.MaxPathLen = true, -1
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	template.AuthorityKeyId = template.SubjectKeyId
	return sign(random, template, template, key, key)
}

// Leaf makes a certificate that a CA signs. It does not outlive the CA.
func Leaf(random io.Reader, opt LeafOptions) (Certificate, error) {
	ca, caKey, err := opt.authority()
	if err != nil {
		return Certificate{}, fmt.Errorf("sign with the CA: %w", err)
	}
	template, key, err := opt.template(random)
	if err != nil {
		return Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	if template.NotBefore.Before(ca.NotBefore) {
		template.NotBefore = ca.NotBefore
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if _, ok := key.(*rsa.PrivateKey); ok {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	if opt.Server || !opt.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if opt.Client || !opt.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	template.DNSNames, template.IPAddresses, template.URIs, template.EmailAddresses = opt.Names.DNS, opt.Names.IPs, opt.Names.URIs, opt.Names.Emails
	return sign(random, template, ca, key, caKey)
}

// authority reads the CA, and makes sure that it is one and that the key is its own.
func (o LeafOptions) authority() (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode(o.CACertificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, errors.New("its certificate is not in PEM")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("its certificate cannot be read: %w", err)
	}
	key, err := parsePrivate(o.CAKey)
	if err != nil {
		return nil, nil, fmt.Errorf("its key: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(ca.PublicKey):
		return nil, nil, errors.New("its key is not the one of its certificate")
	case !ca.IsCA || ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, nil, errors.New("its certificate is not one of a CA")
	case o.Now.After(ca.NotAfter):
		return nil, nil, fmt.Errorf("it has expired, on %s", ca.NotAfter.UTC().Format(time.DateOnly))
	case o.Now.Before(ca.NotBefore):
		return nil, nil, fmt.Errorf("it is not valid before %s", ca.NotBefore.UTC().Format(time.RFC3339))
	}
	return ca, key, nil
}

// template makes a key and what all certificates have.
func (o CertificateOptions) template(random io.Reader) (*x509.Certificate, crypto.Signer, error) {
	if o.Days < 1 || o.Days > maxDays {
		return nil, nil, fmt.Errorf("its lifetime of %d days is not between 1 and %d", o.Days, maxDays)
	}
	serial := make([]byte, serialBytes)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, nil, fmt.Errorf("draw a serial number: %w", err)
	}
	serial[0] &= 0x7f
	serial[serialBytes-1] |= 1 // never zero
	key, err := newCertificateKey(random, o.Key)
	if err != nil {
		return nil, nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, nil, err
	}
	now := o.Now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: o.Subject, SubjectKeyId: id, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdated), NotAfter: now.AddDate(0, 0, o.Days),
	}, key, nil
}

// keyID is the key's identifier (RFC 7093, 2, method 1).
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

func sign(random io.Reader, template, parent *x509.Certificate, key, by crypto.Signer) (Certificate, error) {
	der, err := x509.CreateCertificate(random, template, parent, key.Public(), by)
	if err != nil {
		return Certificate{}, fmt.Errorf("sign a certificate: %w", err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fmt.Errorf("read the certificate that was made: %w", err)
	}
	if !bytes.Equal(made.SubjectKeyId, template.SubjectKeyId) || !slices.Equal(made.DNSNames, template.DNSNames) {
		return Certificate{}, errors.New("the certificate that was made is not what was asked for")
	}
	private, err := privatePEM(key)
	if err != nil {
		return Certificate{}, err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return Certificate{Pair: Pair{Private: private, Public: public}, NotAfter: made.NotAfter}, nil
}
