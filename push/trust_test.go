package push

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure"
	"fleet/closure/storepath"
)

func TestPushWithoutTrust(t *testing.T) {
	l := newLab(t)
	root := l.chain(t, 3, 100)
	key := l.signingKey(t)
	unprivileged := func(h *host) HostSpec {
		spec := h.spec("plain")
		spec.Elevation = elevationNone
		return spec
	}
	request := PushRequest{Roots: []storepath.Path{root}, RootName: "test-push"}
	t.Run("says what to configure, and sends nothing", func(t *testing.T) {
		h := l.host(t, hostOptions{})
		s := connect(t, l.connector(), unprivileged(h))
		_, err := s.Push(t.Context(), request)
		var refused *NotTrustedError
		if !errors.As(err, &refused) || refused.Count < 1 || !strings.Contains(refused.Hint(), `trusted-users = [ "plain" ]`) {
			t.Errorf("error %v", err)
		}
		h.sh(t, "test -z \"$(ls /nix/store | grep chain)\"")
	})
	t.Run("names the key that the host does not trust", func(t *testing.T) {
		h := l.host(t, hostOptions{})
		s := connect(t, l.connector(), unprivileged(h))
		signed := request
		signed.Signer = key
		_, err := s.Push(t.Context(), signed)
		var refused *NotTrustedError
		if !errors.As(err, &refused) || refused.Path.IsZero() || !strings.Contains(refused.Hint(), key.PublicKey().String()) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("works with a key that the host trusts", func(t *testing.T) {
		h := l.host(t, hostOptions{conf: "trusted-public-keys = " + key.PublicKey().String()})
		s, err := l.connector().Connect(t.Context(), unprivileged(h))
		if err != nil {
			t.Fatal(err)
		}
		if info := s.Info(); info.Root || info.Trusted {
			t.Errorf("info: %+v", info)
		}
		signed := request
		signed.Signer = key
		if _, err := s.Push(t.Context(), signed); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		awaitOutput(t, h, "pgrep -u plain -a; ls -d /tmp/fleet* 2>/dev/null; true", "")
		h.sh(t, "nix-store --check-validity "+root.String()+" && nix-collect-garbage && nix-store --check-validity "+root.String())
	})
	t.Run("works for a trusted user", func(t *testing.T) {
		h := l.host(t, hostOptions{conf: "trusted-users = root plain"})
		s := connect(t, l.connector(), unprivileged(h))
		if _, err := s.Push(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	})
}

func (l *lab) signingKey(t *testing.T) *closure.SigningKey {
	t.Helper()
	secret, public := filepath.Join(l.dir, "secret"), filepath.Join(l.dir, "public")
	command(t, "nix-store", "--generate-binary-cache-key", "test-1", secret, public)
	key, err := closure.ParseSigningKey(readFile(t, secret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}
