package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

// UnavailableError says why this package may not be used on a machine; the daemon does the work there.
type UnavailableError struct {
	Reason string
	Err    error
}

func (e *UnavailableError) Error() string {
	text := "import without the Nix daemon: " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// fileSystems are those on which locks and modes are known to work as Nix needs them, by the numbers of statfs(2).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	0x2fc12fc1:                 "zfs",
	0xca451a4e:                 "bcachefs",
}

// Possible says whether paths may be imported without the daemon here: nil, or an [*UnavailableError]. It starts Nix once to read its settings, which takes
// a tenth of a second or less.
func Possible(ctx context.Context, opts Options) error {
	for _, check := range []func(Options) error{checkUser, checkOptions, checkDatabase, checkFolder} {
		if err := check(opts); err != nil {
			return err
		}
	}
	settings, err := readSettings(ctx, opts)
	if err != nil {
		return &UnavailableError{Reason: "the settings of Nix cannot be read", Err: err}
	}
	return settings.check()
}

// minFiles is how many files we must be able to have open: those of the locks, and the folders that are being filled.
const minFiles = 2048

func checkUser(Options) error {
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		return &UnavailableError{Reason: "only root can write to the store"}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return &UnavailableError{Reason: "the limit of open files cannot be read", Err: err}
	}
	if limit.Cur < minFiles {
		return &UnavailableError{Reason: fmt.Sprintf("only %d files may be open, and %d are needed", limit.Cur, minFiles)}
	}
	return nil
}

// checkOptions makes sure that folder, database and daemon are those of one store.
func checkOptions(opts Options) error {
	if opts.Daemon.Store != "" {
		return &UnavailableError{Reason: fmt.Sprintf("the store is %q, not the machine's own", opts.Daemon.Store)}
	}
	if opts.Daemon.Socket != "" && opts.Daemon.Socket != daemon.DefaultSocket() {
		return &UnavailableError{Reason: fmt.Sprintf("the daemon's socket is %q, not the machine's own", opts.Daemon.Socket)}
	}
	for _, name := range []string{"NIX_STORE_DIR", "NIX_STORE", "NIX_DB_DIR"} {
		if value := os.Getenv(name); value != "" && value != storepath.StoreDir {
			return &UnavailableError{Reason: fmt.Sprintf("%s is set to %q", name, value)}
		}
	}
	return nil
}

func (o Options) stateDir() string {
	if o.StateDir != "" {
		return o.StateDir
	}
	if dir := os.Getenv("NIX_STATE_DIR"); dir != "" {
		return dir
	}
	return defaultStateDir
}

func checkDatabase(opts Options) error {
	file := filepath.Join(opts.stateDir(), "db", "db.sqlite")
	if err := unix.Access(file, unix.W_OK); err != nil {
		return &UnavailableError{Reason: fmt.Sprintf("the store's database %q cannot be written", file), Err: err}
	}
	return nil
}

func checkFolder(Options) error {
	for dir := storepath.StoreDir; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return &UnavailableError{Reason: "there is no store", Err: err}
		}
		if !info.IsDir() {
			return &UnavailableError{Reason: fmt.Sprintf("%q is no folder, but perhaps a symlink to the store", dir)}
		}
	}
	var seen unix.Statfs_t
	if err := unix.Statfs(storepath.StoreDir, &seen); err != nil {
		return &UnavailableError{Reason: "the store cannot be looked at", Err: err}
	}
	if _, ok := fileSystems[int64(seen.Type)]; !ok {
		return &UnavailableError{Reason: fmt.Sprintf("the store is on a file system of the unfamiliar type %#x", seen.Type)}
	}
	if _, err := unix.Lgetxattr(storepath.StoreDir, "system.posix_acl_default", nil); err == nil {
		return &UnavailableError{Reason: "new files in the store would inherit an access control list"}
	}
	return checkOpen()
}

// checkOpen opens the folder for writing and makes sure that it is the one that Nix sees.
func checkOpen() error {
	fd, err := openFolder(storepath.StoreDir)
	if err != nil {
		return &UnavailableError{Reason: "the store cannot be written", Err: err}
	}
	defer unix.Close(fd)
	var opened, seen unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &opened), unix.Lstat(storepath.StoreDir, &seen)); err != nil {
		return &UnavailableError{Reason: "the store cannot be looked at", Err: err}
	}
	if opened.Dev != seen.Dev || opened.Ino != seen.Ino {
		return &UnavailableError{Reason: "something else is mounted over the store"}
	}
	return nil
}

// settings are those of Nix that matter here.
type settings map[string]struct {
	Value any `json:"value"`
}

// maxSettings bounds the output of `nix show-config`, in bytes.
const maxSettings = 4 << 20

func readSettings(ctx context.Context, opts Options) (settings, error) {
	program := "nix"
	if opts.Program != "" && opts.Program != defaultProgram {
		program = filepath.Join(filepath.Dir(opts.Program), program)
	}
	// Newer versions call it "config show", and still know this name.
	out, err := run.Output(ctx, run.Cmd{
		Argv:      []string{program, "--extra-experimental-features", "nix-command", "show-config", "--json"},
		Env:       environment(opts.StateDir),
		MaxOutput: maxSettings,
	})
	if err != nil {
		return nil, err
	}
	var s settings
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, fmt.Errorf("parse the output of `nix show-config`: %w", err)
	}
	return s, nil
}

// check refuses settings with which the daemon does more for a path than we do.
func (s settings) check() error {
	for _, name := range []string{"auto-optimise-store", "fsync-store-paths", "use-case-hack", "read-only-mode"} {
		if value, ok := s[name]; ok && value.Value != false {
			return &UnavailableError{Reason: fmt.Sprintf("%s is set", name)}
		}
	}
	if value, ok := s["min-free"]; ok && value.Value != float64(0) {
		return &UnavailableError{Reason: "min-free is set, so the daemon collects garbage while it imports"}
	}
	value, ok := s["store"]
	if uri, isText := value.Value.(string); !ok || !isText || uri != "" && uri != "auto" && uri != "local" {
		return &UnavailableError{Reason: fmt.Sprintf("the store is %v, not the machine's own", value.Value)}
	}
	return nil
}
