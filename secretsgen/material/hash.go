package material

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/bcrypt"

	"fleet/secretsgen/secret"
)

// The bounds of bcrypt's cost. Each step doubles the work; what is below is weaker than any program's default.
const (
	MinBcrypt     = 10
	DefaultBcrypt = 12
	MaxBcrypt     = 20
)

// maxBcrypt is the length of the longest password of which bcrypt takes every byte.
const maxBcrypt = 72

// Bcrypt hashes a password, "$2a$…". Its salt is drawn by the library itself.
func Bcrypt(password secret.Plain, cost int) (secret.Plain, error) {
	switch {
	case cost < MinBcrypt || cost > MaxBcrypt:
		return secret.Plain{}, fmt.Errorf("hash a password: cost %d is not between %d and %d", cost, MinBcrypt, MaxBcrypt)
	case password.Len() == 0:
		return secret.Plain{}, errors.New("hash a password: it is empty")
	case password.Len() > maxBcrypt:
		return secret.Plain{}, fmt.Errorf("hash a password: bcrypt takes at most %d bytes of it, and it is longer", maxBcrypt)
	case bytes.IndexByte(password.Bytes(), 0) >= 0:
		return secret.Plain{}, errors.New("hash a password: it has a zero byte, at which other programs would stop")
	}
	hash, err := bcrypt.GenerateFromPassword(password.Bytes(), cost)
	if err != nil {
		return secret.Plain{}, fmt.Errorf("hash a password: %w", err)
	}
	return secret.NewPlain(hash), nil
}
