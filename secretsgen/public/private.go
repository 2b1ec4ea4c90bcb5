package public

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// marker is a text that only private keys have.
type marker struct{ text, name string }

// PrivateMarker says which kind of private key a text holds, as words such as "a private key in PEM"; empty where none is recognised. It
// looks for what has a mark of its own. A random password has none, nor has a private key of WireGuard, which looks like the public one.
func PrivateMarker(data []byte) string {
	for _, m := range [...]marker{
		{"PRIVATE KEY-----", "a private key in PEM"},
		{"AGE-SECRET-KEY-", "an identity of age"},
		{"AGE-PLUGIN-", "an identity of an age plugin"},
		// The beginning of "openssh-key-v1" in base64, for keys that lost their first line.
		{"b3BlbnNzaC1rZXktdjE", "a private key of OpenSSH"},
		{"PuTTY-User-Key-File-", "a private key of PuTTY"},
	} {
		if bytes.Contains(data, []byte(m.text)) {
			return m.name
		}
	}
	if hasNixSecretKey(data) {
		return "a secret key of Nix"
	}
	return ""
}

// nixSecretKey is the length of 64 bytes in base64, as nix key generate-secret writes them after "name:". The public key has 32.
const nixSecretKey = 88

// hasNixSecretKey looks for "name:" and 64 bytes in base64, with nothing of base64 after them.
func hasNixSecretKey(data []byte) bool {
	for from := 0; ; {
		i := bytes.IndexByte(data[from:], ':')
		if i < 0 {
			return false
		}
		colon := from + i
		from = colon + 1
		if colon == 0 || !isNameByte(data[colon-1]) || len(data)-from < nixSecretKey {
			continue
		}
		key := data[from : from+nixSecretKey]
		after := data[from+nixSecretKey:]
		if bytes.ContainsAny(key, "\r\n") || len(after) > 0 && isBase64Byte(after[0]) {
			continue
		}
		if _, err := base64.StdEncoding.Strict().DecodeString(string(key)); err == nil {
			return true
		}
	}
}

func isNameByte(c byte) bool { return isAlphanumeric(c) || c == '.' || c == '-' || c == '_' }

func isBase64Byte(c byte) bool { return isAlphanumeric(c) || c == '+' || c == '/' || c == '=' }

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// WholePrivateKey is [PrivateMarker] for texts that may speak of keys without holding one, as programs do: it finds keys that are there as a whole
// and could be used as they are. Those that are protected by a passphrase are left out. Texts inside of JSON and of units, where a line's end is \n,
// are understood.
func WholePrivateKey(data []byte) string {
	switch {
	case hasWholePEM(data):
		return "a private key in PEM"
	case hasAgeIdentity(data):
		return "an identity of age"
	}
	return ""
}

const (
	pemBegin   = "-----BEGIN "
	pemPrivate = "PRIVATE KEY-----"
	pemEnd     = "-----END "
	// maxPEM bounds a key in PEM, and maxPEMType its type, in bytes.
	maxPEM     = 64 << 10
	maxPEMType = 32
	// smallestKey is less than any encoded private key has, in bytes.
	smallestKey = 32
)

// hasWholePEM looks for a block with a key that can be decoded.
func hasWholePEM(data []byte) bool {
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(pemPrivate))
		if i < 0 {
			return false
		}
		mark := from + i
		from = mark + len(pemPrivate)
		head := data[max(0, mark-maxPEMType):mark]
		begin := bytes.LastIndex(head, []byte(pemBegin))
		end := bytes.Index(data[from:min(len(data), from+maxPEM)], []byte(pemEnd))
		if begin < 0 || end < 0 || bytes.Contains(head[begin:], []byte("ENCRYPTED")) {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(withoutSpace(data[from : from+end]))
		if err == nil && len(key) >= smallestKey && !hasPassphrase(key) {
			return true
		}
	}
}

// withoutSpace drops space and the escapes that stand for it.
func withoutSpace(text []byte) string {
	return strings.NewReplacer(`\n`, "", `\r`, "", `\t`, "", `\`, "", "\n", "", "\r", "", "\t", "", " ", "").Replace(string(text))
}

// hasPassphrase says whether a decoded key is one of OpenSSH's that needs a passphrase: its cipher's name comes first (PROTOCOL.key).
func hasPassphrase(key []byte) bool {
	rest, ok := bytes.CutPrefix(key, []byte("openssh-key-v1\x00"))
	return ok && !bytes.HasPrefix(rest, []byte("\x00\x00\x00\x04none"))
}

// hasAgeIdentity looks for an identity with all its digits.
func hasAgeIdentity(data []byte) bool {
	const prefix, digits = "AGE-SECRET-KEY-", 58
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(prefix))
		if i < 0 {
			return false
		}
		from += i + len(prefix)
		rest, ok := bytes.CutPrefix(bytes.TrimPrefix(data[from:], []byte("PQ-")), []byte("1"))
		// The digits of Bech32 (BIP 173).
		isDigit := func(r rune) bool { return strings.ContainsRune("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", r) }
		if ok && len(rest) >= digits && bytes.IndexFunc(rest[:digits], func(r rune) bool { return !isDigit(r) }) < 0 {
			return true
		}
	}
}
