package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"fleet/checks/bench/workload"
	"fleet/checks/testbed/lab"
)

// field is where runs take place: an operator's machine that has all closures, and targets whose file systems are kept in the states
// that scenarios begin with.
type field struct {
	lab      *lab.Lab
	operator *lab.Operator
	targets  []*lab.Host
	hostKeys map[string]string
	closures map[string]*workload.Closure
	// helper is the helper's store path.
	helper string
	// prime is a small store path that every target holds.
	prime string
	// suite is the Debian suite of all hosts, which decides their Nix.
	suite string
	say   func(string)
}

// up boots the machines that the cells need and brings them into their first states.
func (f *field) up(ctx context.Context, maker *workload.Maker, cells []cell) error {
	hosts := 1
	f.closures = map[string]*workload.Closure{}
	names := []string{workload.Base}
	for _, c := range cells {
		names = append(names, c.scenario.closure)
		hosts = max(hosts, c.scenario.hosts)
	}
	for _, name := range names {
		c, err := maker.Make(ctx, name)
		if err != nil {
			return err
		}
		f.closures[name] = c
	}
	if err := f.upOperator(ctx); err != nil {
		return err
	}
	return f.upTargets(ctx, hosts)
}

func (f *field) upOperator(ctx context.Context) error {
	if _, err := lab.EnsureImage(ctx, lab.StateDir(), f.suite, f.say); err != nil {
		return err
	}
	if err := f.lab.Prepare(ctx); err != nil {
		return err
	}
	var err error
	if f.operator, err = f.lab.UpOperator(ctx, "operator", lab.Spec{Address: lab.Subnet + ".2", Suite: f.suite}, f.say); err != nil {
		return err
	}
	out, err := f.operator.Sh(ctx, `mkdir -p /root/fleet-helper-bench && cp -r /src/helper/bin /root/fleet-helper-bench/ && nix-store --add /root/fleet-helper-bench
echo prime >/root/prime && nix-store --add /root/prime`)
	if err != nil {
		return err
	}
	f.helper, f.prime, _ = strings.Cut(strings.TrimSpace(out), "\n")
	for name, c := range f.closures {
		f.say("importing the closure " + name + " on the operator's machine")
		if err := importFile(ctx, f.operator.Host, c.File); err != nil {
			return err
		}
	}
	return nil
}

// importFile imports an export as root does, without the daemon.
func importFile(ctx context.Context, h *lab.Host, file string) error {
	cmd, err := h.Command(ctx, "sh", "-c", "nix-store --import >/dev/null")
	if err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %q on %s: %w: %s", file, h.Name, err, out)
	}
	return nil
}

// upTargets boots the targets and has fleet push a small path to each, so that its helper is there: it is sent once in a host's life.
func (f *field) upTargets(ctx context.Context, count int) error {
	f.targets = make([]*lab.Host, count)
	var group errgroup.Group
	group.SetLimit(4)
	for i := range f.targets {
		group.Go(func() (err error) {
			f.targets[i], err = f.lab.Up(ctx, fmt.Sprintf("target%d", i), lab.Spec{Address: fmt.Sprintf("%s.%d", lab.Subnet, 11+i), Suite: f.suite}, f.say)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	f.hostKeys = map[string]string{}
	for _, h := range f.targets {
		key, err := h.HostKey()
		if err != nil {
			return err
		}
		f.hostKeys[h.Name] = key
	}
	if err := f.operator.Trust(ctx, f.targets...); err != nil {
		return err
	}
	f.say("pushing the helper")
	argv, err := f.argv(ctx, fleet, f.prime, f.targets, false)
	if err != nil {
		return err
	}
	if _, err := f.operator.Exec(ctx, argv...); err != nil {
		return err
	}
	return f.saveStates(ctx)
}

// saveStates keeps the targets' file systems: as they are, and the first one's also with the base closure.
func (f *field) saveStates(ctx context.Context) error {
	for _, h := range f.targets {
		if err := h.Save(ctx, emptyStore); err != nil {
			return err
		}
	}
	first := f.targets[0]
	if err := first.Restore(ctx, emptyStore); err != nil {
		return err
	}
	base := f.closures[workload.Base]
	if err := importFile(ctx, first, base.File); err != nil {
		return err
	}
	if _, err := first.Sh(ctx, `mkdir -p /nix/var/nix/profiles && ln -sfn "$1" /nix/var/nix/profiles/system-1-link && ln -sfn system-1-link /nix/var/nix/profiles/system && ln -sfn "$1" /run/current-system`, base.Top); err != nil {
		return err
	}
	return first.Save(ctx, baseStore)
}

// restore boots the targets in a state.
func (f *field) restore(ctx context.Context, targets []*lab.Host, state string) error {
	var group errgroup.Group
	group.SetLimit(4)
	for _, h := range targets {
		group.Go(func() error { return h.Restore(ctx, state) })
	}
	if err := group.Wait(); err != nil || state != baseStore {
		return err
	}
	// What a host runs is said by a link in a file system that a boot empties.
	for _, h := range targets {
		if _, err := h.Exec(ctx, "ln", "-sfn", f.closures[workload.Base].Top, "/run/current-system"); err != nil {
			return err
		}
	}
	return nil
}
