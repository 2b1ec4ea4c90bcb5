//go:build cluster

package cluster

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"fleet/checks/testbed/lab"
)

// hostReport is what the report of --json says of a host.
type hostReport struct {
	Host             string
	Outcome          string
	Paths, WireBytes uint64
	Step, Error      string
	RunsNewBootsOld  bool
	Notices          []string
}

// report reads the report of a run with --json, by host.
func (r result) report() map[string]hostReport {
	r.t.Helper()
	found := map[string]hostReport{}
	for line := range strings.Lines(r.stdout) {
		var event struct {
			Type  string
			Hosts []json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			r.t.Fatalf("%v in %s", err, line)
		}
		if event.Type != "report" {
			continue
		}
		for _, data := range event.Hosts {
			var h hostReport
			if err := json.Unmarshal(data, &h); err != nil {
				r.t.Fatalf("%v in %s", err, data)
			}
			found[h.Host] = h
		}
	}
	if len(found) == 0 {
		r.t.Fatalf("no report in\n%s", r.stdout)
	}
	return found
}

// toplevel is the system that the flake makes of a host; it need not be built.
func (p *project) toplevel(name string) string {
	p.t.Helper()
	return strings.TrimSpace(p.sh(`cd "$1" && nix eval --raw .#nixosConfigurations.` + name + `.config.system.build.toplevel.outPath`))
}

// valid says whether the host has a store path with all that it needs.
func valid(t *testing.T, h *lab.Host, path string) bool {
	t.Helper()
	_, err := h.Sh(t.Context(), `all=$(nix-store --query --requisites "$1") && nix-store --check-validity $all`, path)
	return err == nil
}

// nixConf adds settings to the host's Nix, which stay until the test removes the host.
func nixConf(t *testing.T, h *lab.Host, settings string) {
	t.Helper()
	if _, err := h.Sh(t.Context(), `printf '%s\n' "$1" >>/etc/nix/nix.conf; systemctl restart nix-daemon.service`, settings); err != nil {
		t.Fatal(err)
	}
}

// signingKey makes a key on the operator's machine, and returns its file and its public half.
func signingKey(p *project, name string) (file, public string) {
	p.t.Helper()
	file = p.dir + "-" + name + ".key"
	out := p.sh(`nix key generate-secret --key-name ` + name + ` >` + file + ` && nix key convert-secret-to-public <` + file)
	return file, strings.TrimSpace(out)
}

func TestAHostTakesFromItsOwnSubstitutersFirst(t *testing.T) {
	t.Parallel()
	const ballastMiB = 31 // of a size that no other test has, so that no host has it
	h := boot(t, "cached", lab.Spec{Address: lab.Subnet + ".36"})
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "from a cache", BallastMiB: ballastMiB, Deploy: map[string]any{"address": h.Spec.Address}}})
	p.deploy("build").want(0)
	key, public := signingKey(p, "cache-1")
	system := p.toplevel(h.Name)
	p.sh(`nix copy --to "file://$1-cache?compression=none&secret-key=` + key + `" ` + system)

	archive, err := p.operator.Command(t.Context(), "tar", "--create", "--directory="+p.dir+"-cache", ".")
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := archive.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	unpack, err := h.Command(t.Context(), "sh", "-euc", "mkdir -p /var/cache/nix && tar --extract --directory=/var/cache/nix")
	if err != nil {
		t.Fatal(err)
	}
	unpack.Stdin = pipe
	if err := archive.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, _ = io.Copy(io.Discard, pipe)
	if err := archive.Wait(); err != nil {
		t.Fatal(err)
	}
	nixConf(t, h, "substituters = file:///var/cache/nix\ntrusted-public-keys = "+public)

	p.write(map[string]hostSpec{h.Name: {Content: "from a cache", BallastMiB: ballastMiB, Deploy: map[string]any{"address": h.Spec.Address, "substituteOnDestination": true}}})
	sent := p.deploy("switch", "--json").want(0).report()[h.Name]
	if sent.WireBytes > 1<<20 {
		t.Errorf("%d bytes were sent, although the cache has %d MiB of it", sent.WireBytes, ballastMiB)
	}
	if got := content(t, h); got != "from a cache" || !valid(t, h, system) {
		t.Errorf("the host holds %q; is %s valid: %v", got, system, valid(t, h, system))
	}
	if out := on(t, h, "nix path-info --sigs "+system); !strings.Contains(out, "cache-1:") {
		t.Errorf("the system does not come from the cache: %s", out)
	}
}

func TestAUserWithoutRootPushesWhatIsSigned(t *testing.T) {
	t.Parallel()
	h := boot(t, "strict", lab.Spec{Address: lab.Subnet + ".37"})
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "signed", Deploy: map[string]any{"address": h.Spec.Address, "user": "plain", "elevation": "none"}}})
	p.deploy("push").want(3, h.Name, `nix.settings.trusted-users = [ "plain" ]`, "nix.settings.trusted-public-keys")
	system := p.toplevel(h.Name)
	if valid(t, h, system) {
		t.Fatalf("%s was taken although nobody signed it", system)
	}

	key, public := signingKey(p, "operator-1")
	p.deploy("push", "--sign-key", key).want(3, h.Name, public, "nix.settings.trusted-public-keys")
	nixConf(t, h, "trusted-public-keys = "+public)
	p.deploy("push", "--sign-key", key).want(0)
	if !valid(t, h, system) {
		t.Errorf("%s was pushed and is not valid", system)
	}
	before := runs(t, h)
	p.deploy("switch", "--sign-key", key).want(3, h.Name, "only root can activate", "deploy.elevation")
	if got := runs(t, h); got != before {
		t.Errorf("the host runs %s, want still %s", got, before)
	}
	nixConf(t, h, "trusted-public-keys =\ntrusted-users = root plain")
	p.write(map[string]hostSpec{h.Name: {Content: "trusted", Deploy: map[string]any{"address": h.Spec.Address, "user": "plain", "elevation": "none"}}})
	p.deploy("push").want(0)
	if system := p.toplevel(h.Name); !valid(t, h, system) {
		t.Errorf("%s was pushed by a trusted user and is not valid", system)
	}
}

// A user whom Nix trusts and who does not become root: the agent cannot be started, and the host's own Nix takes the paths all the same.
func TestAPushWhereTheHelperCannotRun(t *testing.T) {
	t.Parallel()
	h := boot(t, "bare", lab.Spec{Address: lab.Subnet + ".42"})
	nixConf(t, h, "trusted-users = root plain")
	deploy := map[string]any{"address": h.Spec.Address, "user": "plain"}
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "served", Pieces: 40, Deploy: deploy}})
	sent := p.deploy("push", "--json").want(0, "the helper cannot run there", "nix-store --serve").report()[h.Name]
	if sent.Outcome != "pushed" || sent.Paths < 40 || !strings.Contains(strings.Join(sent.Notices, " "), "pushed without the helper") {
		t.Errorf("report: %+v", sent)
	}
	first := p.toplevel(h.Name)
	on(t, h, "nix-collect-garbage")
	if !valid(t, h, first) {
		t.Errorf("%s was collected after it was pushed", first)
	}
	before := runs(t, h)
	p.deploy("switch").want(3, h.Name, "become root", "activating a system needs the helper", "deploy push")
	if got := runs(t, h); got != before {
		t.Errorf("the host runs %s, want still %s", got, before)
	}

	// A Nix that imports, and does not serve.
	on(t, h, `store=$(command -v nix-store) && real=$(readlink -f "$store") && rm "$store" && cat >"$store" <<END
#!/bin/bash
if [ "\$1" = --serve ]; then echo "nobody is served here" >&2; exit 1; fi
exec -a nix-store "$real" "\$@"
END
chmod 755 "$store" && nix-store --version`)
	p.write(map[string]hostSpec{h.Name: {Content: "imported", Pieces: 41, Deploy: deploy}})
	p.deploy("push").want(0, "nix-store --import", "pushed without the helper")
	second := p.toplevel(h.Name)
	on(t, h, "nix-collect-garbage")
	if !valid(t, h, second) {
		t.Errorf("%s was imported and is not valid", second)
	}
	if valid(t, h, first) {
		t.Errorf("%s is still there after the next push and a collection", first)
	}
}

func TestAPushWithAPlanThatHasNoHelper(t *testing.T) {
	hosts := takeSome(t, 2)
	specs := each("without a helper", hosts)
	other := specs[hosts[1].Name]
	other.Deploy = map[string]any{"transport": "openssh"}
	specs[hosts[1].Name] = other
	p := newProject(t, specs)
	p.sh(`cd "$1" && /src/helper/bin/fleet-helper plan --json --with-records >"$1-plan.json"`)
	p.deploy("build").want(0) // the closures of a static plan exist already
	bare := elsewhere(t, p.dir+"-bare")
	bare.sh(`mv "${1%-bare}-plan.json" "$1/plan.json" && echo "(import 'plan.json') + { helpers: {} }" >"$1/bare.jsonnet"`)
	report := bare.deploy("push", "--json", "--plan", "bare.jsonnet").want(0, "the plan has none for this system").report()
	for _, h := range hosts {
		if got := report[h.Name]; got.Outcome != "pushed" || !strings.Contains(strings.Join(got.Notices, " "), "pushed without the helper") {
			t.Errorf("%s: %+v", h.Name, got)
		}
		on(t, h, "nix-collect-garbage")
		if system := p.toplevel(h.Name); !valid(t, h, system) {
			t.Errorf("%s was pushed to %s and is not valid", system, h.Name)
		}
	}
	bare.deploy("switch", "--plan", "bare.jsonnet").want(3, "targets can be", "activating a system needs the helper")
}

func TestGarbageCollectionDoesNotTakeWhatIsBeingPushed(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "between two collections", BallastMiB: 23, Pieces: 60}})
	p.deploy("build").want(0)
	if err := h.Limit(t.Context(), "80mbit"); err != nil {
		t.Fatal(err)
	}
	defer h.Limit(t.Context(), "")
	on(t, h, `systemd-run --quiet --collect --unit=collect bash -c 'n=0; while nix-collect-garbage; do n=$((n+1)); echo $n >/run/collected; done'`)
	defer h.Sh(t.Context(), "systemctl stop collect.service || true") // for whoever takes the host next
	p.deploy("switch").want(0)
	on(t, h, "systemctl stop collect.service")
	if got := on(t, h, "cat /run/collected; rm /run/collected"); got == "" {
		t.Error("no collection ended while the push went on")
	} else {
		t.Logf("%s collections beside one deployment", got)
	}
	if system := runs(t, h); !valid(t, h, system) || content(t, h) != "between two collections" {
		t.Errorf("the host holds %q; is %s valid: %v", content(t, h), system, valid(t, h, system))
	}
	if out, err := h.Sh(t.Context(), "nix-store --verify --check-contents 2>&1"); err != nil || strings.Contains(out, "modified") || strings.Contains(out, "disappeared") {
		t.Errorf("the store is damaged: %v\n%s", err, out)
	}
}

func TestAPushIsKeptUntilTheNextOne(t *testing.T) {
	h := take(t)
	p := newProject(t, map[string]hostSpec{h.Name: {Content: "the first push"}})
	p.deploy("push").want(0)
	first := p.toplevel(h.Name)
	on(t, h, "nix-collect-garbage --delete-old")
	if !valid(t, h, first) {
		t.Fatalf("%s was collected after it was pushed", first)
	}
	p.write(map[string]hostSpec{h.Name: {Content: "the second push"}})
	p.deploy("push").want(0)
	second := p.toplevel(h.Name)
	on(t, h, "nix-collect-garbage --delete-old")
	if !valid(t, h, second) {
		t.Errorf("%s was collected after it was pushed", second)
	}
	if _, err := h.Sh(t.Context(), `test ! -e "$1"`, first); err != nil {
		t.Errorf("%s is still there after the next push and a collection", first)
	}
}
