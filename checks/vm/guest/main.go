//go:build vm

// Guest runs inside of a virtual machine of these tests, and does to its boot loader what a guard does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"fleet/push/agent"
	"fleet/push/guard"
	"fleet/push/proto"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	host, err := agent.NewHost()
	if err != nil {
		return err
	}
	loader := host.Loader()
	if len(args) < 1 {
		return errors.New("guest can-stage | stage NEW | unstage NEW | show | preflight NEW | begin ACTION NEW [SECONDS] | settled TXN")
	}
	old := loader.Default().Toplevel.String()
	switch args[0] {
	case "can-stage":
		return loader.CanStage()
	case "stage":
		return loader.Stage(context.Background(), agent.Staging{Old: old, New: args[1], Switch: boot})
	case "unstage":
		return loader.Unstage(context.Background(), agent.Staging{Old: old, New: args[1], Switch: boot})
	case "preflight":
		for _, f := range loader.Preflight(old, args[1]) {
			fmt.Printf("%s: %s (%s)\n", f.Check, f.Message, f.Remedy)
		}
		return nil
	case "begin":
		host.Helper = "/bin/fleet-helper"
		// Somebody has to confirm within that time, and nobody will.
		wait := 2
		if len(args) > 3 {
			if wait, err = strconv.Atoi(args[3]); err != nil {
				return err
			}
		}
		txn, err := agent.BeginUnguarded(context.Background(), host, proto.BeginRequest{
			Action: proto.Action(args[1]), Toplevel: args[2], Owner: "check",
			Guard: &proto.GuardPolicy{SelfConfirm: len(args) < 4, ConfirmSeconds: wait, BootConfirmSeconds: wait, Reboot: "always"},
		})
		if err != nil {
			return err
		}
		fmt.Println(txn)
		return nil
	case "settled":
		return settled(host, args[1])
	case "show":
		next, err := loader.OneShot()
		fmt.Printf("default %s\nnext %s %v\n", filepath.Base(old), filepath.Base(next), err)
		return loader.Verify(old)
	}
	return fmt.Errorf("%q is no command", args[0])
}

func boot(ctx context.Context, toplevel string) error {
	cmd := exec.CommandContext(ctx, toplevel+"/bin/switch-to-configuration", "boot")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// settled prints the ending of a transaction, and is an error unless the host is wholly old or wholly new.
func settled(host *agent.Host, txn string) error {
	state, have, err := agent.StateOf(host, txn)
	if err != nil {
		return err
	}
	want := state.Old.BootDefault
	switch state.Phase {
	case guard.Committed:
		want = state.New
	case guard.RolledBack:
	default:
		return fmt.Errorf("transaction %s is %q: %s; %s", txn, state.Phase, state.Reason, state.Trouble)
	}
	next, err := host.Loader().OneShot()
	if err != nil {
		return err
	}
	if have.Current != want || have.Profile != want || have.BootDefault != want || next != "" {
		return fmt.Errorf("transaction %s is %q, but the host runs %s, its profile is %s, it boots %s, and next %q", txn, state.Phase, have.Current, have.Profile, have.BootDefault, next)
	}
	if err := host.Loader().Verify(want); err != nil {
		return err
	}
	fmt.Println(state.Phase, filepath.Base(want), state.Reason)
	return nil
}
