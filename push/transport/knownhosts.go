package transport

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// maxKnownHostsBytes bounds one known_hosts file; 100,000 hosts need about a fifth of it.
const maxKnownHostsBytes = 64 << 20

// knownHosts are the user's known_hosts files. The zero value knows nothing.
type knownHosts struct {
	db *knownhosts.HostKeyDB
	// realName gives back the name of a file that was read through a cleaned copy.
	realName map[string]string
}

// loadKnownHosts reads files. As with ssh, a line that cannot be understood (a key type of the future, a stray
// word) does not make the others worthless: such a file is read through a copy without those lines.
func loadKnownHosts(files []string) (knownHosts, error) {
	if len(files) == 0 {
		return knownHosts{}, nil
	}
	if db, err := knownhosts.NewDB(files...); err == nil {
		return knownHosts{db: db}, nil
	}
	dir, err := os.MkdirTemp("", "fleet-known-hosts-")
	if err != nil {
		return knownHosts{}, err
	}
	defer os.RemoveAll(dir)
	k := knownHosts{realName: map[string]string{}}
	var copies []string
	for i, file := range files {
		content, err := readBounded(file, maxKnownHostsBytes)
		if err != nil {
			return knownHosts{}, err
		}
		clean := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(clean, cleanKnownHosts(content), 0o600); err != nil {
			return knownHosts{}, err
		}
		k.realName[clean] = file
		copies = append(copies, clean)
	}
	k.db, err = knownhosts.NewDB(copies...)
	return k, err
}

// cleanKnownHosts empties the lines that are not understood, and keeps the numbers of all lines.
func cleanKnownHosts(content []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(content) {
		line = bytes.TrimRight(line, "\r\n")
		if knownHostsLineIsGood(line) {
			out.Write(line)
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// maxKnownHostsLine is what the readers of known_hosts files take as a line (bufio.MaxScanTokenSize).
const maxKnownHostsLine = 64<<10 - 1

func knownHostsLineIsGood(line []byte) bool {
	if len(line) >= maxKnownHostsLine {
		return false
	}
	fields := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) > 0 && (fields[0] == "@cert-authority" || fields[0] == "@revoked") {
		fields = fields[1:]
	}
	if len(fields) < 3 || fields[0][0] == '#' || fields[0][0] == '@' {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[2])
	if err != nil {
		return false
	}
	key, err := ssh.ParsePublicKey(blob)
	return err == nil && key.Type() == fields[1] && hostPatternIsGood(fields[0])
}

func hostPatternIsGood(pattern string) bool {
	if pattern[0] == '|' {
		parts := strings.Split(pattern, "|")
		if len(parts) != 4 || parts[1] != "1" {
			return false
		}
		_, saltErr := base64.StdEncoding.DecodeString(parts[2])
		_, hashErr := base64.StdEncoding.DecodeString(parts[3])
		return saltErr == nil && hashErr == nil
	}
	for part := range strings.SplitSeq(pattern, ",") {
		part = strings.TrimPrefix(part, "!")
		if strings.HasPrefix(part, "[") {
			if _, _, err := net.SplitHostPort(part); err != nil {
				return false
			}
		}
		if part == "" {
			return false
		}
	}
	return true
}

// verdict is what known_hosts files say of a key.
type verdict struct {
	// provenance is set where the key is trusted.
	provenance Provenance
	kind       HostKeyKind
	want       []xknownhosts.KnownKey
	reason     string
}

// check looks name up, which is host:port. As ssh does, a key that is known for the host's default
// port is trusted on another port that has no entry of its own, and a certificate that does not help
// is judged as the plain key in it.
func (k knownHosts) check(name string, remote net.Addr, key ssh.PublicKey) verdict {
	v := k.checkOne(name, remote, key)
	host, port, err := net.SplitHostPort(name)
	if err == nil && v.kind == HostKeyUnknown && port != fmt.Sprint(defaultPort) {
		if plain := k.checkOne(joinHostPort(host, defaultPort), remote, key); plain.provenance != "" || plain.kind == HostKeyRevoked {
			return plain
		}
	}
	return v
}

func (k knownHosts) checkOne(name string, remote net.Addr, key ssh.PublicKey) verdict {
	if k.db == nil {
		return verdict{kind: HostKeyUnknown}
	}
	cert, isCert := key.(*ssh.Certificate)
	err := k.db.HostKeyCallback()(name, remote, key)
	var mismatch *xknownhosts.KeyError
	var revoked *xknownhosts.RevokedError
	switch {
	case err == nil && isCert:
		return verdict{provenance: ProvenanceCA}
	case err == nil:
		// A bare key that equals that of an authority is not the host's own.
		if k.isAuthorityOnly(name, key) {
			return verdict{kind: HostKeyUnknown, reason: "the key is known only as an authority for certificates"}
		}
		return verdict{provenance: ProvenanceKnownHosts}
	case errors.As(err, &revoked):
		return verdict{kind: HostKeyRevoked, want: k.rename(revoked.Revoked)}
	case errors.As(err, &mismatch):
		// An authority says nothing about a key that it did not sign.
		want := slices.DeleteFunc(mismatch.Want, func(known xknownhosts.KnownKey) bool { return k.isAuthorityOnly(name, known.Key) })
		if len(want) == 0 {
			return verdict{kind: HostKeyUnknown}
		}
		return verdict{kind: HostKeyChanged, want: k.rename(want...)}
	case isCert:
		return k.checkCertifiedKey(name, remote, cert, err)
	}
	return verdict{kind: HostKeyUnknown, reason: err.Error()}
}

func (k knownHosts) checkCertifiedKey(name string, remote net.Addr, cert *ssh.Certificate, certErr error) verdict {
	// The authority may be revoked; a revoked key in the certificate shows up below.
	if by := k.checkOne(name, remote, cert.SignatureKey); by.kind == HostKeyRevoked {
		return by
	}
	v := k.checkOne(name, remote, cert.Key)
	if v.provenance == "" && v.reason == "" {
		v.reason = "certificate: " + certErr.Error()
	}
	return v
}

// isAuthorityOnly reports whether key is listed for name with @cert-authority and not without.
func (k knownHosts) isAuthorityOnly(name string, key ssh.PublicKey) bool {
	listed := false
	for _, known := range k.db.HostKeys(name) {
		if bytes.Equal(known.Marshal(), key.Marshal()) {
			if !known.Cert {
				return false
			}
			listed = true
		}
	}
	return listed
}

func (k knownHosts) rename(keys ...xknownhosts.KnownKey) []xknownhosts.KnownKey {
	for i := range keys {
		if real, ok := k.realName[keys[i].Filename]; ok {
			keys[i].Filename = real
		}
	}
	return keys
}

// algorithms are the host key algorithms under which the server can show a key that is known for name.
func (k knownHosts) algorithms(name string) []string {
	if k.db == nil {
		return nil
	}
	if found := k.db.HostKeyAlgorithms(name); len(found) > 0 {
		return found
	}
	if host, _, err := net.SplitHostPort(name); err == nil {
		return k.db.HostKeyAlgorithms(joinHostPort(host, defaultPort))
	}
	return nil
}

// revokedKeys are those of RevokedHostKeys. As with ssh, a file that cannot be read or understood means that no key is good.
func (o operator) revokedKeys(s *settings) ([]ssh.PublicKey, error) {
	if s.revokedHostKeys == "" {
		return nil, nil
	}
	path, err := o.expand(s.revokedHostKeys, s)
	if err != nil {
		return nil, err
	}
	content, err := readBounded(path, maxKnownHostsBytes)
	if err != nil {
		return nil, err
	}
	var keys []ssh.PublicKey
	for line := range bytes.Lines(content) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		// A key revocation list in OpenSSH's binary format fails here too.
		key, _, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			return nil, fmt.Errorf("read %q: a line is no public key: %w", path, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		return nil, fmt.Errorf("read %q: more than %d bytes", path, limit)
	}
	return content, err
}
