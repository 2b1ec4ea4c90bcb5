// Package material makes the values of secrets: passwords, keys, certificates and hashes. It does no input or output; randomness comes from a
// reader that the caller gives, which is crypto/rand.Reader but for tests. Where the standard library or age insists on its own source of
// randomness, that is said, and the reader is not asked.
//
// Texts of one line have no newline at their end, so that they can be pasted into configurations; PEM ends in one.
package material

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"fleet/secretsgen/secret"
)

// Pair is a private value and what may be known of it.
type Pair struct {
	Private secret.Plain
	Public  []byte
}

// MinPassword is the length of the shortest password that [Password] makes.
const MinPassword = 6

const (
	alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	// symbols neither end a quoted text nor are expanded in one, in shells, Nix, YAML and JSON.
	symbols = "!#%+,-./:=?@^_~"
)

// Password draws characters, each as likely as the others: letters, digits, and with symbols also some punctuation.
func Password(random io.Reader, size int, symbol Symbols) (secret.Plain, error) {
	if size < MinPassword {
		return secret.Plain{}, fmt.Errorf("make a password: %d characters are less than %d", size, MinPassword)
	}
	if size > secret.MaxValue {
		return secret.Plain{}, fmt.Errorf("make a password: %d characters are more than %d", size, secret.MaxValue)
	}
	alphabet := alphanumeric
	if symbol == WithSymbols {
		alphabet += symbols
	}
	// Bytes from here on are drawn again: the rest would make the first characters likelier.
	limit := 256 - 256%len(alphabet)
	password, err := draw(random, size, func(b byte) bool { return int(b) < limit })
	if err != nil {
		return secret.Plain{}, err
	}
	for i, b := range password {
		password[i] = alphabet[int(b)%len(alphabet)]
	}
	return secret.NewPlain(password), nil
}

// Symbols says whether a password has punctuation.
type Symbols bool

// The two kinds of password.
const (
	WithSymbols    Symbols = true
	WithoutSymbols Symbols = false
)

// Bytes draws bytes.
func Bytes(random io.Reader, count int, nul Nuls) (secret.Plain, error) {
	if count < 1 || count > secret.MaxValue {
		return secret.Plain{}, fmt.Errorf("make random bytes: their number, %d, is not between 1 and %d", count, secret.MaxValue)
	}
	data, err := draw(random, count, func(b byte) bool { return nul == WithNuls || b != 0 })
	return secret.NewPlain(data), err
}

// Nuls says whether random bytes may be zero.
type Nuls bool

// The two kinds of random bytes.
const (
	WithNuls    Nuls = true
	WithoutNuls Nuls = false
)

// draw reads bytes until it has count good ones.
func draw(random io.Reader, count int, good func(byte) bool) ([]byte, error) {
	out := make([]byte, 0, count)
	buffer := make([]byte, max(64, min(count, 4096)))
	defer clear(buffer)
	for {
		if _, err := io.ReadFull(random, buffer); err != nil {
			clear(out)
			return nil, fmt.Errorf("draw random bytes: %w", err)
		}
		for _, b := range buffer {
			if good(b) {
				out = append(out, b)
			}
			if len(out) == count {
				return out, nil
			}
		}
	}
}

// Ed25519 makes a signing key: 32 bytes of public key, and of the private key the seed (32 bytes) or the seed followed by the public key.
func Ed25519(random io.Reader, form PrivateForm) (Pair, error) {
	public, private, err := newEd25519(random)
	if err != nil {
		return Pair{}, err
	}
	if form == SeedAlone {
		return Pair{Private: secret.NewPlain(private.Seed()), Public: public}, nil
	}
	return Pair{Private: secret.NewPlain(private), Public: public}, nil
}

// PrivateForm is how a private ed25519 key is written.
type PrivateForm bool

// The forms.
const (
	SeedAlone      PrivateForm = false
	SeedWithPublic PrivateForm = true
)

func newEd25519(random io.Reader) (ed25519.PublicKey, ed25519.PrivateKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	defer clear(seed)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, nil, fmt.Errorf("make an ed25519 key: %w", err)
	}
	private := ed25519.NewKeyFromSeed(seed)
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, nil, errors.New("make an ed25519 key: its public key is of another type")
	}
	return public, private, nil
}

// X25519 makes a key pair of 32 bytes each.
func X25519(random io.Reader) (Pair, error) {
	private, err := newX25519(random)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Private: secret.NewPlain(private.Bytes()), Public: private.PublicKey().Bytes()}, nil
}

// newX25519 clamps the key as RFC 7748 has it, as some programs compare keys bit by bit with what `wg pubkey` would have made of them.
func newX25519(random io.Reader) (*ecdh.PrivateKey, error) {
	scalar := make([]byte, 32)
	defer clear(scalar)
	if _, err := io.ReadFull(random, scalar); err != nil {
		return nil, fmt.Errorf("make an X25519 key: %w", err)
	}
	scalar[0] &= 248
	scalar[31] = scalar[31]&127 | 64
	private, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return nil, fmt.Errorf("make an X25519 key: %w", err)
	}
	return private, nil
}

// WireGuard makes a key pair as `wg genkey` and `wg pubkey` print them.
func WireGuard(random io.Reader) (Pair, error) {
	private, err := newX25519(random)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Private: inBase64(private.Bytes()), Public: inBase64(private.PublicKey().Bytes()).Bytes()}, nil
}

// WireGuardPSK makes a pre-shared key as `wg genpsk` prints it.
func WireGuardPSK(random io.Reader) (secret.Plain, error) {
	key, err := Bytes(random, 32, WithNuls)
	if err != nil {
		return secret.Plain{}, err
	}
	defer key.Wipe()
	return inBase64(key.Bytes()), nil
}

// Age makes an identity of age and its recipient. age draws it itself.
func Age() (Pair, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return Pair{}, fmt.Errorf("make an age identity: %w", err)
	}
	return Pair{Private: secret.NewPlain([]byte(identity.String())), Public: []byte(identity.Recipient().String())}, nil
}

// NixKey makes a key that signs store paths, as `nix key generate-secret` prints it.
func NixKey(random io.Reader, name string) (Pair, error) {
	if err := secret.ValidateName(name); err != nil {
		return Pair{}, fmt.Errorf("make a signing key of Nix: %w", err)
	}
	public, private, err := newEd25519(random)
	if err != nil {
		return Pair{}, err
	}
	line := append([]byte(name+":"), inBase64(private).Bytes()...)
	return Pair{Private: secret.NewPlain(line), Public: append([]byte(name+":"), inBase64(public).Bytes()...)}, nil
}

func inBase64(data []byte) secret.Plain {
	return secret.NewPlain(base64.StdEncoding.AppendEncode(nil, data))
}
