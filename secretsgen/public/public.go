// Package public says what a public part of a secret may be. Evaluation pastes public parts into configurations of other hosts, so each has
// a type, and is held against it before it enters git and again by every check. The package does no input or output, and its errors never
// show a value: what should have been public may be what should not.
package public

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"fleet/evaluator/plan"
	"fleet/secretsgen/secret"
)

// Validate says what is wrong with the value of a public part. typ is one of [plan.PartTypes]; empty means [plan.TypeText]. pattern is for
// [plan.TypeRegex]. A last newline belongs to no type's text. Private keys are refused whatever the type is.
func Validate(typ, pattern string, value []byte) error {
	switch marker := PrivateMarker(value); {
	case marker != "":
		return fmt.Errorf("it holds %s, which must be an encrypted part", marker)
	case len(value) > secret.MaxPublic:
		return fmt.Errorf("it has %d bytes, and a public part has at most %d", len(value), secret.MaxPublic)
	}
	switch typ {
	case plan.TypeText, "":
		return validateText(value)
	case plan.TypeX509:
		_, err := Certificates(value)
		return err
	case plan.TypeSSHKey:
		return validateSSHKey(value)
	case plan.TypeWireGuardKey:
		return validateWireGuardKey(value)
	case plan.TypeRegex:
		return validateRegex(pattern, value)
	case plan.TypeBinary:
		return nil
	}
	return fmt.Errorf("its type %q is none of %s", typ, strings.Join(plan.PartTypes(), ", "))
}

// Certificates parses a part of type x509: one or more certificates in PEM, and nothing else.
func Certificates(value []byte) ([]*x509.Certificate, error) {
	blocks, ok := pemBlocks(value)
	if !ok {
		return nil, errors.New("it is not a certificate in PEM, or something stands beside it")
	}
	var certificates []*x509.Certificate
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a PEM block of type %.40q, and must have certificates alone", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("its certificate cannot be parsed: %w", err)
		}
		certificates = append(certificates, certificate)
	}
	return certificates, nil
}

// pemBlocks parses PEM with nothing but space around its blocks; false where it is anything else, and where there is no block.
func pemBlocks(value []byte) ([]*pem.Block, bool) {
	var blocks []*pem.Block
	for rest := bytes.TrimSpace(value); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		// Decode skips whatever comes before the first block that it can read, so the lines of a block are counted by their ends.
		end := bytes.Index(rest, []byte("\n-----END "))
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) || end < 0 {
			return nil, false
		}
		block, after := pem.Decode(rest)
		if block == nil || len(rest)-len(after) < end || bytes.Count(rest[:len(rest)-len(after)], []byte("-----BEGIN ")) != 1 {
			return nil, false
		}
		blocks, rest = append(blocks, block), after
	}
	return blocks, len(blocks) > 0
}

func validateText(value []byte) error {
	if _, ok := pemBlocks(value); ok {
		return nil
	}
	line := trimNewline(value)
	switch {
	case len(line) == 0:
		return errors.New("it is empty")
	case bytes.ContainsAny(line, "\r\n"):
		return errors.New("it has several lines, and must be one line or PEM")
	}
	return checkPrintable(line)
}

func checkPrintable(line []byte) error {
	if !utf8.Valid(line) {
		return errors.New("it is not valid UTF-8")
	}
	if bytes.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("it has characters that cannot be printed")
	}
	return nil
}

func validateSSHKey(value []byte) error {
	line := trimNewline(value)
	if bytes.ContainsAny(line, "\r\n") {
		return errors.New("it has several lines, and must be one public key of SSH")
	}
	key, comment, options, _, err := ssh.ParseAuthorizedKey(line)
	switch {
	case err != nil:
		return errors.New(`it is no public key of SSH, "type base64 [comment]"`)
	case len(options) > 0:
		return errors.New("it has options before the key of SSH")
	case !bytes.HasPrefix(line, []byte(key.Type()+" ")):
		return errors.New("it names another type than its key has")
	}
	return checkPrintable([]byte(comment))
}

// wireGuardKeySize is the size of a key of WireGuard, in bytes.
const wireGuardKeySize = 32

func validateWireGuardKey(value []byte) error {
	key, err := base64.StdEncoding.Strict().DecodeString(string(trimNewline(value)))
	if err != nil || len(key) != wireGuardKeySize || bytes.ContainsAny(trimNewline(value), "\r\n") {
		return errors.New("it is no key of WireGuard, 32 bytes in base64")
	}
	if bytes.Equal(key, make([]byte, wireGuardKeySize)) {
		return errors.New("it is a key of WireGuard that is all zeros")
	}
	return nil
}

func validateRegex(pattern string, value []byte) error {
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	switch {
	case err != nil:
		return fmt.Errorf("its pattern is no regular expression: %w", err)
	case !utf8.Valid(value) || bytes.IndexByte(value, 0) >= 0:
		return errors.New("it is no text")
	case !whole.Match(trimNewline(value)):
		return fmt.Errorf("it does not match %.200q", pattern)
	}
	return nil
}

// trimNewline takes one newline from the end, as shells put it there.
func trimNewline(value []byte) []byte { return bytes.TrimSuffix(value, []byte("\n")) }
