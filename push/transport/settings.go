package transport

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// settings is what the user's ssh would use for one host, as `ssh -G` prints it. Paths still hold
// tokens and a tilde; see expander.
type settings struct {
	// given is what ssh was asked about; its host is %n in ssh_config(5).
	given endpoint
	// name and pins are those of a [Target] that the way leads through, and empty for other jump hosts. noProxy says that the user's
	// configuration must not add hops of its own.
	name    string
	pins    []ssh.PublicKey
	noProxy bool

	hostname string
	user     string
	port     int
	// alias is HostKeyAlias: the name under which host keys are looked up, without a port.
	alias            string
	proxyJump        []string
	proxyCommand     string
	identityFiles    []string
	certificateFiles []string
	identitiesOnly   bool
	identityAgent    string
	pubkeyAuth       bool
	// userKnownHosts and globalKnownHosts are lists of paths in one line; see splitPaths.
	userKnownHosts    string
	globalKnownHosts  string
	knownHostsCommand string
	revokedHostKeys   string
	// network is "tcp", "tcp4" or "tcp6".
	network     string
	bindAddress string
	// Zero where the user did not set them.
	connectTimeout, aliveInterval time.Duration
	aliveCount                    int
	algorithms                    algorithms
}

// algorithms are lists as the user's ssh would offer them; in a route, nil where the user changed nothing.
type algorithms struct {
	ciphers, macs, kex, hostKeys []string
}

// maxSettingsBytes bounds what is read from `ssh -G`, which prints about 4 KiB.
const maxSettingsBytes = 1 << 20

// parseSettings reads the output of `ssh -G`: a keyword in lower case, a space, the value; some
// keywords come several times. Keywords that it does not know are left alone, as there are more with every release.
func parseSettings(out []byte) (settings, error) {
	if len(out) > maxSettingsBytes {
		return settings{}, fmt.Errorf("read ssh settings: more than %d bytes", maxSettingsBytes)
	}
	s := settings{network: "tcp", pubkeyAuth: true}
	for line := range bytes.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		if err := s.set(key, strings.TrimSpace(value)); err != nil {
			return settings{}, fmt.Errorf("read ssh setting %q: %w", cleanText(key, maxErrorText), err)
		}
	}
	if s.hostname == "" || s.port == 0 {
		return settings{}, errors.New("read ssh settings: hostname or port is missing")
	}
	return s, nil
}

func (s *settings) set(key, value string) error {
	switch key {
	case "hostname":
		s.hostname = value
	case "user":
		s.user = value
	case "port":
		return setPort(&s.port, value)
	case "hostkeyalias":
		s.alias = value
	case "proxyjump":
		s.proxyJump = commaList(value)
	case "proxycommand":
		if value != "none" {
			s.proxyCommand = value
		}
	case "bindaddress":
		s.bindAddress = value
	case "addressfamily":
		s.network = map[string]string{"inet": "tcp4", "inet6": "tcp6"}[value]
		if s.network == "" {
			s.network = "tcp"
		}
	case "connecttimeout":
		return setSeconds(&s.connectTimeout, value)
	case "serveraliveinterval":
		return setSeconds(&s.aliveInterval, value)
	case "serveralivecountmax":
		var err error
		s.aliveCount, err = parseSmall(value, 1000)
		return err
	default:
		s.setKeys(key, value)
	}
	return nil
}

// setKeys is the part of set about keys and algorithms, none of which can be malformed.
func (s *settings) setKeys(key, value string) {
	switch key {
	case "identityfile":
		if value != "none" && value != "" {
			s.identityFiles = append(s.identityFiles, unquote(value))
		}
	case "certificatefile":
		if value != "none" && value != "" {
			s.certificateFiles = append(s.certificateFiles, unquote(value))
		}
	case "identitiesonly":
		s.identitiesOnly = value == "yes" || value == "true"
	case "identityagent":
		s.identityAgent = unquote(value)
	case "pubkeyauthentication":
		// Newer releases print "true", "unbound" or "host-bound".
		s.pubkeyAuth = value != "no" && value != "false"
	case "userknownhostsfile":
		s.userKnownHosts = value
	case "globalknownhostsfile":
		s.globalKnownHosts = value
	case "knownhostscommand":
		if value != "none" {
			s.knownHostsCommand = value
		}
	case "revokedhostkeys":
		if value != "none" {
			s.revokedHostKeys = unquote(value)
		}
	case "ciphers":
		s.algorithms.ciphers = strings.Split(value, ",")
	case "macs":
		s.algorithms.macs = strings.Split(value, ",")
	case "kexalgorithms":
		s.algorithms.kex = strings.Split(value, ",")
	case "hostkeyalgorithms":
		s.algorithms.hostKeys = strings.Split(value, ",")
	}
}

// keyName is the name that host keys are looked up under, as "host:port".
func (s *settings) keyName() string {
	if s.alias != "" {
		return joinHostPort(s.alias, defaultPort) // ssh_config(5): an alias is looked up without a port
	}
	return joinHostPort(s.hostname, s.port)
}

func (s *settings) address() string { return joinHostPort(s.hostname, s.port) }

// defaultPort is that of RFC 4253, section 4.1.
const defaultPort = 22

func setPort(port *int, value string) error {
	p, err := parsePort(value)
	*port = p
	return err
}

func parsePort(value string) (int, error) {
	p, err := strconv.ParseUint(value, 10, 16)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%q is no port", cleanText(value, 64))
	}
	return int(p), nil
}

// setSeconds accepts what ssh -G prints for times: seconds, or "none".
func setSeconds(d *time.Duration, value string) error {
	if value == "none" || value == "" {
		return nil
	}
	seconds, err := parseSmall(value, 24*60*60)
	*d = time.Duration(seconds) * time.Second
	return err
}

func parseSmall(value string, limit int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no count", cleanText(value, 64))
	}
	return min(n, limit), nil
}

func commaList(value string) []string {
	if value == "none" || value == "" {
		return nil
	}
	var out []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}
