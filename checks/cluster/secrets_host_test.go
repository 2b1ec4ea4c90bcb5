//go:build cluster

package cluster

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"fleet/secretsgen/install"
)

func TestUsersHaveTheirPasswordsAndTemplatesTheirValues(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, `{
  hosts.HOST1.nixos = { config, ... }: {
    secrets.login = {
      generator = { mkPasswordHash }: mkPasswordHash { };
      neededForUsers = true;
    };
    users.users.person = { isNormalUser = true; hashedPasswordFile = config.secrets.login.hash.path; };
    secrets.db.generator = { mkPassword }: mkPassword { noSymbols = true; };
    secretTemplates.db-conf = {
      content = "user = app\npassword = ${config.secrets.db.secret.placeholder}\n";
      owner = "person";
      group = "users";
      mode = "0400";
      path = "/etc/db.conf";
    };
  };
}`, h)
	p.switchAll().want(0)
	// perl's crypt is libc's, which knows yescrypt.
	const loggedIn = `perl -e 'open F, "</run/secrets-for-users/login/secret"; $p = <F>; print crypt($p, $ARGV[0]) eq $ARGV[0] ? "right" : "wrong"' "$(getent shadow person | cut -d: -f2)"`
	if got := on(t, h, loggedIn); got != "right" {
		t.Errorf("the user's password is %s", got)
	}
	look := func() string {
		return on(t, h, `stat --dereference --format '%U:%G %a' /etc/db.conf; cat /etc/db.conf`)
	}
	if got, want := look(), "person:users 400\nuser = app\npassword = "+secretOf(t, h, "db/secret"); got != want {
		t.Error("the template is not as it should be")
	}
	p.secrets("regenerate", "--yes", "db", "login").want(0)
	p.deploy("switch").want(0)
	if got, want := look(), "person:users 400\nuser = app\npassword = "+secretOf(t, h, "db/secret"); got != want {
		t.Error("the template does not follow a new value")
	}
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := on(t, h, loggedIn); got != "right" {
		t.Errorf("after a reboot the user's password is %s", got)
	}
}

func TestOneBadSecretTakesNoOtherAlong(t *testing.T) {
	h := take(t)
	p := newSecretsProject(t, oneHost, h)
	p.switchAll().want(0)
	before := on(t, h, "sha256sum /run/secrets/{db,token}/secret")

	var manifest install.Manifest
	if err := json.Unmarshal([]byte(on(t, h, "cat /etc/fleet/secrets.json")), &manifest); err != nil {
		t.Fatal(err)
	}
	// Runs the host's own installer with a changed manifest. How it ends, and what is there afterwards, are on the last two lines.
	installed := func(change func(*install.Part)) string {
		for i := range manifest.Secrets {
			if manifest.Secrets[i].ID.Name == "db" {
				part := manifest.Secrets[i].Parts["secret"]
				change(&part)
				manifest.Secrets[i].Parts["secret"] = part
			}
		}
		data, err := json.Marshal(manifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.PutReader(t.Context(), bytes.NewReader(data), "/run/secret-test/manifest.json", 0o600); err != nil {
			t.Fatal(err)
		}
		return on(t, h, `command=$(systemctl cat fleet-secrets.service | sed -n 's/^ExecStart=//p' | sed 's|--manifest[ =][^ ]*|--manifest=/run/secret-test/manifest.json|')
$command 2>&1 && echo "no error" || echo "an error"
ls /run/secrets | xargs`)
	}

	// A damaged file of a value that is in place: the value stays.
	out := installed(func(part *install.Part) { part.Armor = strings.Replace(part.Armor, "\n", "\nAAAA", 1) })
	if !strings.HasSuffix(out, "an error\ndb token") || !strings.Contains(out, "db") {
		t.Errorf("with a damaged file the installer said\n%s", out)
	}
	if after := on(t, h, "sha256sum /run/secrets/{db,token}/secret"); after != before {
		t.Errorf("values changed:\n%s\nwere\n%s", after, before)
	}
	// A file of another value than the manifest commits to: it must not appear, and the old value is not passed off as the new one.
	out = installed(func(part *install.Part) { part.Commit = strings.Repeat("0", len(part.Commit)) })
	if !strings.HasSuffix(out, "an error\ntoken") {
		t.Errorf("with a file of another value the installer said\n%s", out)
	}
	on(t, h, "systemctl restart fleet-secrets.service")
	if after := on(t, h, "sha256sum /run/secrets/{db,token}/secret"); after != before {
		t.Errorf("values changed:\n%s\nwere\n%s", after, before)
	}
}
