package agent

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

// TestSystemdGuardCosts measures what the guard adds to the two runs of switch-to-configuration of an undisturbed switch, where nothing has to settle: from the
// request to its end, pre-flight and a confirmation included.
func TestSystemdGuardCosts(t *testing.T) {
	host := systemdHost(t)
	client, _ := connect(t, host)
	a := &activation{t, host, client}
	systems := []string{toplevel(t, host, "one"), toplevel(t, host, "two")}
	a.do(proto.ActionSwitch, systems[0])
	var best time.Duration
	for i := range 5 {
		target := systems[(i+1)%2]
		begun := time.Now()
		txn, err := a.begin(proto.ActionSwitch, target)
		if err != nil {
			t.Fatal(err)
		}
		asked := time.Since(begun)
		if st, _, _ := a.follow(txn, 0); st.State != proto.TxnCommitted {
			t.Fatalf("%+v", st)
		}
		took := time.Since(begun)
		var alone time.Duration
		for _, verb := range []guard.Verb{guard.VerbTest, guard.VerbBoot} {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			host.runSwitch(t.Context(), program{System: target, Verb: verb}, newSwitchWriter(null, 0))
			alone += time.Since(begun)
			null.Close()
		}
		t.Logf("%s, of which the request took %s; the programs alone %s", took, asked, alone)
		if best == 0 || took-alone < best {
			best = took - alone
		}
	}
	t.Logf("the guard costs %s", best)
	if load := read(t, "/proc/loadavg"); best > 500*time.Millisecond {
		if first, err := strconv.ParseFloat(strings.Fields(load)[0], 64); err == nil && int(first) > 2*runtime.NumCPU() {
			t.Logf("on a machine that has much else to do: %s", load) // no skip: that is what a host without systemd looks like
			return
		}
		t.Errorf("the guard costs %s", best)
	}
}
