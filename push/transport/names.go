package transport

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// endpoint is one machine to log in to, as a user would name it.
type endpoint struct {
	host string
	user string
	port int
}

// parseJump reads [user@]host[:port], the form of ProxyJump; an IPv6 address with a port stands in brackets.
func parseJump(s string) (endpoint, error) {
	var e endpoint
	rest := strings.TrimPrefix(s, "ssh://")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		e.user, rest = rest[:i], rest[i+1:]
		if e.user == "" {
			return e, fmt.Errorf("jump host %q: the user before @ is missing", cleanText(s, 256))
		}
	}
	switch {
	case strings.HasPrefix(rest, "["), strings.Count(rest, ":") == 1:
		host, port, err := net.SplitHostPort(rest)
		if err != nil && strings.HasSuffix(rest, "]") {
			e.host = rest[1 : len(rest)-1]
			break
		}
		if err == nil {
			e.port, err = parsePort(port)
		}
		if err != nil {
			return e, fmt.Errorf("jump host %q: %w", cleanText(s, 256), err)
		}
		e.host = host
	default:
		e.host = rest
	}
	return e, e.check()
}

// check refuses what could mean more than a name: names come from the plan and go to ssh's
// command line and, through %h and %r, to the shell that runs a ProxyCommand.
func (e endpoint) check() error {
	if err := checkName("address", e.host); err != nil {
		return err
	}
	if e.user != "" {
		if err := checkName("user", e.user); err != nil {
			return err
		}
	}
	if e.port < 0 || e.port > 65535 {
		return fmt.Errorf("%d is no port", e.port)
	}
	return nil
}

// maxNameBytes is more than a DNS name (253, RFC 1035) or a user name can have.
const maxNameBytes = 255

func checkName(what, name string) error {
	switch {
	case name == "":
		return errors.New("the " + what + " is empty")
	case len(name) > maxNameBytes:
		return fmt.Errorf("the %s is longer than %d bytes", what, maxNameBytes)
	case name[0] == '-':
		return fmt.Errorf("the %s %q begins with a dash", what, cleanText(name, maxNameBytes))
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || strings.ContainsRune("'\"`$\\;&|<>(){}*?!#,/", r) {
			return fmt.Errorf("the %s %q holds the character %q", what, cleanText(name, maxNameBytes), r)
		}
	}
	return nil
}

// joinHostPort brackets IPv6 addresses, scoped ones too.
func joinHostPort(host string, port int) string {
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// unbracket takes the brackets from an IPv6 literal, which people copy from URLs.
func unbracket(host string) string {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		return host[1 : len(host)-1]
	}
	return host
}
