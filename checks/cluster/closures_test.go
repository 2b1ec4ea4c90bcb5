//go:build cluster

package cluster

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"fleet/checks/testbed/lab"
	"fleet/closure/nar"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// made is a closure of made-up paths. The salt is in all hashes and in nothing else, so that another one makes a rebuild of everything.
type made struct {
	salt  string
	infos []storepath.Info
	sizes map[storepath.Path]int64
}

func newMade(salt string) *made { return &made{salt: salt, sizes: map[storepath.Path]int64{}} }

// add makes a folder with a file of that size, which names its references and itself. Three quarters of it can be compressed away.
func (m *made) add(t *testing.T, name string, size int64, refs ...storepath.Path) storepath.Path {
	t.Helper()
	sum := sha256.Sum256([]byte(m.salt + "\n" + name))
	path, err := storepath.ParseBase(storepath.EncodeBase32(sum[:20]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	info := storepath.Info{Path: path, References: append([]storepath.Path{path}, refs...)}
	storepath.Sort(info.References)
	m.sizes[path] = size
	hash := sha256.New()
	count := &counter{w: hash}
	if err := m.write(count, info); err != nil {
		t.Fatal(err)
	}
	info.NarHash, info.NarSize = [sha256.Size]byte(hash.Sum(nil)), count.n
	m.infos = append(m.infos, info)
	return path
}

type counter struct {
	w io.Writer
	n uint64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += uint64(len(p))
	return c.w.Write(p)
}

func (m *made) write(w io.Writer, info storepath.Info) error {
	var names strings.Builder
	// In an order that a rebuild does not change.
	for _, ref := range slices.SortedFunc(slices.Values(info.References), func(a, b storepath.Path) int { return strings.Compare(a.Name(), b.Name()) }) {
		fmt.Fprintln(&names, ref)
	}
	seed := sha256.Sum256([]byte(info.Path.Name()))
	size := m.sizes[info.Path]
	text := io.MultiReader(strings.NewReader(names.String()), io.LimitReader(&letters{random: rand.NewChaCha8(seed)}, size))
	out := nar.NewWriter(w)
	return errors.Join(out.Directory(""), out.File("data", false, uint64(names.Len())+uint64(size), text), out.Close())
}

// letters are an endless text, which compresses to a quarter.
type letters struct{ random *rand.ChaCha8 }

func (n *letters) Read(p []byte) (int, error) {
	n.random.Read(p) // it never fails
	for i, c := range p {
		p[i] = "acgt"[c&3]
	}
	return len(p), nil
}

// system adds count paths of some size that refer to each other, and what refers to all of them.
func (m *made) system(t *testing.T, count int, size int64, more ...storepath.Path) storepath.Path {
	t.Helper()
	all := more
	for i := range count {
		var refs []storepath.Path
		for k := i - 1; k > max(0, i-40); k -= 7 {
			refs = append(refs, all[len(more)+k])
		}
		// From a third of the mean to five thirds.
		all = append(all, m.add(t, fmt.Sprintf("part-%d-1.0", i), size/3+size*4/3*int64(i%17)/16, refs...))
	}
	return m.add(t, "system-1.0", 1000, all...)
}

// export writes all paths as `nix-store --export` does.
func (m *made) export(w io.Writer) error {
	out := exporter{w}
	for _, info := range m.infos {
		out.number(1)
		if err := m.write(w, info); err != nil {
			return err
		}
		const magic, signatures = 0x4558494e, 0
		out.number(magic)
		out.text(info.Path.String())
		out.number(uint64(len(info.References)))
		for _, ref := range info.References {
			out.text(ref.String())
		}
		out.text("") // no deriver
		out.number(signatures)
	}
	return out.number(0)
}

type exporter struct{ w io.Writer }

func (e exporter) number(n uint64) error {
	_, err := e.w.Write(binary.LittleEndian.AppendUint64(nil, n))
	return err
}

func (e exporter) text(text string) {
	_ = e.number(uint64(len(text))) // what is written last says whether all of it went
	_, _ = io.WriteString(e.w, text+strings.Repeat("\x00", -len(text)&7))
}

// install brings what was made into the operator's store, as what root refers to.
func (m *made) install(t *testing.T, root storepath.Path) {
	t.Helper()
	importOnOperator(t, m.export)
	keepOnOperator(t, root.String())
}

func importOnOperator(t *testing.T, export func(w io.Writer) error) {
	t.Helper()
	cmd, err := shared.operator.Command(t.Context(), "sh", "-c", "nix-store --import >/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		out := bufio.NewWriterSize(w, 1<<20)
		_ = w.CloseWithError(errors.Join(export(out), out.Flush()))
	}()
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("import on the operator's machine: %v: %s", err, out)
	}
}

// keepOnOperator keeps a path from garbage collections.
func keepOnOperator(t *testing.T, path string) {
	t.Helper()
	if _, err := shared.operator.Sh(t.Context(), `mkdir -p /nix/var/nix/gcroots/tests && ln -sfn "$1" /nix/var/nix/gcroots/tests/`, path); err != nil {
		t.Fatal(err)
	}
}

// storedHelper is the helper as a store path of the operator's machine.
var storedHelper = sync.OnceValues(func() (string, error) {
	out, err := shared.operator.Sh(context.Background(), `mkdir -p /root/fleet-helper-stored /nix/var/nix/gcroots/tests
cp -r /src/helper/bin /root/fleet-helper-stored/
path=$(nix-store --add /root/fleet-helper-stored)
ln -sfn "$path" /nix/var/nix/gcroots/tests/
echo "$path"`)
	return strings.TrimSpace(out), err
})

// pusher pushes store paths to a host by a plan that is written down: nothing is evaluated.
type pusher struct {
	*project
	host *lab.Host
}

func newPusher(t *testing.T, h *lab.Host) *pusher {
	t.Helper()
	return &pusher{project: elsewhere(t, "/root/plans/"+strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())), host: h}
}

// argv writes the plan of a push, and returns the command.
func (p *pusher) argv(top string) []string {
	p.t.Helper()
	stored, err := storedHelper()
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := p.host.HostKey()
	if err != nil {
		p.t.Fatal(err)
	}
	const system, root = "x86_64-linux", "root"
	user := root
	written := plan.Plan{
		FormatVersion: plan.FormatVersion, Fleet: "pushes", Helpers: map[string]plan.Helper{system: {Path: stored}},
		SharedSecrets: map[string]plan.Secret{}, Warnings: []string{},
		Hosts: map[string]plan.Host{p.host.Name: {
			System: system, Tags: []string{"all"},
			Deploy: plan.Deploy{
				Address: p.host.Spec.Address, User: &user, JumpHosts: []string{}, HostKeys: []string{key}, Transport: "native",
				Elevation: "none", BuildOn: "operator", Drain: []string{}, Undrain: []string{},
			},
			Network: plan.Network{InternalIPs: []string{}, ExternalIPs: []string{}},
		}},
		Records: map[string]plan.Record{p.host.Name: {System: &plan.System{OutPath: top, Specialisations: []string{}}}},
	}
	data, err := json.Marshal(written)
	if err != nil {
		p.t.Fatal(err)
	}
	file := p.dir + "/plan.json"
	if err := p.operator.PutReader(p.ctx(), strings.NewReader(string(data)), file, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return []string{stored + "/bin/fleet-helper", "deploy", "push", "--json", "--yes", "--plan", file}
}

// push pushes a path with all that it needs.
func (p *pusher) push(top string) hostReport {
	p.t.Helper()
	return p.run(p.argv(top)...).want(0).report()[p.host.Name]
}

// runsNow makes the host believe that it runs a system, which the next one will resemble.
func (p *pusher) runsNow(top string) {
	p.t.Helper()
	if _, err := p.host.Sh(p.ctx(), `mkdir -p /nix/var/nix/profiles
ln -sfn "$1" /nix/var/nix/profiles/system-1-link
ln -sfn system-1-link /nix/var/nix/profiles/system
ln -sfn "$1" /run/current-system`, top); err != nil {
		p.t.Fatal(err)
	}
}
