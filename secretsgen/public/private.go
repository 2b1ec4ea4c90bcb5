package public

import (
	"bytes"
	"encoding/base64"
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
