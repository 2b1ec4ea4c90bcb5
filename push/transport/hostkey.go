package transport

import (
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// hostKeyPolicy decides on the key of one server, once.
type hostKeyPolicy struct {
	// host is the fleet's name of the host, address what errors show, name what known_hosts files are asked for.
	host, address, name string
	pins                []ssh.PublicKey
	known               knownHosts
	revoked             []ssh.PublicKey
	acceptNew           bool
	// command says that the user has a KnownHostsCommand, which is not asked here.
	command bool

	// The outcome.
	key        ssh.PublicKey
	provenance Provenance
	err        error
}

// maxPins bounds the keys of one host; no server has more types.
const maxPins = 32

func parsePins(keys []string) ([]ssh.PublicKey, error) {
	if len(keys) > maxPins {
		return nil, fmt.Errorf("%d pinned host keys are more than %d", len(keys), maxPins)
	}
	var pins []ssh.PublicKey
	for _, text := range keys {
		fields := strings.Fields(text)
		if len(fields) < 2 {
			return nil, fmt.Errorf("pinned host key %q is not of the form \"type base64\"", cleanText(text, 256))
		}
		blob, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil {
			return nil, fmt.Errorf("pinned host key %q: %w", cleanText(text, 256), err)
		}
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			return nil, fmt.Errorf("pinned host key %q: %w", cleanText(text, 256), err)
		}
		if _, isCert := key.(*ssh.Certificate); isCert || key.Type() != fields[0] {
			return nil, fmt.Errorf("pinned host key %q is no plain key of type %q", cleanText(text, 256), cleanText(fields[0], 64))
		}
		pins = append(pins, key)
	}
	return pins, nil
}

// check is an [ssh.HostKeyCallback]; the handshake has proved that the server holds the key.
func (p *hostKeyPolicy) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	if _, ok := remote.(*net.TCPAddr); !ok {
		// A ProxyCommand's connection has no address; it is only looked at where there is no name.
		remote = &net.TCPAddr{}
	}
	v := p.known.check(p.name, remote, key)
	switch {
	case p.isRevoked(key):
		return p.refuse(key, verdict{kind: HostKeyRevoked, reason: "it is in the file that RevokedHostKeys names"})
	case v.kind == HostKeyRevoked:
		// Not even a pin makes up for it.
		return p.refuse(key, v)
	case len(p.pins) > 0:
		if slices.ContainsFunc(p.pins, func(pin ssh.PublicKey) bool { return sameKey(pin, key) }) {
			return p.accept(key, ProvenancePinned)
		}
		return p.refuse(key, verdict{kind: HostKeyChanged})
	case v.provenance != "":
		return p.accept(key, v.provenance)
	case v.kind == HostKeyUnknown && p.acceptNew:
		return p.accept(key, ProvenanceAccepted)
	}
	return p.refuse(key, v)
}

// isRevoked looks at the key and, as ssh does, at the authority that signed it.
func (p *hostKeyPolicy) isRevoked(key ssh.PublicKey) bool {
	cert, isCert := key.(*ssh.Certificate)
	return slices.ContainsFunc(p.revoked, func(r ssh.PublicKey) bool {
		return sameKey(r, key) || isCert && sameKey(r, cert.SignatureKey)
	})
}

func (p *hostKeyPolicy) accept(key ssh.PublicKey, provenance Provenance) error {
	p.key, p.provenance = plainKey(key), provenance
	return nil
}

func (p *hostKeyPolicy) refuse(key ssh.PublicKey, v verdict) error {
	e := &HostKeyError{
		Host: p.host, Address: p.address, Kind: v.kind, Reason: v.reason,
		Key: keyText(plainKey(key)), Presented: fingerprint(plainKey(key)), Pinned: len(p.pins) > 0,
	}
	if e.Kind == HostKeyUnknown && e.Reason == "" && p.command {
		e.Reason = "KnownHostsCommand is used with deploy.transport = \"openssh\" only"
	}
	for _, pin := range p.pins {
		e.Expected = append(e.Expected, fingerprint(pin))
	}
	for _, known := range v.want {
		if !e.Pinned && v.kind == HostKeyChanged {
			e.Expected = append(e.Expected, fingerprint(known.Key))
		}
		if e.File == "" {
			e.File, e.Line = known.Filename, known.Line
		}
	}
	p.err = e
	return e
}

// algorithms are what we ask the server to show, best first: those of keys that we could accept, so that
// a server with several keys shows the right one, then all others, so that a wrong key is named and not
// hidden behind a failed negotiation. Certificates are asked for only where an authority is known.
func (p *hostKeyPolicy) algorithms(configured []string) []string {
	supported := ssh.SupportedAlgorithms().HostKeys
	var wanted []string
	if len(p.pins) > 0 {
		for _, pin := range p.pins {
			wanted = append(wanted, keyAlgorithms(pin.Type())...)
		}
	} else {
		wanted = p.known.algorithms(p.name)
	}
	order := ed25519First(supported)
	if configured != nil {
		order = configured
	}
	var out []string
	add := func(list []string, keep func(string) bool) {
		for _, algorithm := range list {
			if slices.Contains(supported, algorithm) && keep(algorithm) && !slices.Contains(out, algorithm) {
				out = append(out, algorithm)
			}
		}
	}
	add(order, func(a string) bool { return slices.Contains(wanted, a) })
	add(wanted, func(string) bool { return len(out) == 0 })
	add(order, func(a string) bool { return !strings.Contains(a, "-cert-") })
	return out
}

// ed25519First is the order of OpenSSH where its user has no other: x/crypto would ask a server that nobody knows for its RSA
// key, and that one would be pinned, which secrets cannot be encrypted to.
func ed25519First(algorithms []string) []string {
	order := slices.Clone(algorithms)
	slices.SortStableFunc(order, func(a, b string) int {
		switch isA, isB := strings.Contains(a, "ed25519"), strings.Contains(b, "ed25519"); {
		case isA && !isB:
			return -1
		case isB && !isA:
			return 1
		}
		return 0
	})
	return order
}

func keyAlgorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA { // RFC 8332: the key type stays, the signatures changed
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// plainKey is the key itself, also where a certificate came with it.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// keyText is a key as "type base64".
func keyText(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// fingerprint names a key as ssh-keygen -l does.
func fingerprint(key ssh.PublicKey) string {
	return strings.TrimPrefix(key.Type(), "ssh-") + " " + ssh.FingerprintSHA256(key)
}

// sameKey compares with the plain key in a certificate too.
func sameKey(pin, presented ssh.PublicKey) bool {
	return string(pin.Marshal()) == string(plainKey(presented).Marshal())
}

// plainType is the key type under a certificate type.
func plainType(keyType string) string {
	const suffix = "-cert-v01@openssh.com"
	plain, isCert := strings.CutSuffix(keyType, suffix)
	if isCert && strings.HasPrefix(plain, "sk-") {
		return plain + "@openssh.com"
	}
	return plain
}
