//go:build vm

// Guest runs inside of a virtual machine of these tests, and does to its boot loader what a guard does.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"fleet/push/agent"
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
		return fmt.Errorf("guest can-stage | stage NEW | unstage NEW | show | preflight NEW")
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
