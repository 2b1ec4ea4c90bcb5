package evaluator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

const (
	// logAge is how long a log is kept.
	logAge = 14 * 24 * time.Hour
	// logSize bounds one log, in bytes.
	logSize = 64 << 20
)

// DefaultStateDir is where logs and garbage collector roots live where nothing else is said: $XDG_STATE_HOME/fleet,
// or ~/.local/state/fleet (XDG Base Directory Specification).
func DefaultStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "fleet"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		// A service has no HOME; Nix and ssh then take it from the user's entry, too.
		u, entryErr := user.Current()
		if entryErr != nil || !filepath.IsAbs(u.HomeDir) {
			return "", &StateDirError{Err: err}
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".local", "state", "fleet"), nil
}

// StateDirError says that there is no place for logs and garbage collector roots.
type StateDirError struct{ Err error }

func (e *StateDirError) Error() string { return fmt.Sprintf("find state folder: %v", e.Err) }

// Unwrap gives the cause.
func (e *StateDirError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *StateDirError) Hint() string {
	return "set XDG_STATE_HOME to a folder that you may write to; logs and garbage collector roots go there"
}

// logDir writes logs of one run into a folder that only the user can read: evaluations and builds print what people put
// into their configurations.
type logDir struct{ path string }

// openLogDir makes the folder and removes old logs.
func openLogDir(path string) (*logDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, &StateDirError{Err: err}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	d := &logDir{path: path}
	d.prune(time.Now().Add(-logAge))
	return d, nil
}

// prune removes logs from before a time. A log that cannot be removed is no reason to stop.
func (d *logDir) prune(before time.Time) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasSuffix(entry.Name(), ".log") && info.ModTime().Before(before) {
			_ = os.Remove(filepath.Join(d.path, entry.Name()))
		}
	}
}

// create makes a new log, named by time, subject and step.
func (d *logDir) create(subject, step string) (*os.File, error) {
	if subject == "" {
		subject = "fleet"
	}
	stamp := time.Now().UTC().Format("20060102T150405")
	for n := range 100 {
		name := fmt.Sprintf("%s-%s-%s.log", stamp, subject, step)
		if n > 0 {
			name = fmt.Sprintf("%s-%s-%s-%d.log", stamp, subject, step, n)
		}
		file, err := os.OpenFile(filepath.Join(d.path, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return file, err
		}
	}
	return nil, fmt.Errorf("create log for %q: too many logs", subject)
}

// write makes a log with a text and returns its path, which is empty where that failed: the error
// that the log belongs to matters more.
func (d *logDir) write(subject, step, text string) string {
	file, err := d.create(subject, step)
	if err != nil {
		return ""
	}
	_, err = file.WriteString(text)
	if errors.Join(err, file.Close()) != nil {
		return ""
	}
	return file.Name()
}

// lazyLog is a log that exists once something is written. Its methods never fail: they stop writing.
type lazyLog struct {
	dir           *logDir
	subject, step string
	file          *os.File
	size          int
	stopped       bool
}

func (l *lazyLog) line(text string) {
	if l.stopped {
		return
	}
	if l.file == nil {
		file, err := l.dir.create(l.subject, l.step)
		if err != nil {
			l.stopped = true
			return
		}
		l.file = file
	}
	if l.size += len(text) + 1; l.size > logSize {
		text, l.stopped = "(the log ends here, it became too long)", true
	}
	if _, err := l.file.WriteString(text + "\n"); err != nil {
		l.stopped = true
	}
}

// close returns the path of the log, or removes it where it is not wanted.
func (l *lazyLog) close(keep bool) string {
	if l.file == nil {
		return ""
	}
	_ = l.file.Close()
	if !keep {
		_ = os.Remove(l.file.Name())
		return ""
	}
	return l.file.Name()
}
