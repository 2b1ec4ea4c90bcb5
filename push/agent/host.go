// Package agent is the host's side of a session: it receives store paths, builds, and activates systems.
//
// Its parts run as processes of one binary. [Start] runs elevated on the session's first channel: it makes a folder with
// a socket, has the agent started outside of the channel, and leaves. [Serve] is that agent. [Attach] is the unprivileged
// pipe between an SSH channel and the socket. [RunGuard] guards one activation, whose programs [RunGuardWorker] runs,
// each in a transient unit of its own.
//
// What arrives over the socket comes from the user who owns the machine's root rights, but possibly through a broken
// connection or program, so every name and size is checked. What the host itself says (boot loader files, unit logs, programs'
// output) is bounded, since a damaged host must not take the agent down. The package never prints.
package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/secretsgen/install"
	"fleet/secretsgen/step"
)

// programPath is the PATH of the programs that the agent starts: NixOS, a multi-user Nix on another system, and the usual folders.
// A transient unit has none of its own that would hold Nix.
const programPath = "/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:" +
	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Host says where things lie on a host and what runs programs there. [NewHost] returns this machine; a test names
// other folders. The store itself is always /nix/store, below StoreRoot where that is not empty.
type Host struct {
	// Run is /run.
	Run string
	// NixVar is /nix/var/nix.
	NixVar string
	// Boot are the folders where a boot loader may have its files.
	Boot []string
	// EFIVars is where the firmware's variables are files.
	EFIVars string
	// Mounts is the table of mounts, and BlockDevices the folder with a link to every block device by its number.
	Mounts, BlockDevices string
	// Temp is the folder for large temporary files, on a disk: /var/tmp.
	Temp string
	// BootID is the file that holds the kernel's boot id.
	BootID string
	// Home is the agent's user's, for GC roots of an agent that is not root.
	Home string
	// UID is the agent's effective user.
	UID int
	// Identities are the files with the host's private keys, which secrets are encrypted to; those that are not there are skipped.
	Identities []string
	// RunStep runs a generator of a secret, see [step.Run].
	RunStep func(context.Context, step.Request, step.Options) (step.Result, error)
	// CheckSecrets says what of a system's secrets the host could not install, and changes nothing.
	CheckSecrets func(context.Context, *install.Manifest) (install.Report, error)
	// Runner runs programs to their end.
	Runner run.Runner
	// Units runs what has to outlive the agent.
	Units Units
	// Helper is the program that units run: our own.
	Helper string
	// Reboot has the host rebooted for a transaction, and returns only where it stays.
	Reboot func(ctx context.Context, h *Host, txn string) error
	// OpenStore opens a connection to the Nix daemon.
	OpenStore func(ctx context.Context) (*daemon.Conn, error)
	// StoreRoot is the folder below which the store of OpenStore has its files.
	StoreRoot string
}

// file is where a store path is.
func (h *Host) file(path storepath.Path) string {
	return filepath.Join("/", h.StoreRoot, path.String())
}

// NewHost returns this machine: units are systemd's where it is PID 1 and we are root, and processes of their own else.
func NewHost() (*Host, error) {
	h := &Host{
		Run: "/run", NixVar: "/nix/var/nix", Boot: []string{"/boot", "/efi", "/boot/efi"},
		EFIVars: "/sys/firmware/efi/efivars", Mounts: "/proc/self/mountinfo", BlockDevices: "/sys/dev/block", BootID: "/proc/sys/kernel/random/boot_id", Temp: "/var/tmp",
		Identities: []string{"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"},
		RunStep:    step.Run,
		CheckSecrets: func(ctx context.Context, m *install.Manifest) (install.Report, error) {
			return install.Check(ctx, m, install.Options{})
		},
		Home: homeOf(os.Geteuid()), UID: os.Geteuid(), Runner: run.RunnerFunc(run.Run), Units: NewProcesses(), Reboot: rebootMachine,
	}
	helper, err := os.Executable()
	if err != nil {
		return nil, err
	}
	h.Helper = helper
	h.OpenStore = func(ctx context.Context) (*daemon.Conn, error) { return daemon.Open(ctx, daemon.Options{}) }
	if _, err := os.Stat("/run/systemd/system"); err == nil && h.UID == 0 {
		h.Units = SystemdUnits{}
	}
	return h, nil
}

// homeOf returns a user's home from the user database: sudo may have left the login user's in the environment.
func homeOf(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	if uid == 0 {
		return "/root"
	}
	return os.Getenv("HOME")
}

// Root says whether the agent may do what only root may.
func (h *Host) Root() bool { return h.UID == 0 }

func (h *Host) fleetDir() string    { return filepath.Join(h.Run, "fleet") }
func (h *Host) lockFile() string    { return filepath.Join(h.fleetDir(), "lock") }
func (h *Host) profileLink() string { return filepath.Join(h.NixVar, "profiles", "system") }
func (h *Host) rootsDir() string    { return filepath.Join(h.NixVar, "gcroots", "fleet") }

// environment is what programs get: a PATH, a home, and nothing of the session.
func (h *Host) environment() []string {
	env := []string{"PATH=" + programPath, "LC_ALL=C.UTF-8"}
	if h.Home != "" {
		env = append(env, "HOME="+h.Home)
	}
	return env
}

// output runs a program and returns at most limit bytes of what it prints.
func (h *Host) output(ctx context.Context, limit int, argv ...string) ([]byte, error) {
	out := &limitedBuffer{limit: limit}
	err := h.Runner.Run(ctx, run.Cmd{Argv: argv, Env: h.environment(), ClearEnv: true, Stdout: out})
	return out.Bytes(), err
}

// limitedBuffer keeps the first limit bytes and drops the rest.
type limitedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.limit-b.Len())])
	return len(p), nil
}

// bootID returns the kernel's boot id, and the empty text where it cannot be read.
func (h *Host) bootID() string {
	text, err := readBounded(h.BootID, 128)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(text))
}

// readBounded reads a regular file of at most limit bytes. What is no regular file is an error, so that a pipe or a device
// in its place cannot make us wait.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out limitedBuffer
	out.limit = int(limit) + 1
	if _, err := f.WriteTo(limitedWriter{&out}); err != nil && !errors.Is(err, errLimit) {
		return nil, err
	}
	if int64(out.Len()) > limit {
		return nil, fmt.Errorf("read %q: more than %d bytes", path, limit)
	}
	return out.Bytes(), nil
}

var errLimit = errors.New("limit reached")

// limitedWriter stops a copy once the buffer is full.
type limitedWriter struct{ b *limitedBuffer }

func (w limitedWriter) Write(p []byte) (int, error) {
	n, _ := w.b.Write(p)
	if w.b.Len() >= w.b.limit {
		return n, errLimit
	}
	return n, nil
}

// toplevelAt follows the link and returns the store path that it leads to, and the zero Path where it does not.
func toplevelAt(link string) storepath.Path {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return storepath.Path{}
	}
	path, err := storepath.Parse(target)
	if err != nil {
		return storepath.Path{}
	}
	return path
}

func parsePaths(texts []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, 0, len(texts))
	for _, text := range texts {
		path, err := storepath.Parse(text)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func pathTexts(paths []storepath.Path) []string {
	texts := make([]string, 0, len(paths))
	for _, path := range paths {
		texts = append(texts, path.String())
	}
	slices.Sort(texts)
	return texts
}
