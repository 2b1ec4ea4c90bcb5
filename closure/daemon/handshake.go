package daemon

import (
	"errors"
	"fmt"
	"io"
	"time"

	"fleet/closure/run"
)

const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f
	// handshakeTimeout bounds a handshake, whatever the context says.
	handshakeTimeout = 30 * time.Second
)

// protocolVersion is major<<8 | minor.
type protocolVersion uint64

const (
	minVersion protocolVersion = 1<<8 | 34
	maxVersion protocolVersion = 1<<8 | 38
)

func (v protocolVersion) String() string { return fmt.Sprintf("%d.%d", v>>8, v&0xff) }

// VersionError says that a daemon speaks a version of the protocol that we do not.
type VersionError struct {
	// Daemon is the daemon's version, and Minimum the oldest that is supported, as "1.34".
	Daemon, Minimum string
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the daemon speaks version %s of the worker protocol, at least %s is needed", e.Daemon, e.Minimum)
}

// Hint says how to mend it.
func (e *VersionError) Hint() string { return "update Nix on that machine to 2.8 or newer" }

// trust is the daemon's word on whether we are a trusted user.
type trust uint64

const (
	trustUnknown trust = iota
	trustTrusted
	trustNotTrusted
)

// NixVersion is the daemon's version of Nix, such as "2.26.3".
func (c *Conn) NixVersion() string { return c.nix }

// ProtocolVersion is the version that both sides use, such as "1.34".
func (c *Conn) ProtocolVersion() string { return c.version.String() }

// Trusted says whether the daemon lets us add paths without signatures, and whether it has told: daemons before Nix 2.15 do not.
func (c *Conn) Trusted() (known, trusted bool) {
	return c.trust != trustUnknown, c.trust == trustTrusted
}

func (c *Conn) handshake() error {
	c.enc.Number(clientMagic)
	c.enc.Number(uint64(maxVersion))
	if err := c.enc.Flush(); err != nil {
		return explainEnd(err)
	}
	magic, err := c.dec.number()
	if err != nil {
		return explainEnd(err)
	}
	if magic != serverMagic {
		return fault("what answers is no Nix daemon")
	}
	theirs, err := c.dec.number()
	if err != nil {
		return explainEnd(err)
	}
	if protocolVersion(theirs) < minVersion || theirs>>8 != uint64(maxVersion>>8) {
		return &VersionError{Daemon: protocolVersion(theirs).String(), Minimum: minVersion.String()}
	}
	c.version = min(protocolVersion(theirs), maxVersion)
	return explainEnd(c.finishHandshake())
}

func (c *Conn) finishHandshake() error {
	if c.version >= 1<<8|38 {
		// The features that we want: none.
		c.enc.Number(0)
		if err := c.enc.Flush(); err != nil {
			return err
		}
		if _, err := c.dec.texts(); err != nil {
			return err
		}
	}
	// Two relics: CPU affinity and reserved space.
	c.enc.Number(0)
	c.enc.Number(0)
	if err := c.enc.Flush(); err != nil {
		return err
	}
	nix, err := c.dec.text(256)
	if err != nil {
		return err
	}
	c.nix = run.StripEscapes(nix)
	if c.version >= 1<<8|35 {
		value, err := c.dec.number()
		if err != nil {
			return err
		}
		if c.trust = trust(value); c.trust > trustNotTrusted {
			return fault("unknown trust %d", value)
		}
	}
	return c.dec.messages(c.log)
}

// RefusedError says that a daemon ended the connection before it was set up.
type RefusedError struct{}

func (e *RefusedError) Error() string { return "the daemon closed the connection" }

// Hint says what the usual reason is.
func (e *RefusedError) Hint() string {
	return "check that this user is among allowed-users in that machine's nix.conf, and look into the daemon's log"
}

func explainEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &RefusedError{}
	}
	return err
}
