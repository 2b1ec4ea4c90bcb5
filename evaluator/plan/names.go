package plan

import (
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The rules below return what is wrong with a value, or nothing. Names end up in file names, unit
// names, arguments and terminals, so they allow what is known to be harmless there and nothing else.

const (
	// maxName leaves room for suffixes below the 255 bytes of a file name.
	maxName = 128
	// maxAddress is the longest DNS name (RFC 1035, 2.3.4) and a little for IPv6 zones.
	maxAddress = 300
	maxHostKey = 16 << 10
)

func isAlnum(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// checkChars is the rule that most names share: some ASCII, beginning with a letter, a digit or an underscore.
func checkChars(s, extra string, limit int) string {
	if s == "" {
		return "it is empty"
	}
	if len(s) > limit {
		return "it is longer than " + strconv.Itoa(limit) + " bytes"
	}
	for i, c := range s {
		if isAlnum(c) || c == '_' || i > 0 && strings.ContainsRune(extra, c) {
			continue
		}
		if i == 0 {
			return "it must begin with a letter or a digit"
		}
		return "it may have letters, digits and " + strings.Join(strings.Split("_"+extra, ""), " ") + " only"
	}
	return ""
}

func checkName(s string) string { return checkChars(s, ".-", maxName) }

func checkTag(s string) string { return checkChars(s, ".-/:+=", maxName) }

func checkUser(s string) string { return checkChars(s, ".-@\\+$", maxName) }

// checkSystem accepts the form of Nix's system names; which systems exist is not known here.
func checkSystem(s string) string {
	if fault := checkChars(s, "-", maxName); fault != "" {
		return fault
	}
	if cpu, os, ok := strings.Cut(s, "-"); !ok || cpu == "" || os == "" {
		return `it must be a system, as "x86_64-linux"`
	}
	return ""
}

func checkAddress(s string) string {
	switch {
	case strings.HasPrefix(s, "["):
		return "an IPv6 address is written without brackets here"
	case strings.Contains(s, "@"):
		return "the user goes into deploy.user"
	case strings.HasPrefix(s, ":"):
		if _, err := netip.ParseAddr(s); err != nil {
			return "it is neither a name nor an IP address"
		}
		return ""
	}
	if fault := checkChars(s, ".:%+-", maxAddress); fault != "" {
		return fault
	}
	if strings.Contains(s, ":") {
		if _, err := netip.ParseAddr(s); err != nil {
			return "it is no IP address; a port goes into deploy.port"
		}
	}
	return ""
}

// checkIP accepts an address or a prefix, since people write both.
func checkIP(s string) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return ""
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return ""
	}
	return "it is no IP address"
}

// checkJumpHost accepts [user@]host[:port], where an IPv6 host with a port stands in brackets.
func checkJumpHost(s string) string {
	rest := s
	if user, after, ok := strings.Cut(rest, "@"); ok {
		if fault := checkUser(user); fault != "" {
			return "in its user: " + fault
		}
		rest = after
	}
	host, port, hasPort := rest, "", false
	if strings.HasPrefix(rest, "[") {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return "it has no closing bracket"
		}
		host, rest = rest[1:end], rest[end+1:]
		if rest != "" && !strings.HasPrefix(rest, ":") {
			return "after the bracket only a port may follow"
		}
		port, hasPort = strings.CutPrefix(rest, ":")
	} else if strings.Count(rest, ":") == 1 {
		host, port, hasPort = strings.Cut(rest, ":")
	}
	if hasPort {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "its port must be a number from 1 to 65535"
		}
	}
	if fault := checkAddress(host); fault != "" {
		return "in its host: " + fault
	}
	return ""
}

// checkHostKey accepts "type base64" where the key's own bytes begin with the same type (RFC 4253, 6.6).
func checkHostKey(s string) string {
	if len(s) > maxHostKey {
		return "it is longer than any SSH key"
	}
	fields := strings.Fields(s)
	if len(fields) < 2 || len(fields) > 3 {
		return `it must be a public key, as "ssh-ed25519 AAAA…"`
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return "its second word is not base64"
	}
	if len(blob) < 4 {
		return "its second word is too short for a key"
	}
	n := uint64(binary.BigEndian.Uint32(blob))
	if n > uint64(len(blob)-4) || string(blob[4:4+n]) != fields[0] {
		return "its second word is no key of the type that the first word names"
	}
	return ""
}

// checkHostPort accepts HOST:PORT, where an IPv6 host stands in brackets.
func checkHostPort(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "it must be HOST:PORT"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "its port must be a number from 1 to 65535"
	}
	if fault := checkAddress(host); fault != "" {
		return "in its host: " + fault
	}
	return ""
}

// checkURL accepts what an HTTP client can ask for.
func checkURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "it must be a URL that begins with http:// or https://"
	}
	return ""
}

// checkUnit accepts the names of systemd's units (systemd.unit(5)).
func checkUnit(s string) string {
	if fault := checkChars(s, `.-:@\`, 255); fault != "" {
		return fault
	}
	if i := strings.LastIndexByte(s, '.'); i <= 0 || i == len(s)-1 {
		return `it needs its type, as "sshd.service"`
	}
	return ""
}

// checkUnitPattern accepts a unit's name with "*" and "?" in it.
func checkUnitPattern(s string) string {
	return checkChars(strings.NewReplacer("*", "_", "?", "_").Replace(s), `.-:@\`, 255)
}

// checkAttr accepts any name that Nix could have as an attribute.
func checkAttr(s string) string {
	if s == "" || len(s) > 1024 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "it is no attribute name"
	}
	return ""
}

// storeBase32 is Nix's alphabet (libutil/hash.cc): digits and letters without e, o, t, u.
const storeBase32 = "0123456789abcdfghijklmnpqrsvwxyz"

// checkStorePath accepts /nix/store/<32 characters>-<name>. Other store folders are not supported: a host's paths are
// fixed at build time, and NixOS hosts use this one.
func checkStorePath(s string) string {
	const shape = "it must be a store path, as /nix/store/<hash>-<name>"
	base, ok := strings.CutPrefix(s, "/nix/store/")
	if !ok || len(base) < 34 || base[32] != '-' || len(base)-33 > 211 {
		return shape
	}
	for _, c := range base[:32] {
		if !strings.ContainsRune(storeBase32, c) {
			return shape
		}
	}
	for i, c := range base[33:] {
		if !isAlnum(c) && !strings.ContainsRune("+-._?=", c) || i == 0 && c == '.' {
			return shape
		}
	}
	return ""
}

func checkDrvPath(s string) string {
	if fault := checkStorePath(s); fault != "" {
		return fault
	}
	if !strings.HasSuffix(s, ".drv") {
		return "it must be a derivation, whose name ends in .drv"
	}
	return ""
}

// quote shows a foreign value: bounded, and free of anything that a terminal acts on.
func quote(s string) string {
	const shown = 120
	if len(s) > shown {
		s = strings.ToValidUTF8(s[:shown], "") + "…"
	}
	return strconv.QuoteToASCII(s)
}
