package agent

import (
	"context"
	"os"
	"path/filepath"

	"fleet/closure/run"
)

// What happens only while somebody deploys, and not when a host boots or goes back: activation scripts that ask for the variable, and a target that is
// started once the new system runs. flakeModule/nixos/guard/online.nix has both sides' other half.
const (
	onlineVariable = "FLEET_ONLINE_ACTIVATION"
	onlineTarget   = "online-activation.target"
)

// startOnline starts the target of a system that has it, and waits for what it starts. What fails there is a failed unit, and is judged as one: the
// switch itself has not failed.
func (h *Host) startOnline(ctx context.Context, system string, log *switchWriter) {
	if _, err := os.Stat(filepath.Join(system, "etc", "systemd", "system", onlineTarget)); err != nil {
		return
	}
	argv := []string{"systemctl", "start", onlineTarget}
	log.say("systemctl start %s", onlineTarget)
	err := h.Runner.Run(ctx, run.Cmd{Argv: argv, Dir: "/", Env: h.environment(), ClearEnv: true, Stdout: log, Stderr: log, Grace: workerGrace})
	log.flush()
	if err != nil {
		log.say("%s: %s", onlineTarget, oneLine(err.Error()))
	}
}
