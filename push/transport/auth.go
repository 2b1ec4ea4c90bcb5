package transport

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	agentTimeout = 5 * time.Second
	// agentSignTimeout is longer, because an agent may ask a person (ssh-add -c) or wait for a touch.
	agentSignTimeout = 60 * time.Second
	// maxAgentKeys bounds what an agent may hold for us; servers stop after six failures by default.
	maxAgentKeys = 256
)

// candidate is one key that can be offered.
type candidate struct {
	signer ssh.Signer
	// name says for a person which key it is.
	name string
}

// authenticator offers keys to one server, in the order in which ssh does.
type authenticator struct {
	candidates []candidate
	next       int
	methods    []string
	offered    []string
	skipped    []string
	// began is set once the server was asked to let us in: the handshake before it was good.
	began bool
	close func()
}

// newAuthenticator collects the keys for s. Nothing is asked of a person yet.
func newAuthenticator(ctx context.Context, o operator, k *keyring, s *settings, human func(func())) *authenticator {
	a := &authenticator{close: func() {}}
	if !s.pubkeyAuth {
		a.skipped = append(a.skipped, "all keys (PubkeyAuthentication is off)")
		return a
	}
	held := a.connectAgent(ctx, o, s, human)
	var files []*keyFile
	for _, pattern := range s.identityFiles {
		path, err := o.expand(pattern, s)
		if err != nil {
			a.skip(pattern, err)
			continue
		}
		if f := k.file(path); f != nil {
			files = append(files, f)
		}
	}
	signers := a.fileCandidates(ctx, k, files, held, human)
	a.addCertificates(o, s, files, append(slices.Clone(signers), held...))
	a.arrange(files, signers, held, s.identitiesOnly)
	return a
}

func (a *authenticator) skip(what string, err error) {
	a.skipped = append(a.skipped, fmt.Sprintf("%s (%s)", cleanText(what, 256), cleanText(err.Error(), 256)))
}

// fileCandidates are the files that we can sign with ourselves; the agent is asked first for the others.
func (a *authenticator) fileCandidates(ctx context.Context, k *keyring, files []*keyFile, held []candidate, human func(func())) []candidate {
	var out []candidate
	for _, f := range files {
		switch {
		case f.problem == nil:
			signer := &keySigner{ctx: ctx, keyring: k, file: f, human: human}
			out = append(out, candidate{signer, f.path + " " + fingerprint(f.public)})
		case f.public == nil || findKey(held, f.public) < 0:
			a.skip(f.path, f.problem)
		}
	}
	return out
}

// arrange puts the candidates in ssh's order: keys that were configured and are in the agent, the agent's others, files.
func (a *authenticator) arrange(files []*keyFile, signers, held []candidate, identitiesOnly bool) {
	var rest []candidate
	for _, c := range held {
		configured := slices.ContainsFunc(files, func(f *keyFile) bool {
			return f.public != nil && sameKey(f.public, c.signer.PublicKey())
		})
		if configured {
			a.candidates = append(a.candidates, c)
		} else if !identitiesOnly {
			rest = append(rest, c)
		}
	}
	a.candidates = append(a.candidates, rest...)
	for _, c := range signers {
		if findKey(held, c.signer.PublicKey()) < 0 {
			a.candidates = append(a.candidates, c)
		}
	}
}

func findKey(in []candidate, key ssh.PublicKey) int {
	return slices.IndexFunc(in, func(c candidate) bool { return string(c.signer.PublicKey().Marshal()) == string(key.Marshal()) })
}

// addCertificates puts certificates first: CertificateFile, and what lies beside the identity files.
func (a *authenticator) addCertificates(o operator, s *settings, files []*keyFile, signers []candidate) {
	type source struct {
		path     string
		explicit bool
	}
	var sources []source
	for _, pattern := range s.certificateFiles {
		path, err := o.expand(pattern, s)
		if err != nil {
			a.skip(pattern, err)
			continue
		}
		sources = append(sources, source{path, true})
	}
	for _, f := range files {
		sources = append(sources, source{f.path + "-cert.pub", false})
	}
	for _, from := range sources {
		public := readPublicKey(from.path)
		cert, ok := public.(*ssh.Certificate)
		if !ok {
			if from.explicit {
				a.skip(from.path, fmt.Errorf("it is no certificate that can be read"))
			}
			continue
		}
		i := findKey(signers, cert.Key)
		if i < 0 {
			a.skip(from.path, fmt.Errorf("its private key is neither in a file nor in the agent"))
			continue
		}
		if signer, err := ssh.NewCertSigner(cert, signers[i].signer); err == nil {
			a.candidates = append(a.candidates, candidate{signer, "certificate " + from.path + " " + fingerprint(cert.Key)})
		}
	}
}

// connectAgent lists the agent's keys. A missing or broken agent is worth a remark, not an error.
func (a *authenticator) connectAgent(ctx context.Context, o operator, s *settings, human func(func())) []candidate {
	socket, err := o.agentSocket(s)
	if err != nil {
		a.skip("agent", err)
		return nil
	}
	if socket == "" {
		return nil
	}
	dialer := net.Dialer{Timeout: agentTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		a.skip("agent", err)
		return nil
	}
	a.close = func() { _ = conn.Close() }
	link := &agentLink{conn: conn, timeout: agentTimeout}
	keys, err := agent.NewClient(link).List()
	if err != nil {
		a.skip("agent", err)
		return nil
	}
	link.timeout = agentSignTimeout
	signers, err := agent.NewClient(link).Signers()
	if err != nil {
		a.skip("agent", err)
		return nil
	}
	var out []candidate
	for i, signer := range signers[:min(len(signers), maxAgentKeys)] {
		name := "agent " + fingerprint(signer.PublicKey())
		if i < len(keys) && keys[i].Comment != "" {
			name = fmt.Sprintf("agent %s (%s)", fingerprint(signer.PublicKey()), cleanText(keys[i].Comment, 128))
		}
		out = append(out, candidate{humanSigner(signer, human), name})
	}
	return out
}

// agentLink gives every request to an agent a deadline. It hides Close, so that the client on top serialises its requests.
type agentLink struct {
	conn    net.Conn
	timeout time.Duration
}

func (l *agentLink) Read(p []byte) (int, error) { return l.conn.Read(p) }

func (l *agentLink) Write(p []byte) (int, error) {
	if err := l.conn.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return 0, err
	}
	return l.conn.Write(p)
}

// method is the [ssh.ClientConfig] AuthCallback: one key at a time, so that a key that fails to sign does not keep
// the next one from being offered.
func (a *authenticator) method(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	a.began = true
	a.methods = c.TriedMethods
	if !slices.Contains(c.AllowedMethods, "publickey") {
		// Also the second step of a login in two steps.
		a.skip("all other keys", fmt.Errorf("the server asks for %s, which deploy.transport = \"openssh\" can do", strings.Join(c.AllowedMethods, ", ")))
		return nil, nil
	}
	if a.next >= len(a.candidates) {
		return nil, nil
	}
	next := a.candidates[a.next]
	a.next++
	a.offered = append(a.offered, next.name)
	return ssh.PublicKeys(next.signer), nil
}
