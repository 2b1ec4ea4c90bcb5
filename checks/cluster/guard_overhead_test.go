//go:build cluster

package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"fleet/checks/section"
)

// overheadGoal is what the guard may take on top of what plain tools do.
const overheadGoal = 500 * time.Millisecond

// TestGuardsOwnTime measures, so it runs alone: an undisturbed switch with a guard, and what plain tools run for the same.
func TestGuardsOwnTime(t *testing.T) {
	f := &field{t: t, host: shared.hosts["alpha"]}
	guard := quick()
	guard["settle"] = 0
	specs := make([]hostSpec, 2)
	var systems []string
	for n := range specs {
		specs[n] = hostSpec{Content: fmt.Sprintf("measured %d", n), Deploy: map[string]any{"address": f.host.Spec.Address, "guard": guard}}
	}
	p := newProject(t, map[string]hostSpec{f.host.Name: specs[0]})
	f.project = p
	for _, spec := range specs {
		p.write(map[string]hostSpec{f.host.Name: spec})
		p.deploy("switch").want(0)
		systems = append(systems, runs(t, f.host))
	}
	const rounds = 5
	var plain, whole, waited []time.Duration
	for n := range rounds {
		plain = append(plain, f.plainSwitch(systems[n%2]), f.plainSwitch(systems[(n+1)%2]))
		p.write(map[string]hostSpec{f.host.Name: specs[n%2]})
		l := lookOut(t, f.host)
		p.deploy("switch").want(0)
		l.awaitEnd(trialPatience)
		l.close()
		confirming := l.firstAt(committing).Sub(l.firstAt(awaitConfirm))
		waited = append(waited, confirming)
		whole = append(whole, l.firstAt(committed).Sub(l.firstAt(prepared, switching))-confirming)
	}
	// What other work on the machine adds is no part of either: the least counts.
	own := slices.Min(whole) - slices.Min(plain)
	table := fmt.Sprintf("| plain `test`, profile and `boot` | the same with a guard, without the wait for the confirmation | guard's own time | wait for the confirmation |\n|---|---|---|---|\n| %.2f s | %.2f s | **%.2f s** | %.2f s |\n",
		slices.Min(plain).Seconds(), slices.Min(whole).Seconds(), own.Seconds(), slices.Min(waited).Seconds())
	t.Logf("least of %d runs:\n%s", rounds, table)
	if own > overheadGoal {
		t.Errorf("the guard's own time is %s, want at most %s", own, overheadGoal)
	}
	if *updateReliability {
		if err := section.Replace(reliability, "overhead", table); err != nil {
			t.Error(err)
		}
	}
}

// plainSwitch does by hand what a guarded switch comes to, and measures it on the host.
func (f *field) plainSwitch(system string) time.Duration {
	f.t.Helper()
	text := on(f.t, f.host, `begin=$(date +%s%N)
{ `+system+`/bin/switch-to-configuration test; nix-env --profile /nix/var/nix/profiles/system --set `+system+`; `+system+`/bin/switch-to-configuration boot; } >/dev/null 2>&1
echo $(($(date +%s%N) - begin))`)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.t.Fatal(err)
	}
	return time.Duration(n)
}
