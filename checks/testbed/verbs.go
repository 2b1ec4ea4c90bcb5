package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"fleet/checks/testbed/lab"
)

// up boots hosts beside each other.
func up(ctx context.Context, l *lab.Lab, suite string, args []string) error {
	if _, err := lab.EnsureImage(ctx, lab.StateDir(), suite, say); err != nil {
		return err
	}
	if err := l.Prepare(ctx); err != nil {
		return err
	}
	var group errgroup.Group
	for _, arg := range args {
		name, address, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("up %q: want HOST=ADDRESS", arg)
		}
		group.Go(func() error {
			_, err := l.Up(ctx, name, lab.Spec{Address: address, Suite: suite}, say)
			if err == nil {
				say(name + " is up at " + address)
			}
			return err
		})
	}
	return group.Wait()
}

func down(ctx context.Context, l *lab.Lab, names []string) error {
	if len(names) == 0 {
		return l.Down(ctx)
	}
	var errs []error
	for _, name := range names {
		host, err := l.Host(name)
		if err == nil {
			err = host.Remove(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func list(l *lab.Lab) error {
	hosts, err := l.Hosts()
	for _, host := range hosts {
		state := "down"
		if host.PID() != 0 {
			state = "up"
		}
		fmt.Printf("%s\t%s\t%s\n", host.Name, host.Spec.Address, state)
	}
	return err
}

// onHost does what concerns one running host.
func onHost(ctx context.Context, host *lab.Host, verb string, args []string) error {
	switch verb {
	case "exec":
		if len(args) > 0 && args[0] == "--" {
			args = args[1:]
		}
		cmd, err := host.Command(ctx, args...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	case "reboot":
		return host.Reboot(ctx)
	case "limit":
		return host.Limit(ctx, strings.Join(args, ""))
	case "cut", "mend":
		return host.Cut(ctx, verb == "cut")
	}
	return fmt.Errorf("unknown verb %q", verb)
}
