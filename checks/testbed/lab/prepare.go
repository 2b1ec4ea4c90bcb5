package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// testUsers are the login users of every host beside root; see the image's recipe.
var testUsers = [...]string{"sudoer", "asker", "doas", "doasnopw", "runner", "plain"}

// make writes what makes a host itself, into the upper layer of its overlay: identity, keys, names. It may be called again.
func (h *Host) make(ctx context.Context, image *Image) error {
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(h.path(dir), 0o755); err != nil {
			return err
		}
	}
	spec, err := json.Marshal(h.Spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.path("spec.json"), spec, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(h.path("image"), []byte(image.Root), 0o644); err != nil {
		return err
	}
	if err := h.ensureNetwork(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(h.path("upper/etc/hostname")); err == nil {
		return h.copyBootStage()
	}
	if err := h.identity(ctx, image); err != nil {
		return err
	}
	return h.copyBootStage()
}

func (h *Host) identity(ctx context.Context, image *Image) error {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	files := map[string]string{
		"etc/machine-id": hex.EncodeToString(id[:]) + "\n",
		"etc/hosts":      "127.0.0.1 localhost\n::1 localhost\n" + h.Spec.Address + " " + h.Name + "\n",
		"etc/hostname":   h.Name + "\n",
	}
	for name, content := range files {
		if err := h.writeUpper(name, content, 0o644); err != nil {
			return err
		}
	}
	for _, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		key := h.path("upper/etc/ssh/ssh_host_" + kind + "_key")
		if err := os.MkdirAll(filepath.Dir(key), 0o755); err != nil {
			return err
		}
		if _, err := command(ctx, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", h.Name, "-f", key); err != nil {
			return err
		}
	}
	return h.authorize(ctx, image)
}

// authorize lets the lab's key log in as root and as every test user.
func (h *Host) authorize(ctx context.Context, image *Image) error {
	public, err := os.ReadFile(h.lab.Key() + ".pub")
	if err != nil {
		return err
	}
	if err := h.writeUpper("root/.ssh/authorized_keys", string(public), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(h.path("upper/root/.ssh"), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(h.path("upper/root"), 0o700); err != nil {
		return err
	}
	passwd, err := os.ReadFile(filepath.Join(image.Root, "etc/passwd"))
	if err != nil {
		return err
	}
	for _, user := range testUsers {
		uid, gid := ids(string(passwd), user)
		home := h.path("upper/home", user)
		if err := h.writeUpper("home/"+user+"/.ssh/authorized_keys", string(public), 0o600); err != nil {
			return err
		}
		if _, err := command(ctx, "chown", "-R", uid+":"+gid, home); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(home, ".ssh"), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// ids finds a user's numbers in a passwd file.
func ids(passwd, user string) (uid, gid string) {
	for line := range strings.Lines(passwd) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == user {
			return f[2], f[3]
		}
	}
	return "0", "0"
}

// copyBootStage installs the stand-in for what stage 2 of NixOS does at boot.
func (h *Host) copyBootStage() error {
	data, err := os.ReadFile(filepath.Join(h.lab.repo, "checks/offline/nixpkgs/boot-stage"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.writeUpper("usr/local/lib/fleet-testbed/boot-stage", string(data), 0o755)
}

func (h *Host) writeUpper(name, content string, mode os.FileMode) error {
	path := h.path("upper", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// HostKey is the host's public ed25519 key, as "type base64".
func (h *Host) HostKey() (string, error) { return h.HostKeyOf("ed25519") }

// HostKeyOf is one of the host's public keys, as "type base64"; kind is ed25519, rsa or ecdsa.
func (h *Host) HostKeyOf(kind string) (string, error) {
	data, err := os.ReadFile(h.path("upper/etc/ssh/ssh_host_" + kind + "_key.pub"))
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return "", fmt.Errorf("host key of %q is malformed", h.Name)
	}
	return f[0] + " " + f[1], nil
}

// Put copies a file of the machine onto the running host.
func (h *Host) Put(ctx context.Context, from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return h.PutReader(ctx, in, to, mode)
}

// PutReader writes what r holds into a file on the running host.
func (h *Host) PutReader(ctx context.Context, r io.Reader, to string, mode os.FileMode) error {
	cmd, err := h.Command(ctx, "sh", "-euc", `mkdir -p "$(dirname "$1")"; cat >"$1.new"; chmod "$2" "$1.new"; mv "$1.new" "$1"`, "sh", to, fmt.Sprintf("%o", mode))
	if err != nil {
		return err
	}
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("put %s on %s: %w: %s", to, h.Name, err, out)
	}
	return nil
}
