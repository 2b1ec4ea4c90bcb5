package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/proto"
)

const (
	// startTimeout bounds how long a new agent may take until it listens.
	startTimeout = 20 * time.Second
	// DefaultGrace is how long an agent waits for a client before it ends.
	DefaultGrace = 60 * time.Second
	// settleTime is how old a session's folder must be before it can be taken for a dead one's.
	settleTime = 2 * time.Minute

	sessionPrefix = "agent-"
	// privateParent begins the name of a parent that was made for one session alone.
	privateParent = "fleet-session-"
	socketName    = "socket"
	aliveName     = "alive"
	configName    = "session.json"
	// maxSocketPath is what a Unix socket's address holds (unix(7)), without the final NUL.
	maxSocketPath = 107
)

// StartOptions shape a session. The zero value is a session of the calling user.
type StartOptions struct {
	// Helper is the binary that is run as the agent; empty means the running one.
	Helper string
	// Owner is the user who may attach, besides root. Where we are not root it must be our own user.
	Owner int
	// Dir is the folder for the session's own; empty means /run/fleet for root, else $XDG_RUNTIME_DIR/fleet, else a
	// new folder in the system's folder for temporary files.
	Dir string
	// Grace is how long the agent waits without a client; zero means [DefaultGrace].
	Grace time.Duration
}

// sessionConfig is how Start tells Serve what must not be in arguments or environment. Serve removes the file.
type sessionConfig struct {
	Token string        `json:"token"`
	Owner int           `json:"owner"`
	Grace time.Duration `json:"grace"`
	// Detach says that the agent was not started by a service manager and has to leave our streams.
	Detach bool `json:"detach"`
}

// Start makes a session and returns when its agent listens. The agent runs on after the calling process: it holds none of
// its descriptors.
func Start(ctx context.Context, host *Host, opts StartOptions) (proto.Ready, error) {
	if !host.Root() && opts.Owner != host.UID {
		return proto.Ready{}, fmt.Errorf("start agent for user %d: only root can do that", opts.Owner)
	}
	if err := closeOnExec(); err != nil {
		return proto.Ready{}, err
	}
	helper, err := helperPath(opts.Helper, host)
	if err != nil {
		return proto.Ready{}, err
	}
	parent, err := sessionParent(host, opts.Dir)
	if err != nil {
		return proto.Ready{}, err
	}
	cleanSessions(parent)
	dir, config, err := makeSession(host, parent, opts)
	if err != nil {
		return proto.Ready{}, err
	}
	ready, err := launch(ctx, host, helper, dir)
	if err != nil {
		return proto.Ready{}, errors.Join(err, os.RemoveAll(dir))
	}
	ready.Token = config.Token
	return ready, nil
}

// closeOnExec keeps the agent from inheriting what sshd or sudo left open in us.
func closeOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil || !(errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)) {
		return err
	}
	entries, err := os.ReadDir("/proc/self/fd") // kernels before 5.11
	if err != nil {
		return err
	}
	for _, entry := range entries {
		var fd int
		if _, err := fmt.Sscanf(entry.Name(), "%d", &fd); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func helperPath(given string, host *Host) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	return host.Helper, nil
}

func sessionParent(host *Host, dir string) (string, error) {
	if dir == "" && host.Root() {
		dir = host.fleetDir()
	}
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); dir == "" && filepath.IsAbs(runtime) && ownedByUs(runtime) {
		dir = filepath.Join(runtime, "fleet")
	}
	if dir == "" {
		return os.MkdirTemp("", privateParent+"*")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, makeFleetDir(dir)
}

// ownedByUs refuses a runtime folder that belongs to somebody else, as after "su" without a login.
func ownedByUs(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && int(st.Uid) == os.Geteuid()
}

func makeSession(host *Host, parent string, opts StartOptions) (string, sessionConfig, error) {
	config := sessionConfig{
		Token: rand.Text() + rand.Text(), Owner: opts.Owner, Grace: opts.Grace, Detach: !host.Units.Detached(),
	}
	if config.Grace <= 0 {
		config.Grace = DefaultGrace
	}
	dir := filepath.Join(parent, sessionPrefix+strings.ToLower(rand.Text()[:12]))
	if len(filepath.Join(dir, socketName)) > maxSocketPath {
		return "", config, fmt.Errorf("make session in %q: the path is too long for a socket", parent)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", config, err
	}
	err := os.Chmod(dir, 0o711)
	text, jsonErr := json.Marshal(config)
	if err = errors.Join(err, jsonErr); err == nil {
		err = errors.Join(
			os.WriteFile(filepath.Join(dir, configName), text, 0o600),
			os.WriteFile(filepath.Join(dir, aliveName), nil, 0o600))
	}
	if err != nil {
		return "", config, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, config, nil
}

// launch starts the agent and waits until its socket answers.
func launch(ctx context.Context, host *Host, helper, dir string) (proto.Ready, error) {
	name := "fleet-" + filepath.Base(dir) + ".service"
	err := host.Units.Start(ctx, Unit{
		Name: name, Description: "Agent of a fleet deployment session",
		Argv: []string{helper, "agent", "serve", "--dir", dir}, Env: host.environment(), Standalone: true,
	})
	if err != nil {
		return proto.Ready{}, err
	}
	socket := filepath.Join(dir, socketName)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Asking the service manager takes longer than it takes an agent to listen.
	tick, look := time.NewTicker(2*time.Millisecond), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	defer look.Stop()
	for {
		pid, err := probeSocket(socket)
		if err == nil {
			return proto.Ready{Version: proto.Version, Socket: socket, PID: pid}, nil
		}
		select {
		case <-tick.C:
		case <-look.C:
			running, runErr := host.Units.Running(ctx, name)
			if runErr == nil && !running {
				return proto.Ready{}, fmt.Errorf("start agent: it ended before it listened: %s", lastWords(dir))
			}
		case <-ctx.Done():
			stopCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
			defer stop()
			return proto.Ready{}, errors.Join(fmt.Errorf("start agent: it does not listen: %w", err), host.Units.Stop(stopCtx, name))
		}
	}
}

// probeSocket connects once and returns the process that listens.
func probeSocket(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	peer, err := peerOf(conn.(*net.UnixConn))
	if err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// lastWords returns what a failed agent wrote, in one line.
func lastWords(dir string) string {
	text, err := readBounded(filepath.Join(dir, logName), 16<<10)
	if err != nil || len(text) == 0 {
		return "see the host's journal"
	}
	return oneLine(string(text))
}

// cleanSessions removes what dead agents have left. It is best effort: what cannot be removed harms nobody.
func cleanSessions(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || !strings.HasPrefix(entry.Name(), sessionPrefix) || time.Since(info.ModTime()) < settleTime {
			continue
		}
		dir := filepath.Join(parent, entry.Name())
		if busy, err := held(filepath.Join(dir, aliveName)); err == nil && !busy {
			_ = os.RemoveAll(dir)
		}
	}
}
