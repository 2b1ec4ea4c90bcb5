//go:build cluster && bench

package cluster

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/checks/section"
	"fleet/checks/testbed/lab"
)

var (
	benchRuns   = flag.Int("bench.runs", 3, "how often each cell is measured")
	benchWays   = flag.String("bench.ways", "", "measures the ways whose names have this")
	benchCases  = flag.String("bench.cases", "", "measures the cases whose names have this")
	benchLinks  = flag.String("bench.links", ",100mbit", "the links, as tc says a rate; an empty one is not limited")
	benchUpdate = flag.Bool("bench.update", false, "write the table into docs/benchmarks.md")
)

// closureExpression makes a closure of real programs, in which store paths of others are planted, and of many tiny paths. Another salt is a mass rebuild:
// the same contents, and other hashes.
const closureExpression = `
{ salt, tiny }:
let
  count = 40;
  make = name: refs: script: derivation {
    inherit name salt refs;
    system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-ec" script ]; PATH = "/usr/bin:/bin";
  };
  range = n: builtins.genList (i: i) n;
  # Every count-th of the programs and libraries, with the references in the middle of each.
  package = i: make "package-${toString i}-1.2" (if i < 2 then [ ] else [ (at (i - 1)) (at (i / 2)) ]) ''
    mkdir -p $out/bin
    find /usr/bin /usr/lib -xdev -type f -size -9000k | sort | awk "NR % ${toString count} == ${toString i}" | while read -r file; do
      half=$(($(stat -c %s "$file") / 2))
      { head -c $half "$file"; echo $out $refs; tail -c +$((half + 1)) "$file"; } >$out/bin/$(basename "$file")
    done'';
  packages = map package (range count);
  at = builtins.elemAt packages;
  small = i: make "unit-${toString i}.service" [ (at (builtins.bitAnd i 31)) (at (builtins.bitAnd i 7)) ] ''
    mkdir $out; printf '[Service]\nExecStart=%s\n' $refs $out "something of number ${toString i}" >$out/unit'';
in
make "system-1.0" (packages ++ map small (range tiny)) "echo $refs >$out"
`

// pushBench measures ways to bring a closure to a host.
type pushBench struct {
	*project
	t *testing.T
	// plan is the text of a plan of the host, with the system in the place of @TOP@.
	plan string
	host string
	// nar is the size of the closure, in bytes.
	nar map[string]uint64
	// empty is a system with nothing in it.
	empty string
}

const (
	benchAddress = lab.Subnet + ".170"
	toHost       = "root@" + benchAddress
)

// way is a way to bring the closure of top to the host.
type way struct{ name, script string }

// ways are those that are compared; "fleet" is ours.
func (b *pushBench) ways() []way {
	closure := "$(nix-store --query --requisites $top)"
	return []way{
		{"fleet", "cd /root/bench && " + helper + " deploy push --plan plan-$top_name.json --yes"},
		{"nix copy, ssh-ng", "nix copy --no-check-sigs --to ssh-ng://" + toHost + " $top"},
		{"nix copy, ssh-ng, compressed", "nix copy --no-check-sigs --to 'ssh-ng://" + toHost + "?compress=true' $top"},
		{"export, zstd -3, import", "nix-store --export " + closure + " | zstd -3 -T0 -q | ssh " + toHost + " 'zstd -d -q | nix-store --import >/dev/null'"},
	}
}

func TestPushes(t *testing.T) {
	b := &pushBench{t: t, host: "pushed", nar: map[string]uint64{}}
	h := b.fresh()
	b.project = newProject(t, map[string]hostSpec{b.host: {Content: "bench", Deploy: map[string]any{"address": benchAddress}}})
	b.sh("rm -rf /root/bench; mkdir -p /root/bench; cat >/root/bench/closure.nix <<'EOF'\n" + closureExpression + "\nEOF")
	b.empty = b.plant(strings.TrimSpace(b.sh("echo nothing >/root/bench/empty.nix && nix-store --add /root/bench/empty.nix")))
	tops := map[string]string{}
	for _, salt := range []string{"1", "2"} {
		tops[salt] = b.plant(b.build(salt))
	}
	b.remove(h)
	table := "| case | link | way | seconds: median (least–most) | MiB on the wire | of the NARs |\n|---|---|---|---|---|---|\n"
	for _, link := range strings.Split(*benchLinks, ",") {
		for _, c := range []struct{ name, before, top string }{{"fresh", "", tops["1"]}, {"rebuilt", tops["1"], tops["2"]}, {"nothing new", tops["1"], tops["1"]}} {
			if !strings.Contains(c.name, *benchCases) {
				continue
			}
			table += b.cell(c.name, link, c.before, c.top)
		}
	}
	fmt.Fprintln(os.Stderr, table)
	if *benchUpdate {
		if err := section.Replace("../../docs/benchmarks.md", "pushes", table); err != nil {
			t.Error(err)
		}
	}
}

// build makes a closure.
func (b *pushBench) build(salt string) string {
	b.t.Helper()
	return strings.TrimSpace(b.sh("nix-build -j 4 --no-out-link /root/bench/closure.nix --argstr salt " + salt + " --arg tiny 1500 2>/root/bench/log || { tail -n 5 /root/bench/log >&2; exit 1; }"))
}

// plant makes the plan of a system, and looks how large it is.
func (b *pushBench) plant(top string) string {
	b.t.Helper()
	system := b.toplevel(b.host)
	b.sh(`cd "$1" && ` + helper + ` plan --json --with-records | sed "s|` + system + `|` + top + `|g" >/root/bench/plan-$(basename ` + top + `).json`)
	size := b.sh("nix path-info --closure-size " + top + " | awk '{ print $2 }'")
	b.nar[top], _ = strconv.ParseUint(strings.TrimSpace(size), 10, 64)
	return top
}

// fresh boots a host with an empty store.
func (b *pushBench) fresh() *lab.Host {
	b.t.Helper()
	h, err := shared.lab.Up(b.t.Context(), b.host, lab.Spec{Address: benchAddress}, func(string) {})
	if err != nil {
		b.t.Fatal(err)
	}
	know(b.t, benchAddress+" "+hostKey(b.t, h, "ed25519"))
	return h
}

func (b *pushBench) remove(h *lab.Host) {
	b.t.Helper()
	remove(b.t, h)
}

// cell measures all ways, one after the other and again.
func (b *pushBench) cell(name, link, before, top string) string {
	b.t.Helper()
	took, wire := map[string][]float64{}, map[string][]float64{}
	for range *benchRuns {
		for _, w := range b.ways() {
			if !strings.Contains(w.name, *benchWays) {
				continue
			}
			seconds, bytes := b.measure(w, link, before, top)
			took[w.name], wire[w.name] = append(took[w.name], seconds), append(wire[w.name], bytes)
		}
	}
	rows := ""
	for _, w := range b.ways() {
		if took[w.name] == nil {
			continue
		}
		seconds, bytes := took[w.name], wire[w.name]
		slices.Sort(seconds)
		slices.Sort(bytes)
		rows += fmt.Sprintf("| %s | %s | %s | %.2f (%.2f–%.2f) | %.2f | %.2f %% |\n", name, linkName(link), w.name, seconds[len(seconds)/2], seconds[0], seconds[len(seconds)-1],
			bytes[len(bytes)/2]/(1<<20), 100*bytes[len(bytes)/2]/float64(b.nar[top]))
	}
	fmt.Fprint(os.Stderr, rows)
	return rows
}

func linkName(link string) string {
	if link == "" {
		return "unlimited"
	}
	return link
}

// measure brings a closure to a fresh host that has another one already, and returns the seconds that it took and the bytes of the interface.
func (b *pushBench) measure(w way, link, before, top string) (seconds, bytes float64) {
	b.t.Helper()
	h := b.fresh()
	defer b.remove(h)
	b.sh("find /root/bench -mindepth 1 ! -name '*.nix' ! -name 'plan*' -delete") // the pin of the host that was there before
	run := func(script, top string) {
		b.sh(fmt.Sprintf("top=%s; top_name=$(basename $top); %s >/root/bench/out 2>&1 || { tail -n 20 /root/bench/out >&2; exit 1; }", top, script))
	}
	// The helper is there from the first deployment on, as ssh and Nix are.
	run(b.ways()[0].script, cmp.Or(before, b.empty))
	if before != "" {
		on(b.t, h, "ln -sfn "+before+" /run/current-system")
	}
	if link != "" {
		if err := h.Limit(b.t.Context(), link); err != nil {
			b.t.Fatal(err)
		}
	}
	counters := func() float64 {
		var sum float64
		for _, text := range strings.Fields(on(b.t, h, "for link in /sys/class/net/*; do [ ${link##*/} = lo ] || cat $link/statistics/[rt]x_bytes; done")) {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				b.t.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	on(b.t, h, "sync")
	bytes = -counters()
	begun := time.Now()
	run(w.script, top)
	seconds = time.Since(begun).Seconds()
	bytes += counters()
	if w.name == "fleet" {
		b.t.Log(b.sh("grep -E '^(HOST|pushed )' /root/bench/out"))
	}
	if !valid(b.t, h, top) {
		b.t.Errorf("%s: not all is there", w.name)
	}
	return seconds, bytes
}
