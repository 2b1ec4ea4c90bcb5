//go:build cluster && linux

package install

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

func superviseLab() bool { return lab.Supervise() }

// The units of a host as flakeModule/nixos makes them, and a service that is what this is for: its own user, and credentials.
const (
	installUnit = `[Unit]
DefaultDependencies=no
RequiresMountsFor=/etc/ssh /run
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
UMask=0077
ExecStart=/root/fleet-helper secrets-install --manifest /root/manifest.json --phase main
[Install]
WantedBy=sysinit.target
`
	serviceUnit = `[Unit]
After=fleet-secrets.service
[Service]
Type=oneshot
RemainAfterExit=yes
User=app
LoadCredential=db-password
ImportCredential=other-*
ExecStart=/bin/sh -c 'id -un; cat /run/secrets/db/secret; cat ${CREDENTIALS_DIRECTORY}/db-password; cat ${CREDENTIALS_DIRECTORY}/other-one; cat /etc/app.conf; cat /run/secrets/root/secret || echo not mine; ls /run/secrets /run/secrets.d || echo no list'
`
)

// onHost is a host of the testbed, and the manifest that is installed there.
type onHost struct {
	*bench
	host *lab.Host
}

// TestOnAHostWithSystemd installs from a unit at boot, with the host's real key, and has a service read what is its own.
func TestOnAHostWithSystemd(t *testing.T) {
	requireRoot(t)
	h := onHost{newBench(t), newLabHost(t)}
	h.declare()
	h.prepare()
	h.must(h.host.Reboot(t.Context()))
	h.must(h.host.WaitBoot(t.Context()))
	h.installedAtBoot()
	h.restarted()
	h.withoutKey()
}

// declare makes a manifest for the host's real key.
func (h onHost) declare() {
	key, err := h.host.HostKey()
	h.must(err)
	h.to, err = seal.ParseRecipient(key)
	h.must(err)
	h.m.Identities = []string{"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"}
	db, root := h.secret("db", "hunter2\n"), h.secret("root", "roots\n")
	db.Owner, db.Group, db.Mode = "app", "", "0400"
	db.Credentials = map[string]string{"db-password": "secret", "other-one": "public"}
	h.public(&db, "public", secret.EncodingText, "pub\n", "pub\n")
	root.Owner, root.Group, root.Mode = "root", "root", "0400"
	h.m.Secrets = []Secret{db, root}
	h.m.Templates = []Template{{Name: "app", Owner: "app", Mode: "0400", Content: "password=" + Placeholder(db.ID, "secret"), Path: "/etc/app.conf"}}
}

// prepare puts program, manifest and units on the host.
func (h onHost) prepare() {
	helper := filepath.Join(h.t.TempDir(), "fleet-helper")
	build := exec.Command("go", "build", "-o", helper, "./cmd/fleet-helper")
	build.Dir, build.Env = "../..", append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.must(h.host.Put(h.t.Context(), helper, "/root/fleet-helper", 0o755))
	h.put("/etc/systemd/system/fleet-secrets.service", installUnit)
	h.put("/etc/systemd/system/app.service", serviceUnit)
	h.putManifest()
	h.sh("useradd --system app && systemctl daemon-reload && systemctl enable fleet-secrets.service")
}

func (h onHost) put(name, data string) {
	h.t.Helper()
	h.must(h.host.PutReader(h.t.Context(), strings.NewReader(data), name, 0o644))
}

func (h onHost) putManifest() {
	h.t.Helper()
	data, err := json.Marshal(h.m)
	h.must(err)
	h.put("/root/manifest.json", string(data))
}

func (h onHost) sh(text string) string {
	h.t.Helper()
	out, err := h.host.Sh(h.t.Context(), text)
	if err != nil {
		h.t.Fatal(text, out, err)
	}
	return out
}

func (h onHost) installedAtBoot() {
	t := h.t
	if out := h.sh("systemctl is-active fleet-secrets.service; journalctl -b -o cat -u fleet-secrets.service"); !strings.Contains(out, "active") || !strings.Contains(out, "added host/web/db") || strings.Contains(out, "hunter2") {
		t.Error(out)
	}
	if out := h.sh("findmnt -n -o FSTYPE,OPTIONS /run/secrets.d"); !strings.HasPrefix(out, "tmpfs") || !strings.Contains(out, "noswap") {
		t.Error(out)
	}
	out := h.sh("systemctl start app.service; journalctl -b -o cat -u app.service")
	if want := "app\nhunter2\nhunter2\npub\npassword=hunter2\n"; !strings.Contains(out, want) || !strings.Contains(out, "not mine") || !strings.Contains(out, "no list") || strings.Contains(out, "roots") {
		t.Errorf("the service saw %s", out)
	}
}

// restarted changes nothing.
func (h onHost) restarted() {
	before := h.sh("readlink /run/secrets; stat -c %z /run/secrets/db/secret")
	began := time.Now()
	h.sh("systemctl restart fleet-secrets.service")
	h.t.Logf("a run without changes, with systemctl: %s", time.Since(began).Round(time.Millisecond))
	if after := h.sh("readlink /run/secrets; stat -c %z /run/secrets/db/secret"); after != before {
		h.t.Errorf("a restart changed %s to %s", before, after)
	}
}

// withoutKey has the host lose its key and get it back.
func (h onHost) withoutKey() {
	out := h.sh("mv /etc/ssh/ssh_host_ed25519_key /root/; ! systemctl restart fleet-secrets.service; systemctl show -P ExecMainStatus fleet-secrets.service; cat /run/secrets/db/secret; journalctl -b -o cat -u fleet-secrets.service")
	for _, want := range []string{"5\nhunter2\n", "still in place", `"/etc/ssh/ssh_host_ed25519_key" is not there`, "hint: put the host's key back"} {
		if !strings.Contains(out, want) {
			h.t.Errorf("%s does not say %q", out, want)
		}
	}
	h.m.Secrets[0].Mode = "0440"
	h.putManifest()
	if out := h.sh("mv /root/ssh_host_ed25519_key /etc/ssh/ && systemctl restart fleet-secrets.service && stat -c %a /run/secrets/db/secret"); !strings.HasSuffix(out, "440\n") {
		h.t.Error(out)
	}
}

func newLabHost(t *testing.T) *lab.Host {
	t.Helper()
	say := func(line string) { t.Log(line) }
	if _, err := lab.EnsureImage(t.Context(), lab.StateDir(), "trixie", say); err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open("install", "../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.RemoveOnInterrupt())
	if err := l.Down(t.Context()); err != nil { // what an earlier run left
		t.Fatal(err)
	}
	if err := l.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	host, err := l.Up(t.Context(), "secrets", lab.Spec{Address: lab.Subnet + ".43"}, say)
	if err != nil {
		t.Fatal(err)
	}
	return host
}
