package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/checks/testbed/lab"
)

// demoHosts are the hosts of examples/cluster, at the addresses that it gives them.
var demoHosts = [...][2]string{
	{"controlplane-1", lab.Subnet + ".11"},
	{"worker-1", lab.Subnet + ".12"},
	{"worker-2", lab.Subnet + ".13"},
}

const (
	demoOperator = "operator"
	demoProject  = "/root/cluster"
)

// demo deploys examples/cluster to three fresh hosts, as its owner would. If it does not get to its end, nothing of it stays.
func demo(ctx context.Context, l *lab.Lab) (err error) {
	defer func() {
		if err != nil {
			say("removing the hosts again")
			err = errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
	}()
	start := time.Now()
	operator, err := demoMachines(ctx, l)
	if err != nil {
		return err
	}
	say("copying examples/cluster to the operator's machine and locking its inputs")
	if err := operator.Project(ctx, "examples/cluster", demoProject); err != nil {
		return err
	}
	for _, command := range []string{"nix run .#deploy -- switch --yes", "nix run .#fleet -- status"} {
		if err := show(ctx, operator, command); err != nil {
			return err
		}
	}
	say(fmt.Sprintf("done in %s", time.Since(start).Round(time.Second)))
	fmt.Fprint(os.Stderr, lookAround)
	return nil
}

const lookAround = `
Look around:
  bin/testbed exec operator -- bash -c 'cd ` + demoProject + ` && exec bash'   the operator's machine, in the example's flake
  bin/testbed exec worker-1 -- bash                          a host
  bin/testbed reboot worker-1                                it comes back with what was deployed
Then, on the operator's machine: change something and run  nix run .#deploy -- --on '@worker'
Tear down:
  make demo-down
`

// demoMachines boots the operator's machine and the hosts beside each other.
func demoMachines(ctx context.Context, l *lab.Lab) (*lab.Operator, error) {
	if _, err := lab.EnsureImage(ctx, lab.StateDir(), "trixie", say); err != nil {
		return nil, err
	}
	say("removing what an earlier demo left")
	if err := l.Down(ctx); err != nil {
		return nil, err
	}
	if err := l.Prepare(ctx); err != nil {
		return nil, err
	}
	var operator *lab.Operator
	hosts := make([]*lab.Host, len(demoHosts))
	var group errgroup.Group
	for i, host := range demoHosts {
		group.Go(func() (err error) {
			hosts[i], err = l.Up(ctx, host[0], lab.Spec{Address: host[1]}, say)
			return err
		})
	}
	group.Go(func() (err error) {
		operator, err = l.UpOperator(ctx, demoOperator, lab.Spec{Address: lab.Subnet + ".2"}, say)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	say("three hosts and an operator's machine are up")
	return operator, operator.Trust(ctx, hosts...)
}

// show runs a command in the example's folder, as somebody at the operator's keyboard would.
func show(ctx context.Context, operator *lab.Operator, command string) error {
	fmt.Fprintln(os.Stderr, "\n$ "+command)
	cmd, err := operator.Command(ctx, "bash", "-c", `cd "$1" && shift && exec "$@"`, "bash", demoProject)
	if err != nil {
		return err
	}
	cmd.Args = append(cmd.Args, strings.Fields(command)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}
