package transporttest

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"fleet/push/transport"
)

type recorded struct {
	host, address, key string
	provenance         transport.Provenance
}

func hostKeyTests() map[string]func(*testing.T, Env) {
	return map[string]func(*testing.T, Env){
		"an unknown host key is refused and shown":             unknownKey,
		"a changed host key is refused":                        changedKey,
		"a pinned key is accepted and needs no known_hosts":    pinnedKey,
		"only pinned keys are accepted":                        otherPin,
		"the pin decides which of the server's keys is shown":  pinChoosesType,
		"a new key is accepted and recorded where that is set": acceptNew,
		"a changed key is never accepted as new":               acceptNewChanged,
		"a new key that cannot be recorded is not accepted":    recordFails,
		"hashed names in known_hosts are found":                hashedName,
		"lines that nobody understands do not hide the others": strangeLines,
		"a key marked revoked is refused, pinned or not":       revokedKey,
		"RevokedHostKeys are refused":                          revokedList,
		"a certificate of a known authority is accepted":       certificate,
		"a certificate for another name is refused":            certificateForOther,
		"an authority does not vouch for a bare key":           authorityBareKey,
		"HostKeyAlias names the entry in known_hosts":          hostKeyAlias,
		"StrictHostKeyChecking off changes nothing":            strictOff,
	}
}

func unknownKey(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts()
	err := refused[*transport.HostKeyError](r)
	if err.Kind != transport.HostKeyUnknown || err.Host != "web1" || err.Address != r.address() {
		t.Errorf("error is %+v", err)
	}
	if want := ssh.FingerprintSHA256(r.hostKey.Public()); !strings.HasSuffix(err.Presented, want) || !strings.Contains(err.Error(), want) {
		t.Errorf("presented %q, want %q", err.Presented, want)
	}
	if !strings.Contains(err.Hint(), "--accept-new-host-keys") {
		t.Errorf("hint is %q", err.Hint())
	}
}

func changedKey(t *testing.T, env Env) {
	r := newRig(t, env)
	old := NewKey(t)
	r.setKnownHosts("# a comment", r.knownLine(old))
	err := refused[*transport.HostKeyError](r)
	want := ssh.FingerprintSHA256(old.Public())
	if err.Kind != transport.HostKeyChanged || len(err.Expected) != 1 || !strings.HasSuffix(err.Expected[0], want) {
		t.Errorf("error is %+v", err)
	}
	if err.File != r.path("known_hosts") || err.Line != 2 {
		t.Errorf("named %s:%d", err.File, err.Line)
	}
}

func pinnedKey(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts(r.knownLine(NewKey(t)))
	r.target.HostKeys = []string{NewKey(t).Text(), r.hostKey.Text()}
	if key, provenance := r.dial().HostKey(); key != r.hostKey.Text() || provenance != transport.ProvenancePinned {
		t.Errorf("host key is %q by %q", key, provenance)
	}
}

func otherPin(t *testing.T, env Env) {
	r := newRig(t, env)
	pin := NewECDSAKey(t)
	r.target.HostKeys = []string{pin.Text()}
	r.target.AcceptNewHostKey = true
	err := refused[*transport.HostKeyError](r)
	if err.Kind != transport.HostKeyChanged || !err.Pinned || len(err.Expected) != 1 || !strings.HasSuffix(err.Expected[0], ssh.FingerprintSHA256(pin.Public())) {
		t.Errorf("error is %+v", err)
	}
}

func pinChoosesType(t *testing.T, env Env) {
	second := NewECDSAKey(t)
	r := newRig(t, env, func(_ *rig, o *ServerOptions) { o.HostKeys = append(o.HostKeys, second) })
	r.target.HostKeys = []string{second.Text()}
	if key, _ := r.dial().HostKey(); key != second.Text() {
		t.Errorf("host key is %q", key)
	}
	r.target.HostKeys = nil
	r.setKnownHosts(r.knownLine(second))
	if key, _ := r.dial().HostKey(); key != second.Text() {
		t.Errorf("host key by known_hosts is %q", key)
	}
}

func acceptNew(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts("other " + NewKey(t).Text())
	before, _ := os.ReadFile(r.path("known_hosts"))
	var got []recorded
	r.options.RecordHostKey = func(host, address, key string, provenance transport.Provenance) error {
		got = append(got, recorded{host, address, key, provenance})
		return nil
	}
	r.target.AcceptNewHostKey = true
	conn := r.dial()
	if key, provenance := conn.HostKey(); key != r.hostKey.Text() || provenance != transport.ProvenanceAccepted {
		t.Errorf("host key is %q by %q", key, provenance)
	}
	if want := []recorded{{"web1", r.address(), r.hostKey.Text(), transport.ProvenanceAccepted}}; !slices.Equal(got, want) {
		t.Errorf("recorded %+v", got)
	}
	if after, _ := os.ReadFile(r.path("known_hosts")); string(after) != string(before) {
		t.Errorf("the user's known_hosts was changed: %q", after)
	}
	r.setKnownHosts(r.knownLine(r.hostKey))
	if _, provenance := r.dial().HostKey(); provenance != transport.ProvenanceKnownHosts || len(got) != 1 {
		t.Errorf("a known key counts as %q, recorded %d", provenance, len(got))
	}
}

func acceptNewChanged(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts(r.knownLine(NewKey(t)))
	r.options.RecordHostKey = func(string, string, string, transport.Provenance) error {
		t.Error("a changed key was recorded")
		return nil
	}
	r.target.AcceptNewHostKey = true
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyChanged {
		t.Errorf("error is %+v", err)
	}
}

func recordFails(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts()
	full := errors.New("disk full")
	r.options.RecordHostKey = func(string, string, string, transport.Provenance) error { return full }
	r.target.AcceptNewHostKey = true
	if err := refused[*transport.ConfigError](r); !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
}

func hashedName(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts(knownhosts.HashHostname(r.name()) + " " + r.hostKey.Text())
	r.dial()
}

func strangeLines(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts("nonsense", r.name()+" ssh-future AAAA", "@strange x y z", "|2|x|y "+NewKey(t).Text(), strings.Repeat("x", 70000), "", r.knownLine(r.hostKey))
	r.dial()
	r.setKnownHosts("nonsense", r.knownLine(NewKey(t)))
	if err := refused[*transport.HostKeyError](r); err.File != r.path("known_hosts") || err.Line != 2 {
		t.Errorf("error is %+v", err)
	}
}

func revokedKey(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts("@revoked * "+r.hostKey.Text(), r.knownLine(r.hostKey))
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyRevoked {
		t.Errorf("error is %+v", err)
	}
	r.target.HostKeys = []string{r.hostKey.Text()}
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyRevoked {
		t.Errorf("pinned: error is %+v", err)
	}
	r.target.HostKeys, r.target.AcceptNewHostKey = nil, true
	r.setKnownHosts("@revoked * " + r.hostKey.Text())
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyRevoked {
		t.Errorf("accepting new keys: error is %+v", err)
	}
}

func revokedList(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "RevokedHostKeys "+r.path("revoked"))
	writeFile(t, r.path("revoked"), "# none yet\n"+NewKey(t).Text()+"\n")
	r.dial()
	writeFile(t, r.path("revoked"), r.hostKey.Text()+"\n")
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyRevoked {
		t.Errorf("error is %+v", err)
	}
}

// certified is a server with a certificate for names.
func certified(t *testing.T, env Env, names ...string) (*rig, Key) {
	authority := NewKey(t)
	return newRig(t, env, func(r *rig, o *ServerOptions) {
		o.HostCertificate = Certify(t, authority, r.hostKey, ssh.HostCert, names...)
	}), authority
}

func certificate(t *testing.T, env Env) {
	r, authority := certified(t, env, "127.0.0.1", "web1.example")
	r.setKnownHosts("@cert-authority * "+authority.Text(), "@cert-authority web1.example "+authority.Text())
	if _, provenance := r.dial().HostKey(); provenance != transport.ProvenanceCA {
		t.Errorf("accepted by %q", provenance)
	}
	r.config = append(r.config, "HostKeyAlias web1.example")
	r.dial()
}

func certificateForOther(t *testing.T, env Env) {
	r, authority := certified(t, env, "other.example")
	r.setKnownHosts("@cert-authority * " + authority.Text())
	err := refused[*transport.HostKeyError](r)
	if err.Kind != transport.HostKeyUnknown || err.Reason == "" {
		t.Errorf("error is %+v", err)
	}
	r.setKnownHosts("@cert-authority * "+authority.Text(), r.knownLine(r.hostKey))
	r.dial()
}

func authorityBareKey(t *testing.T, env Env) {
	r := newRig(t, env)
	r.setKnownHosts("@cert-authority * "+r.hostKey.Text(), "@cert-authority * "+NewKey(t).Text())
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyUnknown {
		t.Errorf("error is %+v", err)
	}
}

func hostKeyAlias(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "HostKeyAlias the-web")
	r.setKnownHosts(r.knownLine(NewKey(t)), "the-web "+r.hostKey.Text())
	r.dial()
}

func strictOff(t *testing.T, env Env) {
	r := newRig(t, env)
	r.config = append(r.config, "StrictHostKeyChecking no", "NoHostAuthenticationForLocalhost yes")
	r.setKnownHosts()
	if err := refused[*transport.HostKeyError](r); err.Kind != transport.HostKeyUnknown {
		t.Errorf("error is %+v", err)
	}
}
