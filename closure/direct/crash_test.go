//go:build linux

package direct

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/run"
)

// importChild makes this binary import the paths of [many] with the seed that it holds.
const importChild = "FLEET_DIRECT_CHILD"

// importProgram is what it uses as nix-store.
const importProgram = "FLEET_DIRECT_PROGRAM"

const crashPaths = 900

func childMain(seed string) error {
	number, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	im := New(context.Background(), Options{Program: os.Getenv(importProgram)})
	for _, it := range many(&testing.B{}, number, crashPaths) {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			return err
		}
	}
	return errors.Join(im.Wait(), im.Close())
}

func startChild(t *testing.T, program string) *run.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process, err := run.Start(t.Context(), run.Cmd{Argv: []string{self}, Env: []string{importChild + "=9", importProgram + "=" + program}})
	if err != nil {
		t.Fatal(err)
	}
	return process
}

func kill(t *testing.T, process *run.Process) {
	t.Helper()
	if err := unix.Kill(process.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
}

// killedAfter imports in another process, and kills it. It returns whether the process had ended by then.
func killedAfter(t *testing.T, after time.Duration) (finished bool) {
	t.Helper()
	process := startChild(t, "")
	select {
	case <-process.Done():
	case <-time.After(after):
		kill(t, process)
	}
	return process.Wait() == nil
}

func TestAKilledImportIsMadeGoodByTheNextOne(t *testing.T) {
	items := many(t, 9, crashPaths)
	step := 60 * time.Millisecond
	if testing.Short() {
		step *= 4
	}
	rounds, partly, finished := 0, 0, false
	for after := 20 * time.Millisecond; !finished && rounds < 60; after += step {
		rounds++
		machineStore(t, "")
		finished = killedAfter(t, after)
		if left := len(locksLeft(t)); left > 0 {
			partly++
		}
		if rounds%2 == 0 {
			if err := importAll(t.Context(), Options{}, items); err != nil {
				t.Fatalf("after %v: %v", after, err)
			}
		} else {
			importWithDaemon(t, items)
		}
		snapshot(t, items)
		verify(t)
	}
	t.Logf("%d imports were killed, %d of them with locks", rounds, partly)
}

func TestARegistrationOutlivesItsImporterWithTheLocks(t *testing.T) {
	items := many(t, 9, crashPaths)
	for name, load := range map[string]func(*testing.T, []item){
		"the daemon comes next": func(t *testing.T, items []item) { importWithDaemon(t, items) },
		"an importer comes next": func(t *testing.T, items []item) {
			if err := importAll(t.Context(), Options{}, items); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			machineStore(t, "")
			begun, ended := filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "ended")
			program := registrar(t, "touch "+begun+"; sleep 0.3; $real \"$@\"; touch "+ended+"\n")
			process := startChild(t, program)
			waitFor(t, begun)
			kill(t, process)
			load(t, items)
			if _, err := os.Lstat(ended); err != nil {
				t.Error("paths were taken from a registration that was under way:", err)
			}
			snapshot(t, items)
			verify(t)
		})
	}
}

func TestGarbageCollectionRemovesWhatAKilledImportLeaves(t *testing.T) {
	for _, registrations := range []int{1, 2} {
		machineStore(t, "")
		begun := filepath.Join(t.TempDir(), "begun")
		process := startChild(t, registrar(t, "[ -e "+begun+"1 ] && touch "+begun+"2; touch "+begun+"1; $real \"$@\"\n"))
		waitFor(t, begun+strconv.Itoa(registrations))
		kill(t, process)
		verify(t)
		nix(t, "--gc")
		if left, _ := filepath.Glob("/nix/store/[0-9a-z]*"); len(left) > 0 {
			t.Error("left:", left)
		}
	}
}

func waitFor(t *testing.T, file string) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(file); err == nil {
			return
		}
		if time.Since(start) > 30*time.Second {
			t.Fatal("waited in vain for ", file)
		}
	}
}
