package transport

import (
	"context"
	"time"

	"fleet/closure/run"
)

// Timeouts bound every wait of a transport. Zero fields take the defaults.
type Timeouts struct {
	// Connect bounds reaching a server, and then once more the handshake with it and the login; default 15 s. The
	// time in which a person is asked for a passphrase does not count. The user's ConnectTimeout wins over it.
	Connect time.Duration
	// Channel bounds the opening of a channel; default 45 s: a host whose login manager or message bus is dead takes 25 s for
	// the first one, says nothing meanwhile, and is one that has to be reached.
	Channel time.Duration
	// Keepalive is the silence after which the server is asked for a sign of life; default 5 s.
	// The user's ServerAliveInterval wins over it where it is not 0.
	Keepalive time.Duration
	// KeepaliveCount is how many such requests stay unanswered before the connection is given up; default 3.
	KeepaliveCount int
}

func (t Timeouts) withDefaults() Timeouts {
	if t.Connect <= 0 {
		t.Connect = 15 * time.Second
	}
	if t.Channel <= 0 {
		t.Channel = 45 * time.Second
	}
	if t.Keepalive <= 0 {
		t.Keepalive = 5 * time.Second
	}
	if t.KeepaliveCount <= 0 {
		t.KeepaliveCount = 3
	}
	return t
}

// forHost lets the user's ssh configuration win.
func (t Timeouts) forHost(s *settings) Timeouts {
	if s.connectTimeout > 0 {
		t.Connect = s.connectTimeout
	}
	if s.aliveInterval > 0 {
		t.Keepalive = s.aliveInterval
		if s.aliveCount > 0 {
			t.KeepaliveCount = s.aliveCount
		}
	}
	return t
}

// Options configure [NewNative] and [NewOpenSSH]. All zero values are usable.
type Options struct {
	// Runner starts all processes: ssh, ProxyCommands, getent; nil means closure/run.
	Runner run.Runner
	// ConfigFile is an ssh_config file to use in place of the user's and the system's, as `ssh -F` does.
	ConfigFile string
	// Prompt asks a person for a secret: the passphrase of a key, which the question names; with openssh also what
	// else ssh asks for, as a PIN or a password. Only one question is open at a time, and the passphrase of a file is asked
	// for once. It must return when ctx ends. Nil means that nobody can be asked: encrypted keys are then used through an agent only.
	Prompt func(ctx context.Context, prompt string) ([]byte, error)
	// RecordHostKey keeps a key that was accepted because of [Target.AcceptNewHostKey]; address is
	// host:port. Where it fails, the connection is closed. It is called from several goroutines.
	RecordHostKey func(host, address, key string, provenance Provenance) error
	// Banner receives what a server says before the login, and with openssh what ssh wants a person to do (touch a
	// token): at most 4 KiB, free of escape codes. May be nil. The openssh transport passes on the second only.
	Banner func(host, text string)
	// Timeouts bound every wait.
	Timeouts Timeouts
}

// NativeOptions configure [NewNative], OpenSSHOptions configure [NewOpenSSH].
type (
	NativeOptions  = Options
	OpenSSHOptions = Options
)

func (o Options) withDefaults() Options {
	if o.Runner == nil {
		o.Runner = run.RunnerFunc(run.Run)
	}
	o.Timeouts = o.Timeouts.withDefaults()
	return o
}

func (o Options) resolver() *resolver {
	return &resolver{runner: o.Runner, configFile: o.ConfigFile, operator: currentOperator()}
}
