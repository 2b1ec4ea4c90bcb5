//go:build linux

package direct

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet/closure/daemon"
	"fleet/closure/run"
)

func TestTwoImportersAndTheDaemonWantTheSame(t *testing.T) {
	items := many(t, 1, 300)
	for name, listens := range map[string]bool{"with daemons of their own": false, "with the machine's daemon": true} {
		t.Run(name, func(t *testing.T) {
			machineStore(t, "")
			if listens {
				startDaemon(t)
			}
			var group sync.WaitGroup
			errs := make([]error, 2)
			for i := range errs {
				group.Go(func() { errs[i] = importAll(t.Context(), Options{Memory: int64(i) * 200_000}, items) })
			}
			importWithDaemon(t, items)
			group.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			if left := locksLeft(t); len(left) > 0 {
				t.Error("locks are left:", left)
			}
			snapshot(t, items)
			verify(t)
		})
	}
}

// startDaemon starts the machine's daemon, which runs until the test ends.
func startDaemon(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	process, err := run.Start(ctx, run.Cmd{Argv: []string{"nix-daemon"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = process.Wait()
	})
	waitFor(t, daemon.DefaultSocket())
}

func TestGarbageIsCollectedMeanwhile(t *testing.T) {
	items := many(t, 2, 400)
	machineStore(t, "")
	stop, collected := make(chan struct{}), make(chan int)
	go func() {
		rounds := 0
		for {
			select {
			case <-stop:
				collected <- rounds
				return
			default:
			}
			if err := run.Run(t.Context(), run.Cmd{Argv: []string{"nix-store", "--gc"}}); err != nil {
				t.Error(err)
			}
			rounds++
		}
	}()
	im := New(t.Context(), Options{})
	defer im.Close()
	for i, it := range items {
		if err := im.Import(it.info, bytes.NewReader(it.nar)); err != nil {
			t.Fatal(i, err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := im.Wait(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if rounds := <-collected; rounds < 2 {
		t.Errorf("garbage was collected %d times", rounds)
	}
	snapshot(t, items)
	verify(t)
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	nix(t, "--gc")
	if _, err := os.Lstat(items[0].info.Path.String()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the protection outlived the importer:", err)
	}
}

func TestALockIsWaitedForWithinABound(t *testing.T) {
	items := shapes(t)
	machineStore(t, "")
	dir, err := openFolder("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	lock, err := lockPath(t.Context(), dir, items[0].info.Path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if err := importAll(t.Context(), Options{LockTimeout: 50 * time.Millisecond}, items); !errors.As(err, &locked) {
		t.Error(err)
	}
	time.AfterFunc(100*time.Millisecond, lock.release)
	if err := importAll(t.Context(), Options{}, items); err != nil {
		t.Error(err)
	}
	verify(t)
}

func TestImportersWithOtherOrdersDoNotWaitForOneAnother(t *testing.T) {
	items := many(t, 5, 2*maxHeld)
	machineStore(t, "")
	var group sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		group.Go(func() {
			errs[i] = importAll(t.Context(), Options{Memory: int64(i) * 300_000, LockTimeout: time.Minute}, reordered(items, uint64(i)))
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if left := locksLeft(t); len(left) > 0 {
		t.Error("locks are left:", left)
	}
	snapshot(t, items)
	verify(t)
}

func TestMoreLocksThanMayBeHeld(t *testing.T) {
	items := many(t, 6, maxHeld+100)
	machineStore(t, "")
	// All refer to the first path, whose lock somebody else has for a while: nothing can be registered until then.
	for i := range items[1:] {
		items[i+1].info.References = sorted(append(items[i+1].info.References, items[0].info.Path))
	}
	dir, err := openFolder("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	lock, err := lockPath(t.Context(), dir, items[0].info.Path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- importAll(t.Context(), Options{}, items) }()
	for len(locksLeft(t)) < maxHeld {
		select {
		case err := <-result:
			t.Fatal("it has ended without the lock: ", err)
		case <-time.After(time.Millisecond):
		}
	}
	lock.release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	verify(t)
}
