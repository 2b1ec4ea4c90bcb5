package transport

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
)

// masterGrace is how long ssh may take to say goodbye.
const masterGrace = 2 * time.Second

// command is the ssh process of a master. Options on the command line win over all configuration files.
func (m *master) command(token string) run.Cmd {
	argv := append([]string{"ssh"}, commonArguments(m.dialer.options.ConfigFile, m.given)...)
	argv = append(argv, "-M", "-N", "-v", "-S", m.socket(), "-E", m.logFile())
	options := []string{
		// Options that older releases do not know come after this one.
		"IgnoreUnknown=ForkAfterAuthentication,KnownHostsCommand,SessionType,StdinNull",
		"ControlMaster=yes", "ControlPersist=no",
		"PermitLocalCommand=yes", "LocalCommand=echo " + token,
		"RemoteCommand=none", "RequestTTY=no", "ForkAfterAuthentication=no",
		"ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "Tunnel=no", "GSSAPIDelegateCredentials=no",
		"ConnectionAttempts=1", "ConnectTimeout=" + seconds(m.timeouts.Connect),
		"ServerAliveInterval=" + seconds(m.timeouts.Keepalive), fmt.Sprintf("ServerAliveCountMax=%d", m.timeouts.KeepaliveCount),
		"UpdateHostKeys=no", "NoHostAuthenticationForLocalhost=no",
	}
	if m.dialer.options.Prompt == nil {
		options = append(options, "BatchMode=yes")
	} else {
		options = append(options, "BatchMode=no", "NumberOfPasswordPrompts=3")
	}
	options = append(options, m.hostKeyOptions()...)
	options = append(options, m.proxyOptions()...)
	for _, option := range options {
		argv = append(argv, "-o", option)
	}
	return run.Cmd{
		Argv: append(argv, "--", m.given.host),
		// The texts of system errors end up in the log, which is read.
		Env:   []string{"LC_ALL=C"},
		Grace: masterGrace,
		// Without a terminal nothing can be asked behind our back.
		NewSession: true,
	}
}

func seconds(d time.Duration) string {
	return fmt.Sprint(int64((d + time.Second - 1) / time.Second))
}

func (m *master) hostKeyOptions() []string {
	switch {
	case len(m.pins) > 0:
		return []string{
			"StrictHostKeyChecking=yes", "UserKnownHostsFile=" + optionPath(m.knownFile()), "GlobalKnownHostsFile=" + os.DevNull,
			"KnownHostsCommand=none", "VerifyHostKeyDNS=no",
		}
	case m.acceptNew:
		// The first file gets the new key; the others can still contradict it.
		paths := []string{optionPath(m.knownFile())}
		for _, path := range splitPaths(m.userKnownHosts, fileExists) {
			if path, err := m.dialer.resolver.operator.expand(path, m.settings); err == nil {
				paths = append(paths, optionPath(path))
			}
		}
		return []string{"StrictHostKeyChecking=accept-new", "HashKnownHosts=no", "UserKnownHostsFile=" + strings.Join(paths, " ")}
	}
	return []string{"StrictHostKeyChecking=yes"}
}

// optionPath quotes a path for an option of ssh, which expands % tokens in it.
func optionPath(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

func (m *master) proxyOptions() []string {
	switch {
	case m.via != "":
		argv := []string{"ssh"}
		if file := m.dialer.options.ConfigFile; file != "" {
			argv = append(argv, "-F", file)
		}
		// Where the master is gone, ssh would connect by itself: the last option keeps it from that.
		argv = append(argv, "-S", m.via, "-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "ProxyCommand=false")
		command := strings.ReplaceAll(Quote(argv...), "%", "%%") + " -W '[%h]:%p' fleet-jump"
		return []string{"ProxyCommand=" + command}
	case m.noProxy:
		return []string{"ProxyJump=none", "ProxyCommand=none"}
	}
	return nil
}

// prepareKnownHosts writes the pins to a file for ssh, and reads what the user's own files say.
func (m *master) prepareKnownHosts() (knownHosts, error) {
	files, err := m.dialer.resolver.operator.knownHostsFiles(m.settings)
	if err != nil {
		return knownHosts{}, err
	}
	known, err := loadKnownHosts(files)
	if err != nil || len(m.pins) == 0 {
		return known, err
	}
	var out bytes.Buffer
	for _, pin := range m.pins {
		fmt.Fprintf(&out, "* %s\n", keyText(pin))
	}
	// Not even a pin makes up for a revoked key.
	for _, file := range files {
		content, err := readBounded(file, maxKnownHostsBytes)
		if err != nil {
			return known, err
		}
		for line := range bytes.Lines(content) {
			if bytes.HasPrefix(bytes.TrimSpace(line), []byte("@revoked")) {
				fmt.Fprintf(&out, "%s\n", bytes.TrimSpace(line))
			}
		}
	}
	return known, os.WriteFile(m.knownFile(), out.Bytes(), 0o600)
}

// identify says which key the server showed, as far as something of ours vouches for it: ssh's log alone is no
// proof, because jump hosts and ProxyCommands can write to it.
func (m *master) identify(conn *sshConn, known knownHosts) error {
	presented := readLog(m.logFile()).presentedKey()
	switch {
	case len(m.pins) > 0:
		conn.provenance = ProvenancePinned
		for _, pin := range m.pins {
			if len(m.pins) == 1 || strings.HasSuffix(fingerprint(pin), presented) && presented != "" {
				conn.hostKey = keyText(pin)
			}
		}
		return nil
	case m.acceptNew:
		if key := m.acceptedKey(); key != nil {
			conn.hostKey, conn.provenance = keyText(key), ProvenanceAccepted
			return m.record(conn)
		}
	}
	conn.provenance = ProvenanceKnownHosts
	if known.db == nil {
		return nil
	}
	for _, key := range known.db.HostKeys(m.keyName()) {
		if key.Cert {
			conn.provenance = ProvenanceCA
		} else if ssh.FingerprintSHA256(key) == presented {
			conn.hostKey, conn.provenance = keyText(key.PublicKey), ProvenanceKnownHosts
			return nil
		}
	}
	return nil
}

// acceptedKey is the key that ssh wrote into our file, nil where it knew the host already.
func (m *master) acceptedKey() ssh.PublicKey {
	content, err := readBounded(m.knownFile(), maxKeyFileBytes)
	if err != nil {
		return nil
	}
	_, _, key, _, _, err := ssh.ParseKnownHosts(content)
	if err != nil {
		return nil
	}
	return key
}

func (m *master) record(conn *sshConn) error {
	if m.dialer.options.RecordHostKey == nil {
		return nil
	}
	if err := m.dialer.options.RecordHostKey(m.host, m.address(), conn.hostKey, ProvenanceAccepted); err != nil {
		return &ConfigError{Host: m.host, Address: m.address(), Err: fmt.Errorf("record the new host key: %w", err)}
	}
	return nil
}
