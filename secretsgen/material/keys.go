package material

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"fleet/secretsgen/secret"
)

// The bounds of RSA keys, in bits. What is longer takes minutes to make and is accepted by few.
const (
	MinRSA = 2048
	MaxRSA = 16384
)

func newRSA(random io.Reader, bits int) (*rsa.PrivateKey, error) {
	if bits < MinRSA || bits > MaxRSA || bits%8 != 0 {
		return nil, fmt.Errorf("make an RSA key: %d bits: want a multiple of 8 from %d to %d", bits, MinRSA, MaxRSA)
	}
	key, err := rsa.GenerateKey(random, bits)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	return key, nil
}

// RSA makes a key pair: PKCS #8 and PKIX, both in PEM. Go draws it from its own source.
func RSA(random io.Reader, bits int) (Pair, error) {
	key, err := newRSA(random, bits)
	if err != nil {
		return Pair{}, err
	}
	private, err := privatePEM(key)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("encode a public key: %w", err)
	}
	return Pair{Private: private, Public: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, nil
}

// privatePEM encodes a private key as PKCS #8 in PEM.
func privatePEM(key crypto.PrivateKey) (secret.Plain, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secret.Plain{}, fmt.Errorf("encode a private key: %w", err)
	}
	defer clear(der)
	return secret.NewPlain(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// parsePrivate reads the first private key of a PEM file: PKCS #8, PKCS #1 or SEC 1. Errors show nothing of it.
func parsePrivate(file secret.Plain) (crypto.Signer, error) {
	for rest := file.Bytes(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it holds no private key in PEM")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("its private key is encrypted with a passphrase")
		default:
			continue // parameters of a curve, a certificate
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, errors.New("its private key cannot be read, or cannot sign")
		}
		return signer, nil
	}
}

// The types of SSH keys.
const (
	SSHEd25519 = "ed25519"
	SSHRSA     = "rsa"
	SSHECDSA   = "ecdsa"
)

// SSHOptions say which SSH key to make.
type SSHOptions struct {
	// Type is [SSHEd25519], [SSHRSA] or [SSHECDSA].
	Type string
	// Bits are the size of an RSA key (zero means 4096), or the curve of an ECDSA key: 256 (also for zero), 384 or 521.
	Bits int
	// Comment stands at the end of the public key.
	Comment string
}

// SSH makes a key pair as ssh-keygen writes it: the private key in OpenSSH's format without a passphrase, the public one as a line of
// authorized_keys.
func SSH(random io.Reader, opt SSHOptions) (Pair, error) {
	if strings.ContainsFunc(opt.Comment, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Pair{}, fmt.Errorf("make an SSH key: comment %q has control characters", opt.Comment)
	}
	key, err := newSSHKey(random, opt)
	if err != nil {
		return Pair{}, fmt.Errorf("make an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, opt.Comment)
	if err != nil {
		return Pair{}, fmt.Errorf("make an SSH key: %w", err)
	}
	defer clear(block.Bytes)
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return Pair{}, fmt.Errorf("make an SSH key: %w", err)
	}
	line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(public))
	if opt.Comment != "" {
		line = append(append(line, ' '), opt.Comment...)
	}
	return Pair{Private: secret.NewPlain(pem.EncodeToMemory(block)), Public: line}, nil
}

func newSSHKey(random io.Reader, opt SSHOptions) (crypto.Signer, error) {
	switch opt.Type {
	case SSHEd25519:
		if opt.Bits != 0 && opt.Bits != 256 {
			return nil, fmt.Errorf("an ed25519 key has 256 bits, not %d", opt.Bits)
		}
		_, key, err := newEd25519(random)
		return key, err
	case SSHRSA:
		if opt.Bits == 0 {
			opt.Bits = 4096
		}
		return newRSA(random, opt.Bits)
	case SSHECDSA:
		curves := map[int]elliptic.Curve{0: elliptic.P256(), 256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}
		curve := curves[opt.Bits]
		if curve == nil {
			return nil, fmt.Errorf("an ecdsa key has 256, 384 or 521 bits, not %d", opt.Bits)
		}
		return ecdsa.GenerateKey(curve, random)
	}
	return nil, fmt.Errorf("type %q is none of %s, %s and %s", opt.Type, SSHEd25519, SSHRSA, SSHECDSA)
}
