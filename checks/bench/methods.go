package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"fleet/checks/testbed/lab"
	"fleet/evaluator/plan"
)

// The methods by name.
const (
	fleet    = "fleet"
	sshNG    = "nix copy, ssh-ng"
	sshNGZip = "nix copy, ssh-ng, compress"
	sshOld   = "nix copy, ssh"
	gzip     = "nix-copy-closure --gzip"
	pipe     = "export, zstd -3, import"
	floor    = "import of a local file"
	floorVia = "import of a local file, by the daemon"
)

// transfers go over the link; floors are what a target takes for what it has already.
var (
	transfers = []string{fleet, sshNG, sshNGZip, sshOld, gzip, pipe}
	floors    = []string{floor, floorVia}
)

// nixTools are the methods that Nix ships.
var nixTools = []string{sshNG, sshNGZip, sshOld, gzip}

// scripts are shell text, for bash with -euo pipefail; $1 is the store path, $2 the host. They are what somebody would type.
var scripts = map[string]string{
	sshNG:    `nix copy --no-check-sigs --to "ssh-ng://root@$2" "$1"`,
	sshNGZip: `nix copy --no-check-sigs --to "ssh-ng://root@$2?compress=true" "$1"`,
	sshOld:   `nix copy --no-check-sigs --to "ssh://root@$2" "$1"`,
	gzip:     `nix-copy-closure --gzip --to "root@$2" "$1"`,
	pipe: `missing=$(nix-store --query --requisites "$1" | ssh "root@$2" xargs nix-store --check-validity --print-invalid)
[ -z "$missing" ] || nix-store --export $missing | zstd -3 -T0 -q | ssh "root@$2" 'zstd -dq | nix-store --import >/dev/null'`,
}

// argv is a method's command on the operator's machine; again has it started again, twice at most, when it ends with an error.
func (f *field) argv(ctx context.Context, method string, top string, targets []*lab.Host, again bool) ([]string, error) {
	text, args := scripts[method], []string{top}
	if method == fleet {
		p, err := f.plan(top, targets)
		if err != nil {
			return nil, err
		}
		if err := f.operator.PutReader(ctx, strings.NewReader(p), planFile, 0o644); err != nil {
			return nil, err
		}
		text, args = `"$1" deploy push --json --plan `+planFile, []string{f.helper + "/bin/fleet-helper"}
	}
	for _, h := range targets {
		args = append(args, h.Name)
	}
	switch {
	case again:
		text = "push() {\n" + text + "\n}\nfor try in 1 2 3; do ( set -e; push \"$@\" ) && exit 0; done; exit 1"
	case method != fleet && len(targets) > 1:
		text = "push() {\n" + text + "\n}\ntop=$1; shift; jobs=(); for host; do push \"$top\" \"$host\" & jobs+=($!); done; for job in \"${jobs[@]}\"; do wait \"$job\"; done"
	}
	return append([]string{"bash", "-euo", "pipefail", "-c", text, "bash"}, args...), nil
}

// plan is a static plan that pushes a path to hosts: nothing is evaluated.
func (f *field) plan(top string, targets []*lab.Host) (string, error) {
	p := plan.Plan{
		FormatVersion: plan.FormatVersion, Fleet: "bench", Helpers: map[string]plan.Helper{system: {Path: f.helper}},
		Hosts: map[string]plan.Host{}, SharedSecrets: map[string]plan.Secret{}, Warnings: []string{}, Records: map[string]plan.Record{},
	}
	root := "root"
	for _, h := range targets {
		p.Hosts[h.Name] = plan.Host{
			System: system, Tags: []string{"all"},
			Deploy: plan.Deploy{
				Address: h.Spec.Address, User: &root, JumpHosts: []string{}, HostKeys: []string{f.hostKeys[h.Name]}, Transport: "native",
				Elevation: "none", BuildOn: "operator", Drain: []string{}, Undrain: []string{},
			},
			Network: plan.Network{InternalIPs: []string{}, ExternalIPs: []string{}},
		}
		p.Records[h.Name] = plan.Record{System: &plan.System{OutPath: top, Specialisations: []string{}}}
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("write plan: %w", err)
	}
	return string(data), nil
}

// planFile is where the operator's machine has the plan.
const planFile = "/root/plan.json"

const system = "x86_64-linux"
