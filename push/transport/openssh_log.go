package transport

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"fleet/closure/run"
)

// sshLog is what ssh -v wrote, as lines free of escapes. Servers have a say in parts of it, so it decides on
// the wording of an error only, never on trust.
type sshLog []string

// maxLogBytes bounds what is read of a log: the beginning and the end.
const maxLogBytes = 1 << 20

func readLog(path string) sshLog {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	var content bytes.Buffer
	_, _ = io.CopyN(&content, file, maxLogBytes)
	if info, err := file.Stat(); err == nil && info.Size() > 2*maxLogBytes {
		_, _ = file.Seek(-maxLogBytes, io.SeekEnd)
	}
	_, _ = io.CopyN(&content, file, maxLogBytes)
	return parseLog(content.String())
}

func parseLog(text string) sshLog {
	var log sshLog
	for line := range strings.Lines(text) {
		if line = cleanText(line, maxErrorText); line != "" {
			log = append(log, line)
		}
	}
	return log
}

// last returns the last line that begins with prefix.
func (l sshLog) last(prefix string) string {
	for _, line := range slices.Backward(l) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

func (l sshLog) lastOf(prefixes ...string) string {
	for _, line := range slices.Backward(l) {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				return line
			}
		}
	}
	return ""
}

// containing returns the last line that is no debug output and holds text.
func (l sshLog) containing(text string) string {
	for _, line := range slices.Backward(l) {
		if strings.Contains(line, text) && !strings.HasPrefix(line, "debug") {
			return line
		}
	}
	return ""
}

// presentedKey is the fingerprint of the server's key; the first line counts, as nothing that the server says comes before.
func (l sshLog) presentedKey() string {
	for _, line := range l {
		if rest, ok := strings.CutPrefix(line, "debug1: Server host key: "); ok {
			// A certificate has more behind its fingerprint.
			if fields := strings.Fields(rest); len(fields) >= 2 {
				return fields[1]
			}
		}
	}
	return ""
}

func (l sshLog) presentedType() string {
	if rest, ok := strings.CutPrefix(l.last("debug1: Server host key: "), "debug1: Server host key: "); ok {
		kind, _, _ := strings.Cut(rest, " ")
		return strings.TrimPrefix(kind, "ssh-")
	}
	return "?"
}

// failure turns the end of a process that did not log in into the same errors that the native transport has.
func (m *master) failure(known knownHosts) error {
	var missing *run.NotFoundError
	if errors.As(m.err, &missing) {
		return &ConfigError{Host: m.host, Address: m.address(), Err: missing, Remedy: missing.Hint()}
	}
	log := readLog(m.logFile())
	if line := log.containing("Host key verification failed"); line != "" {
		return m.hostKeyFailure(log, known)
	}
	if line := log.containing("Permission denied ("); line != "" {
		return m.authFailure(log, line)
	}
	if line := log.containing("Too many authentication failures"); line != "" {
		return m.authFailure(log, line)
	}
	kind, line := m.unreachableKind(log)
	return &UnreachableError{Host: m.host, Address: m.address(), Kind: kind, Err: m.processError(line)}
}

func (m *master) processError(line string) error {
	if line != "" {
		return errors.New(line)
	}
	if m.err != nil {
		return m.err
	}
	return errors.New("ssh ended before it had logged in")
}

func (m *master) unreachableKind(log sshLog) (UnreachableKind, string) {
	for _, known := range []struct {
		text string
		kind UnreachableKind
	}{
		{"Could not resolve hostname", UnreachableDNS},
		{"Unable to negotiate with", UnreachableProtocol},
		{"Bad remote protocol version", UnreachableProtocol},
		{"Protocol major versions differ", UnreachableProtocol},
		{"timed out", UnreachableTimeout},
		{"No route to host", UnreachableNoRoute},
		{"Network is unreachable", UnreachableNoRoute},
		{"Cannot assign requested address", UnreachableNoRoute},
		{"Connection refused", UnreachableRefused},
		{"stdio forwarding failed", UnreachableProxy},
		{"administratively prohibited", UnreachableProxy},
	} {
		if line := log.containing(known.text); line != "" {
			if m.via != "" || m.proxyCommand != "" {
				// These are the words of what stands in between.
				if known.kind == UnreachableRefused || known.kind == UnreachableDNS || known.kind == UnreachableNoRoute {
					return UnreachableProxy, line
				}
			}
			return known.kind, line
		}
	}
	line := log.lastOf("kex_exchange_identification: ", "Connection closed by", "Connection reset by", "ssh_dispatch_run_fatal: ", "banner exchange: ", "Received disconnect from")
	if m.via != "" || m.proxyCommand != "" {
		return UnreachableProxy, line
	}
	return UnreachableClosed, line
}

// hostKeyFailure reads what ssh says of a key that it refused. What would have been right is taken from the files themselves.
func (m *master) hostKeyFailure(log sshLog, known knownHosts) error {
	e := &HostKeyError{
		Host: m.host, Address: m.address(), Kind: HostKeyUnknown, Pinned: len(m.pins) > 0,
		Presented: log.presentedType() + " " + log.presentedKey(),
	}
	for _, pin := range m.pins {
		e.Expected = append(e.Expected, fingerprint(pin))
	}
	switch {
	case log.containing("REVOKED HOST KEY") != "", log.containing("revoked by file") != "":
		e.Kind = HostKeyRevoked
	case log.containing("REMOTE HOST IDENTIFICATION HAS CHANGED") != "", e.Pinned:
		e.Kind = HostKeyChanged
	}
	if e.Kind == HostKeyChanged && !e.Pinned && known.db != nil {
		for _, key := range known.db.HostKeys(m.keyName()) {
			if !key.Cert {
				e.Expected = append(e.Expected, fingerprint(key.PublicKey))
			}
		}
	}
	if place := log.containing("Offending "); place != "" && !e.Pinned {
		if _, where, ok := strings.Cut(place, " key in "); ok {
			file, line, _ := cutLast(where, ":")
			if n, err := strconv.Atoi(line); err == nil {
				e.File, e.Line = file, n
			}
		}
	}
	e.Reason = log.containing("Certificate invalid: ")
	return e
}

func (m *master) authFailure(log sshLog, line string) error {
	e := &AuthError{Host: m.host, Address: m.address(), User: m.user, Err: errors.New(line)}
	for _, entry := range log {
		if key, ok := strings.CutPrefix(entry, "debug1: Offering public key: "); ok {
			e.Offered = append(e.Offered, key)
		}
		if method, ok := strings.CutPrefix(entry, "debug1: Next authentication method: "); ok && !slices.Contains(e.Methods, method) {
			e.Methods = append(e.Methods, method)
		}
		if strings.Contains(entry, "UNPROTECTED PRIVATE KEY FILE") || strings.HasPrefix(entry, "Load key ") {
			e.Skipped = append(e.Skipped, entry)
		}
	}
	return e
}
