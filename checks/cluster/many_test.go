//go:build cluster && bench

package cluster

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"fleet/checks/testbed/lab"
)

// TestSixteenHosts is a measurement, and left out of the other tests: it needs the machine for itself. `make bench` runs it.
func TestSixteenHosts(t *testing.T) {
	hosts := make([]*lab.Host, 16)
	specs := map[string]hostSpec{}
	var group errgroup.Group
	group.SetLimit(4)
	for i := range hosts {
		name, address := fmt.Sprintf("many-%d", i), fmt.Sprintf("%s.%d", lab.Subnet, 100+i)
		specs[name] = hostSpec{Content: "one of many", Deploy: map[string]any{"address": address}}
		group.Go(func() (err error) {
			hosts[i], err = shared.lab.Up(t.Context(), name, lab.Spec{Address: address}, func(string) {})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		t.Cleanup(func() { remove(t, h) })
		know(t, h.Spec.Address+" "+hostKey(t, h, "ed25519"))
	}
	p := newProject(t, specs)
	first := p.deploy("switch", "--json").want(0)
	t.Logf("the first deployment took %s", first.took)
	changesNothing(t, p, hosts)
}
