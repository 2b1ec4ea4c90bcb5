// Testbed boots real hosts on this machine: systemd, sshd, Nix, a network of their own. See package lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"fleet/checks/testbed/lab"
)

const usage = `usage: testbed [-lab NAME] [-repo DIR] VERB

  image [SUITE]                make the root file system (trixie)
  up HOST=ADDRESS ...          boot hosts, for example web-1=10.77.0.11
  down [HOST ...]              end hosts; without names, all of them and their network
  list                         hosts, their addresses and states
  exec HOST COMMAND ...        run a command on a host as root
  reboot HOST                  reboot a host and wait for it
  limit HOST RATE              bound a host's link, for example to 100mbit; "" lifts it
  cut HOST | mend HOST         take a host's link away, give it back
  demo                         deploy examples/cluster to three fresh hosts
  key                          print the path of the lab's SSH key
`

func main() {
	if lab.Supervise() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("testbed", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	labName := flags.String("lab", "demo", "")
	repo := flags.String("repo", ".", "")
	suite := flags.String("suite", "trixie", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return errors.New("no verb")
	}
	verb, rest := flags.Arg(0), flags.Args()[1:]
	if verb == "image" {
		_, err := lab.EnsureImage(ctx, lab.StateDir(), slices.Concat(rest, []string{*suite})[0], say)
		return err
	}
	l, err := lab.Open(*labName, *repo)
	if err != nil {
		return err
	}
	switch verb {
	case "up":
		return up(ctx, l, *suite, rest)
	case "down":
		return down(ctx, l, rest)
	case "list":
		return list(l)
	case "demo":
		return demo(ctx, l)
	case "key":
		fmt.Println(l.Key())
		return nil
	}
	if len(rest) == 0 {
		return fmt.Errorf("%s: which host?", verb)
	}
	host, err := l.Host(rest[0])
	if err != nil {
		return err
	}
	return onHost(ctx, host, verb, rest[1:])
}

func say(line string) { fmt.Fprintln(os.Stderr, "testbed:", line) }
