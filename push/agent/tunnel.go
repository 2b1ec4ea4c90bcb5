package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"
)

const (
	// handshakeTime is how long a peer has to prove its key.
	handshakeTime = 10 * time.Second
	// dialTime is how long one address of a relay is tried.
	dialTime = 3 * time.Second
	// dialAllTime is how long all of them are.
	dialAllTime = 15 * time.Second
	// trickle is how many bytes have to come within tricklePatience, waited for and not counting what the host needs for its own work.
	trickle         = 64 << 10
	tricklePatience = 30 * time.Second
	// takeSlack is what a whole take has beside the time that its paths need.
	takeSlack = 2 * time.Minute
	// takePatience is how long a peer may take nothing of what it is sent, while its disk is busy.
	takePatience = 5 * time.Minute
)

// tunnelKey is a key for one push, and its hash: all that the other side has to know of it. TLS wants it in a certificate, which says nothing else.
type tunnelKey struct {
	cert tls.Certificate
	hash string
}

func newTunnelKey() (tunnelKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tunnelKey{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, public, private)
	if err != nil {
		return tunnelKey{}, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return tunnelKey{}, err
	}
	return tunnelKey{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, hash: keyHash(parsed)}, nil
}

// keyHash is the SHA-256 of a certificate's key, in hexadecimal digits.
func keyHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func isKeyHash(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == sha256.Size && hex.EncodeToString(raw) == text
}

var errOtherKey = errors.New("the peer has another key than the one that was agreed on")

// config is what both sides speak: TLS 1.3 with our key, and a peer whose key known accepts. No name and no authority is asked for.
func (k tunnelKey) config(known func(hash string) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{k.cert}, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || !known(keyHash(state.PeerCertificates[0])) {
				return errOtherKey
			}
			return nil
		},
	}
}

// steady reads from a connection, and fails where a peer lets us wait for next to nothing: it could hold us for ever with one byte now and then.
type steady struct {
	conn net.Conn
	// left is how long may still be waited for the bytes that came is short of trickle of.
	left time.Duration
	came int
}

func newSteady(conn net.Conn) *steady { return &steady{conn: conn, left: tricklePatience} }

func (s *steady) Read(p []byte) (int, error) {
	began := time.Now()
	if err := s.conn.SetReadDeadline(began.Add(s.left)); err != nil {
		return 0, err
	}
	n, err := s.conn.Read(p)
	s.left -= time.Since(began)
	if s.came += n; s.came >= trickle {
		s.came, s.left = 0, tricklePatience
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() {
		err = fmt.Errorf("less than %d KiB came within %s", trickle>>10, tricklePatience)
	}
	return n, err
}

// patient writes to a connection, and fails where a peer takes nothing for too long.
type patient struct{ conn net.Conn }

func (p patient) Write(b []byte) (int, error) {
	if err := p.conn.SetWriteDeadline(time.Now().Add(takePatience)); err != nil {
		return 0, err
	}
	return p.conn.Write(b)
}

var errTooMuch = errors.New("more came than the paths take")

// bounded reads at most so many bytes; what follows is an error.
type bounded struct {
	r    io.Reader
	left uint64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errTooMuch
	}
	n, err := b.r.Read(p[:min(uint64(len(p)), b.left)])
	b.left -= uint64(n)
	return n, err
}
