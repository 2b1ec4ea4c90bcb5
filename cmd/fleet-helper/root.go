package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/logging"
)

// defaultFleet is the name that a fleet has where nothing else is said.
const defaultFleet = "default"

// globals are the flags that stand before the command.
type globals struct {
	fleet     string
	appSource string
	logLevel  string
	logFormat string
	noColor   bool
}

// newRoot makes the whole tree, fresh for every run.
func newRoot() *cli.Command {
	g := &globals{}
	return &cli.Command{
		Name:    "fleet",
		Summary: "Deploy a fleet of NixOS hosts from its flake.",
		Help: `
The fleet is fleetConfigurations.NAME of the nearest flake.nix, or what --flake and --fleet name. In that flake the same program is
"nix run .#fleet -- COMMAND", and "nix run .#deploy -- …" is "fleet deploy …".

Results go to standard output, everything else to standard error. Passwords are asked for on the terminal itself.`,
		Flags: g.addFlags,
		Sub: append([]*cli.Command{
			newDeploy(g), newSecrets(g), newStatus(g), newHosts(g), newPlan(g), newAttach(g), newConfirm(g), newAbort(g), newVersion(),
			newAgent(g), newActivate(g), newJsonnetEval(), newGenerateStep(), newSecretsInstall(), newSecretsCheck(), newGh(), newEncrypt(), newEditValue(),
		}, newGuard(g)...),
	}
}

func (g *globals) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&g.fleet, "fleet", defaultFleet, "`NAME` of the fleet in the flake's fleetConfigurations")
	flags.StringVar(&g.appSource, "app-source", "", "store `PATH` of the flake that this program was started from; its apps set it")
	flags.StringVar(&g.logLevel, "log-level", "warn", "how much to log to standard error: `LEVEL` is one of "+strings.Join(logging.Levels(), ", "))
	flags.StringVar(&g.logFormat, "log-format", "text", "how to log: `FORMAT` is text or json")
	flags.BoolVar(&g.noColor, "no-color", false, "no colours; the environment variable NO_COLOR does the same")
	if err := flags.MarkHidden("app-source"); err != nil {
		panic(err) // the flag is defined above
	}
}

// validate checks what every command relies on.
func (g *globals) validate() error {
	if g.fleet == "" {
		return cli.Usagef("--fleet needs a name")
	}
	if !slices.Contains(logging.Levels(), g.logLevel) {
		return cli.Usagef("--log-level %q: want one of %s", g.logLevel, strings.Join(logging.Levels(), ", "))
	}
	if !slices.Contains(logging.Formats(), g.logFormat) {
		return cli.Usagef("--log-format %q: want one of %s", g.logFormat, strings.Join(logging.Formats(), ", "))
	}
	return nil
}

// attachCommand is how a person attaches to an activation from where this program was started.
func (g *globals) attachCommand() string {
	if g.appSource == "" {
		if g.fleet == defaultFleet {
			return "fleet attach"
		}
		return fmt.Sprintf("fleet --fleet %s attach", g.fleet)
	}
	app := "fleet"
	if g.fleet != defaultFleet {
		app += "-" + g.fleet
	}
	return fmt.Sprintf("nix run .#%s -- attach", app)
}
