//go:build cluster

package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// hostSpec is one host of hosts.json; testdata/flake/host.nix reads it.
type hostSpec struct {
	Tags        []string       `json:"tags,omitempty"`
	Deploy      map[string]any `json:"deploy,omitempty"`
	Content     string         `json:"content,omitempty"`
	EvalError   bool           `json:"evalError,omitempty"`
	BuildFails  bool           `json:"buildFails,omitempty"`
	UnitFails   bool           `json:"unitFails,omitempty"`
	SlowSeconds int            `json:"slowSeconds,omitempty"`
	BallastMiB  int            `json:"ballastMiB,omitempty"`
	// Pieces is how many small paths there are beside the ballast.
	Pieces         int    `json:"pieces,omitempty"`
	Specialisation string `json:"specialisation,omitempty"`
	// Modules are names of files in testdata/flake/modules: what a configuration can have that breaks its host.
	Modules []string `json:"modules,omitempty"`
}

// project is a flake on an operator's machine.
type project struct {
	t        *testing.T
	operator *lab.Operator
	dir      string
}

// newProject makes a flake with these hosts; the address of a standing host is filled in.
func newProject(t *testing.T, hosts map[string]hostSpec) *project {
	t.Helper()
	return newProjectAt(t, shared.operator, hosts)
}

// newProjectAt is newProject on another operator's machine.
func newProjectAt(t *testing.T, operator *lab.Operator, hosts map[string]hostSpec) *project {
	t.Helper()
	p := &project{t: t, operator: operator, dir: "/root/projects/" + strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())}
	p.sh(`rm -rf "$1" && mkdir -p /root/projects && cp -r ` + baseProject + ` "$1"`)
	p.write(hosts)
	return p
}

// elsewhere is a folder of the operator's without a flake.
func elsewhere(t *testing.T, dir string) *project {
	t.Helper()
	p := &project{t: t, operator: shared.operator, dir: dir}
	p.sh(`rm -rf "$1" && mkdir -p "$1"`)
	return p
}

// take gives the test a standing host for itself until it ends. The test runs beside others from then on.
func take(t *testing.T) *lab.Host {
	t.Helper()
	return takeSome(t, 1)[0]
}

// takeSome is take for several hosts.
func takeSome(t *testing.T, n int) []*lab.Host {
	t.Helper()
	t.Parallel()
	shared.taking.Lock()
	defer shared.taking.Unlock()
	hosts := make([]*lab.Host, n)
	for i := range hosts {
		hosts[i] = <-shared.free
	}
	t.Cleanup(func() {
		for _, h := range hosts {
			shared.free <- h
		}
	})
	return hosts
}

// write replaces the hosts and commits.
func (p *project) write(hosts map[string]hostSpec) {
	p.t.Helper()
	p.writeFleet("hosts.json", hosts)
}

// writeFleet replaces the hosts of one of the flake's fleets, hosts.json or staging.json, and commits.
func (p *project) writeFleet(file string, hosts map[string]hostSpec) {
	p.t.Helper()
	for name, spec := range hosts {
		if spec.Deploy == nil {
			spec.Deploy = map[string]any{}
		}
		if _, ok := spec.Deploy["address"]; !ok && standing[name].Address != "" {
			spec.Deploy["address"] = standing[name].Address
		}
		hosts[name] = spec
	}
	data, err := json.MarshalIndent(hosts, "", "  ")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.operator.PutReader(p.ctx(), bytes.NewReader(data), p.dir+"/"+file, 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.sh(`cd "$1" && git add --all && git commit --quiet --allow-empty --message hosts`)
}

func (p *project) ctx() context.Context { return p.t.Context() }

// sh runs shell text on the operator's machine; $1 is the project's folder.
func (p *project) sh(text string) string {
	p.t.Helper()
	out, err := p.operator.Sh(p.ctx(), text, p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// result is how a command of the operator's ended.
type result struct {
	t      *testing.T
	code   int
	stdout string
	stderr string
	took   time.Duration
}

// helper is the program on an operator's machine.
const helper = "/src/helper/bin/fleet-helper"

// fleet runs the helper in the project's folder.
func (p *project) fleet(args ...string) result {
	p.t.Helper()
	return p.run(append([]string{helper}, args...)...)
}

// deploy runs a deployment without questions.
func (p *project) deploy(args ...string) result {
	p.t.Helper()
	return p.fleet(append([]string{"deploy", "--yes"}, args...)...)
}

// run runs a command in the project's folder, without a terminal and with nothing to read.
func (p *project) run(argv ...string) result {
	p.t.Helper()
	return p.feed("", argv...)
}

// feed is run with a text on standard input.
func (p *project) feed(stdin string, argv ...string) result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx(), 3*time.Minute)
	defer cancel()
	cmd := p.command(ctx, argv...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 10 * time.Second // what runs on the operator's machine outlives its nsenter
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{t: p.t, stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		r.code = -1
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		p.t.Fatal(err)
	}
	return r
}

func (p *project) command(ctx context.Context, argv ...string) *exec.Cmd {
	p.t.Helper()
	cmd, err := p.operator.Command(ctx, append([]string{"bash", "-c", `cd "$1" && shift && exec "$@"`, "bash", p.dir}, argv...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return cmd
}

// want fails the test, with all that was printed, where the exit code is another or a text is missing from the output.
func (r result) want(code int, texts ...string) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", r.code, code, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout+r.stderr, text) {
			r.t.Fatalf("the output does not say %q\nstdout:\n%s\nstderr:\n%s", text, r.stdout, r.stderr)
		}
	}
	return r
}

// on runs shell text on a host and returns what it printed, trimmed.
func on(t *testing.T, h *lab.Host, text string) string {
	t.Helper()
	out, err := h.Sh(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// content is what the deployed system put into /etc.
func content(t *testing.T, h *lab.Host) string {
	t.Helper()
	return on(t, h, "cat /etc/cluster-test 2>/dev/null || echo none")
}

// boots is the toplevel that the host boots by default.
func boots(t *testing.T, h *lab.Host) string {
	t.Helper()
	return on(t, h, `entry=$(sed -n 's/^default //p' /boot/loader/loader.conf 2>/dev/null) && sed -n 's/.*init=\([^ ]*\)\/init.*/\1/p' "/boot/loader/entries/$entry" || echo none`)
}

// bootsNext is the toplevel that the next boot brings: that of the entry for one boot, where there is one.
func bootsNext(t *testing.T, h *lab.Host) string {
	t.Helper()
	once := on(t, h, `entry=$(cat /boot/loader/oneshot 2>/dev/null) && sed -n 's/.*init=\([^ ]*\)\/init.*/\1/p' "/boot/loader/entries/$entry" || true`)
	return cmp.Or(once, boots(t, h))
}

// runs is the toplevel that is active.
func runs(t *testing.T, h *lab.Host) string {
	t.Helper()
	return on(t, h, "readlink -f /run/current-system || echo none")
}
