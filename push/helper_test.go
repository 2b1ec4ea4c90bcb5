package push

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/pflag"

	"fleet/push/agent"
	"fleet/secretsgen/step"
)

func goarch() string { return runtime.GOARCH }

// helperMain is what the shipped binary does on a host: the part of package agent that a session needs.
func helperMain(args []string) int {
	if err := helper(context.Background(), args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func helper(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("fleet-helper", pflag.ContinueOnError)
	owner := flags.Int("owner", 0, "")
	dir := flags.String("dir", "", "")
	socket := flags.String("socket", "", "")
	txn := flags.String("txn", "", "")
	guard := flags.String("guard", "", "")
	number := flags.Int("number", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	host, err := agent.NewHost()
	if err != nil {
		return err
	}
	switch verb := flags.Args(); {
	case len(verb) == 2 && verb[1] == "start":
		ready, err := agent.Start(ctx, host, agent.StartOptions{Owner: *owner})
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(ready)
	case len(verb) == 2 && verb[1] == "serve":
		return agent.Serve(ctx, host, *dir)
	case len(verb) == 1 && verb[0] == "attach" && *guard != "":
		return agent.AttachGuard(ctx, host, *guard, os.Stdin, os.Stdout)
	case len(verb) == 1 && verb[0] == "attach":
		return agent.Attach(ctx, *socket, os.Stdin, os.Stdout)
	case len(verb) == 1 && verb[0] == step.ChildCommand:
		return step.Child(ctx, os.Stdin, os.Stdout)
	case len(verb) == 1 && verb[0] == "activate":
		return agent.RunDry(ctx, host, *txn)
	case len(verb) == 1 && verb[0] == "guard":
		return agent.RunGuard(ctx, host, *txn)
	case len(verb) == 1 && verb[0] == "guard-worker":
		return agent.RunGuardWorker(ctx, host, *txn, *number)
	}
	return fmt.Errorf("unknown command %q", args)
}
