//go:build cluster

package cluster

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/checks/testbed/lab"
	"fleet/closure/storepath"
)

// facts are what any Nix says of a store path, in one form.
type facts struct {
	NarHash, CA            string
	NarSize                uint64
	References, Signatures []string
}

// pathFacts asks a host's Nix for all that a path needs.
func pathFacts(t *testing.T, h *lab.Host, top string) map[string]facts {
	t.Helper()
	cmd, err := h.Command(t.Context(), "nix", "path-info", "--json", "--recursive", top)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nix path-info on %s: %v", h.Name, err)
	}
	infos := map[string]pathInfo{}
	if err := json.Unmarshal(out, &infos); err != nil {
		// Until 2.18 it is a list.
		var list []pathInfo
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("read what nix path-info says on %s: %v\n%.2000s", h.Name, err, out)
		}
		for _, info := range list {
			infos[info.Path] = info
		}
	}
	all := map[string]facts{}
	for name, info := range infos {
		all[path.Base(name)] = info.facts(t)
	}
	return all
}

type pathInfo struct {
	Path       string
	NarHash    json.RawMessage
	CA         json.RawMessage
	NarSize    uint64
	References []string
	Signatures []string
}

func (i pathInfo) facts(t *testing.T) facts {
	t.Helper()
	f := facts{NarHash: plainHash(t, i.NarHash), NarSize: i.NarSize, Signatures: slices.Sorted(slices.Values(i.Signatures)), CA: string(i.CA)}
	var text string
	if json.Unmarshal(i.CA, &text) == nil {
		f.CA = text
	}
	for _, ref := range i.References {
		f.References = append(f.References, path.Base(ref))
	}
	slices.Sort(f.References)
	return f
}

// plainHash is a hash in hexadecimal, however it was written.
func plainHash(t *testing.T, data json.RawMessage) string {
	t.Helper()
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if encoded, ok := strings.CutPrefix(text, "sha256-"); ok {
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(sum)
	}
	sum, err := storepath.DecodeBase32(strings.TrimPrefix(text, "sha256:"), 32)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return hex.EncodeToString(sum)
}

// oddities makes paths on the operator's machine that a store has beside what is built: content-addressed ones of every kind, derivations, odd names.
func oddities(p *project, salt string) []storepath.Path {
	p.t.Helper()
	out := p.sh(`cd "$1"
mkdir -p tree/empty 'tree/trailing  ' tree/deep/deep/deep
echo ` + salt + ` >file
echo ` + salt + ` >"tree/$(printf 'a\nb\xff')"
echo executable >tree/deep/deep/deep/run
chmod +x tree/deep/deep/deep/run
: >tree/nothing
: >'tree/a~nix~case~hack~1'
ln -sf "$(printf '%04095d' 7)" tree/long
ln -sfn . tree/dot
nix-store --add tree
nix-store --add file
nix-store --add-fixed sha256 file
nix-store --add-fixed --recursive sha1 tree
nix-store --add-fixed sha512 file
text=$(nix-instantiate --eval --read-write-mode --expr 'builtins.toFile "text" "text of ` + salt + `"' | tr -d '"')
echo "$text"
nix-instantiate --eval --read-write-mode --expr "builtins.toFile \"referring\" \"\${builtins.storePath $text} and ` + salt + `\"" | tr -d '"'
nix-instantiate --expr 'derivation { name = "made"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo ` + salt + ` >$out" ]; }' 2>/dev/null
`)
	var all []storepath.Path
	for _, line := range strings.Fields(out) {
		odd, err := storepath.Parse(line)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, odd)
	}
	if len(all) != 8 {
		p.t.Fatalf("made %d odd paths: %s", len(all), out)
	}
	return all
}

func TestWhatIsPushedIsTheSameForEveryNix(t *testing.T) {
	for number, suite := range []string{"bookworm", "trixie", "sid"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			h := boot(t, "nix-"+suite, lab.Spec{Address: fmt.Sprint(lab.Subnet, ".", 73+number), Suite: suite})
			p := newPusher(t, h)
			key, _ := signingKey(p.project, "versions-1")
			t.Log(on(t, h, "nix --version"))
			before := ""
			for _, salt := range []string{"fresh", "rebuilt"} {
				m := newMade(salt + suite)
				odd := oddities(p.project, salt+suite)
				top := m.system(t, 60, 20_000, append(odd, m.add(t, "large-1.0", 20<<20))...)
				m.install(t, top)
				// Some have a signature, some two, most have none.
				p.sh(fmt.Sprintf("nix store sign --key-file %s %s %s %s", key, odd[0], m.infos[0].Path, m.infos[5].Path))
				if before != "" {
					p.runsNow(before)
				}
				began := time.Now()
				sent := p.push(top.String())
				t.Logf("%s: %d paths by %d bytes in %s", salt, sent.Paths, sent.WireBytes, time.Since(began).Round(time.Millisecond))
				want, got := pathFacts(t, p.operator.Host, top.String()), pathFacts(t, h, top.String())
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: the host's Nix says something else: %s", salt, diff)
				}
				checkKinds(t, want)
				before = top.String()
			}
			if out, err := h.Sh(t.Context(), "nix store verify --all --no-trust"); err != nil {
				t.Errorf("the store is damaged: %v\n%s", err, out)
			}
		})
	}
}

// checkKinds sees to it that the operator's Nix has told us of what is to be compared.
func checkKinds(t *testing.T, all map[string]facts) {
	t.Helper()
	kinds := map[string]int{}
	for _, f := range all {
		kind, _, _ := strings.Cut(f.CA, ":sha")
		kinds[kind]++
		if len(f.Signatures) > 0 {
			kinds["signed"]++
		}
	}
	for kind, want := range map[string]int{"fixed:r": 3, "fixed": 2, "text": 3, "signed": 3, "": 60} {
		if kinds[kind] < want {
			t.Errorf("%d paths of the kind %q, not %d", kinds[kind], kind, want)
		}
	}
}
