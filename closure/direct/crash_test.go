//go:build linux

package direct

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"fleet/closure/run"
)

// importChild makes this binary import the paths of [many] with the seed that it holds.
const importChild = "FLEET_DIRECT_CHILD"

const crashPaths = 300

func childMain(seed string) error {
	number, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	t := &testing.B{}
	im := New(context.Background(), Options{})
	for _, it := range many(t, number, crashPaths) {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			return err
		}
	}
	return errors.Join(im.Wait(), im.Close())
}

func TestAKilledImportIsMadeGoodByTheNextOne(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	items := many(t, 9, crashPaths)
	rounds, finished := 0, false
	for after := 20 * time.Millisecond; !finished && rounds < 40; after += 35 * time.Millisecond {
		rounds++
		machineStore(t, "")
		ctx, cancel := context.WithTimeout(t.Context(), after)
		err := run.Run(ctx, run.Cmd{Argv: []string{"/bin/sh", "-c", `"$0" & child=$!; trap 'kill -9 $child' TERM; wait $child`, self}, Env: []string{importChild + "=9"}})
		finished = err == nil
		cancel()
		left := len(locksLeft(t))
		if rounds%2 == 0 {
			err = importAll(t.Context(), Options{}, items)
		} else {
			err = nil
			importWithDaemon(t, items)
		}
		if err != nil {
			t.Fatalf("after %v, with %d locks left: %v", after, left, err)
		}
		snapshot(t, items)
		verify(t)
	}
	t.Logf("killed %d times", rounds)
}
