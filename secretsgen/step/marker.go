package step

import (
	"bytes"

	"fleet/secretsgen/secret"
)

// What `encrypt` and `gh` write begins with a line that says what the rest is. The rest is the value as it is: the folder that it is in is private,
// and what leaves it is sealed.
const (
	markEncrypted = "fleet-encrypted/1\n"
	markPublic    = "fleet-public/1\n"
)

// Kind says what a generator's file was marked as.
type Kind int

// The kinds.
const (
	// Raw has no mark.
	Raw Kind = iota
	// Encrypted is what encrypt and `gh private` write.
	Encrypted
	// Public is what `gh public` writes.
	Public
)

// Mark puts the mark of kind before a value. The value is copied.
func Mark(kind Kind, value secret.Plain) secret.Plain {
	mark := ""
	switch kind {
	case Encrypted:
		mark = markEncrypted
	case Public:
		mark = markPublic
	}
	return secret.NewPlain(append([]byte(mark), value.Bytes()...))
}

// Unmark takes the mark off a file. The value shares its bytes.
func Unmark(file secret.Plain) (Kind, secret.Plain) {
	if value, ok := bytes.CutPrefix(file.Bytes(), []byte(markEncrypted)); ok {
		return Encrypted, secret.NewPlain(value)
	}
	if value, ok := bytes.CutPrefix(file.Bytes(), []byte(markPublic)); ok {
		return Public, secret.NewPlain(value)
	}
	return Raw, file
}
