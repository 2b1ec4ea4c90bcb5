//go:build cluster

// Package cluster deploys to real hosts of the testbed, as operators do, and breaks what can break.
package cluster

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/checks/testbed/lab"
)

// bed is what all tests share: one operator's machine, and hosts that each test takes as it finds them.
type bed struct {
	lab      *lab.Lab
	operator *lab.Operator
	hosts    map[string]*lab.Host
	// free are the standing hosts that no test uses; taking is held while a test takes some, so that two do not wait for each other.
	free    chan *lab.Host
	taking  sync.Mutex
	release func()
}

var shared bed

const baseProject = "/root/base"

// standing are the hosts that are up for all tests; a test that needs an odd one boots it itself.
var standing = map[string]lab.Spec{
	"alpha": {Address: lab.Subnet + ".11"},
	"beta":  {Address: lab.Subnet + ".12"},
	"gamma": {Address: lab.Subnet + ".13"},
	"delta": {Address: lab.Subnet + ".14"},
	"eta":   {Address: lab.Subnet + ".15"},
}

// parallelTests is how many tests run at a time. They mostly wait, for hosts and for the time that a fault takes.
const parallelTests = "4"

func TestMain(m *testing.M) {
	if lab.Supervise() {
		return
	}
	flag.Parse()
	if !given("test.parallel") {
		if err := flag.Set("test.parallel", parallelTests); err != nil {
			panic(err)
		}
	}
	os.Exit(run(m))
}

func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	start := time.Now()
	if err := shared.up(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		if shared.release != nil {
			_ = shared.lab.Down(context.Background())
		}
		return 1
	}
	defer shared.release()
	fmt.Fprintf(os.Stderr, "cluster: %d hosts and an operator's machine are up after %s\n", len(standing), time.Since(start).Round(time.Second))
	code := m.Run()
	if err := results.report(os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	if err := shared.lab.Down(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return code
}

func (b *bed) up(ctx context.Context) error {
	say := func(line string) { fmt.Fprintln(os.Stderr, "cluster:", line) }
	if _, err := lab.EnsureImage(ctx, lab.StateDir(), "trixie", say); err != nil {
		return err
	}
	l, err := lab.Open(labName(), "../..")
	if err != nil {
		return err
	}
	b.lab = l
	if b.release, err = l.Claim(); err != nil {
		return err
	}
	l.RemoveOnInterrupt()               // for as long as the process lives
	if err := l.Down(ctx); err != nil { // what an earlier run left
		return err
	}
	if err := b.lab.Prepare(ctx); err != nil {
		return err
	}
	b.hosts = map[string]*lab.Host{}
	b.free = make(chan *lab.Host, len(standing))
	var group errgroup.Group
	made := make(chan *lab.Host, len(standing))
	for name, spec := range standing {
		group.Go(func() error {
			h, err := b.lab.Up(ctx, name, spec, say)
			made <- h
			return err
		})
	}
	group.Go(func() (err error) {
		b.operator, err = b.lab.UpOperator(ctx, "operator", lab.Spec{Address: lab.Subnet + ".2"}, say)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	var all []*lab.Host
	for range standing {
		h := <-made
		b.hosts[h.Name] = h
		b.free <- h
		all = append(all, h)
	}
	if err := b.operator.Trust(ctx, all...); err != nil {
		return err
	}
	return b.operator.Project(ctx, "checks/cluster/testdata/flake", baseProject)
}

// labName is the lab that the tests use: another one (FLEET_LAB) lets two runs go on beside each other.
func labName() string {
	if name := os.Getenv("FLEET_LAB"); name != "" {
		return name
	}
	return "check"
}
