// Package hostkeys keeps the pinned keys of a fleet's hosts in its state: fleet-state/<fleet>/hosts/<host>.json in
// the flake's work tree, one small file a host, so that git merges them without conflicts and Nix reads them purely.
//
// A key that is pinned is what a host must prove to have, for SSH and for secrets. What is written here was accepted
// by a person or by the user's known_hosts; the file says which. Private keys never come near it.
package hostkeys

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"fleet/closure/run"
)

// Verified says who vouched for a key.
type Verified string

// The ways in which a key came to be trusted.
const (
	// Accepted: a person asked for new keys to be accepted.
	Accepted Verified = "accepted"
	// KnownHosts: the user's known_hosts had it.
	KnownHosts Verified = "known_hosts"
)

// Pin is one key of a host. Its fields are in the order of their names, which is the order in the file.
type Pin struct {
	AddedAt time.Time `json:"addedAt"`
	// Fingerprint is "SHA256:…" as ssh-keygen -l prints it.
	Fingerprint string `json:"fp"`
	// Key is "type base64".
	Key      string   `json:"key"`
	Verified Verified `json:"verified"`
}

// file is a host's file.
type file struct {
	Recipients []Pin `json:"recipients"`
	// Retired are keys that the host no longer has; they are kept as they are.
	Retired json.RawMessage `json:"retired,omitempty"`
}

const (
	// maxFile bounds a host's file, in bytes.
	maxFile = 256 << 10
	// maxFiles bounds how many hosts are read.
	maxFiles = 100_000
	// gitTimeout bounds git add.
	gitTimeout = 30 * time.Second
)

// Store is the pins of one fleet in one work tree. It is safe for concurrent use.
type Store struct {
	dir, fleet string
	runner     run.Runner
	mu         sync.Mutex
	// written are the paths of the files that this store wrote.
	written map[string]bool
}

// Open names the pins of fleet below dir, the folder of the flake. Nothing is read or written yet. runner starts git.
func Open(dir, fleet string, runner run.Runner) (*Store, error) {
	if !validName(fleet) {
		return nil, fmt.Errorf("open state: %q cannot be the name of a fleet's folder", fleet)
	}
	return &Store{dir: dir, fleet: fleet, runner: runner, written: map[string]bool{}}, nil
}

// UntrackedError says that a pin was written, but git was not told of it: a flake in git does not see the file.
type UntrackedError struct {
	Path string
	Err  error
}

func (e *UntrackedError) Error() string {
	return fmt.Sprintf("add %q to git: %v", e.Path, e.Err)
}

func (e *UntrackedError) Unwrap() error { return e.Err }

// Hint is the command that mends it.
func (e *UntrackedError) Hint() string { return "git add -N " + e.Path }

// FileError says that a host's file cannot be read. It is never taken for a host without pins.
type FileError struct {
	// Path is relative to the folder of the flake.
	Path string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("read pinned host key %q: %v", e.Path, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

// Hint is the remedy. A file that git was told of and that was never committed becomes empty when git restores it.
func (e *FileError) Hint() string {
	return "restore the file from git, or resolve its merge conflict; where it was never committed, delete it, and the key is checked and pinned anew"
}

// WriteError says that a pin could not be written, as in a work tree that is read-only.
type WriteError struct {
	// Key is what was to be pinned for Host, as "type base64".
	Host, Key string
	Err       error
}

func (e *WriteError) Error() string { return fmt.Sprintf("pin host key of %q: %v", e.Host, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Hint is the other place for a pin.
func (e *WriteError) Hint() string {
	return fmt.Sprintf("run it where the flake's work tree can be written, or compare the key with the host's own and set hosts.%s.deploy.hostKeys = [ %q ]", e.Host, e.Key)
}

// newest is the key that was added last.
func (f *file) newest() string { return f.Recipients[len(f.Recipients)-1].Key }

// Dir is the folder of the flake.
func (s *Store) Dir() string { return s.dir }

// Path is where a host's pins are, relative to the folder of the flake.
func (s *Store) Path(host string) string {
	return filepath.Join("fleet-state", s.fleet, "hosts", host+".json")
}

// Keys returns the pinned keys of every host that has any, as "type base64". No state at all is no pins.
func (s *Store) Keys() (map[string][]string, error) {
	keys := map[string][]string{}
	err := s.each(func(host string, f *file) error {
		for _, pin := range f.Recipients {
			keys[host] = append(keys[host], pin.Key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// KeysOf returns the pinned keys of one host, as "type base64"; none where it has none.
func (s *Store) KeysOf(host string) ([]string, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read pinned host key: %w", err)
	}
	defer root.Close()
	f, err := s.read(root, host)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, pin := range f.Recipients {
		keys = append(keys, pin.Key)
	}
	return keys, nil
}

// each visits every host's file, by their names' order.
func (s *Store) each(visit func(host string, f *file) error) error {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return fmt.Errorf("read pinned host keys: %w", err)
	}
	defer root.Close()
	folder := filepath.Dir(s.Path("x"))
	entries, err := fs.ReadDir(root.FS(), folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read pinned host keys: %w", err)
	case len(entries) > maxFiles:
		return fmt.Errorf("read pinned host keys: more than %d files in %q", maxFiles, folder)
	}
	for _, entry := range entries {
		host, isJSON := strings.CutSuffix(entry.Name(), ".json")
		if !isJSON || !validName(host) {
			continue
		}
		f, err := s.read(root, host)
		if err == nil {
			err = visit(host, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns a host's file, empty where there is none.
func (s *Store) read(root *os.Root, host string) (*file, error) {
	name := s.Path(host)
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &file{}, nil
	case err != nil:
		return nil, fmt.Errorf("read pinned host key: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("read pinned host key %q: it is no file of at most %d bytes", name, maxFile)
	}
	data, err := root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read pinned host key: %w", err)
	}
	f, err := parse(data)
	if err != nil {
		return nil, &FileError{Path: name, Err: err}
	}
	return f, nil
}

// parse reads a host's file strictly.
func parse(data []byte) (*file, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("it is empty")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var f file
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("there is more than one value")
	}
	for _, pin := range f.Recipients {
		fingerprint, err := Fingerprint(pin.Key)
		if err != nil {
			return nil, err
		}
		if pin.Fingerprint != fingerprint {
			return nil, fmt.Errorf("the key with fingerprint %q really has %q", pin.Fingerprint, fingerprint)
		}
	}
	return &f, nil
}

// Record pins a host's key, and tells git that the file exists. A key that is pinned already changes nothing. A host that has another
// key of the same type pinned is an error: replacing a key is a person's decision. The error is an
// [*UntrackedError] where only git was not told.
func (s *Store) Record(ctx context.Context, host, key string, verified Verified, now time.Time) error {
	pin, err := newPin(host, key, verified, now)
	if err != nil {
		return err
	}
	return s.change(ctx, host, func(f *file) (bool, error) {
		for _, old := range f.Recipients {
			if old.Key == pin.Key {
				return false, nil
			}
			if typeOf(old.Key) == typeOf(pin.Key) {
				return false, fmt.Errorf("pin host key of %q: %q holds another key of this type, %s", host, s.Path(host), old.Fingerprint)
			}
		}
		f.Recipients = append(f.Recipients, pin)
		return true, nil
	})
}

// newPin checks a key and its host's name.
func newPin(host, key string, verified Verified, now time.Time) (Pin, error) {
	if !validName(host) {
		return Pin{}, fmt.Errorf("pin host key: %q cannot be the name of a host's file", host)
	}
	fingerprint, err := Fingerprint(key)
	if err != nil {
		return Pin{}, fmt.Errorf("pin host key of %q: %w", host, err)
	}
	return Pin{Key: plainKey(key), Fingerprint: fingerprint, AddedAt: now.UTC().Truncate(time.Second), Verified: verified}, nil
}

// change rewrites a host's file where edit says that it changed something, and tells git of it.
func (s *Store) change(ctx context.Context, host string, edit func(*file) (bool, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return fmt.Errorf("pin host key of %q: %w", host, err)
	}
	defer root.Close()
	f, err := s.read(root, host)
	if err != nil {
		return err
	}
	if changed, err := edit(f); err != nil || !changed {
		return err
	}
	if err := s.write(root, host, f); err != nil {
		return err
	}
	s.written[s.Path(host)] = true
	return s.track(ctx, host)
}

func (s *Store) write(root *os.Root, host string, f *file) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("pin host key of %q: %w", host, err)
	}
	// Through the root, so that a link in the state cannot lead out of the work tree.
	if err := root.MkdirAll(filepath.Dir(s.Path(host)), 0o755); err != nil {
		return &WriteError{Host: host, Key: f.newest(), Err: err}
	}
	path := filepath.Join(s.dir, s.Path(host))
	if err := renameio.WriteFile(path, append(data, '\n'), 0o644, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return &WriteError{Host: host, Key: f.newest(), Err: err}
	}
	return nil
}

// track marks the file as one to be added, since Nix sees of a work tree only what git knows.
func (s *Store) track(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	if err := s.runner.Run(ctx, run.Cmd{Argv: []string{"git", "-C", s.dir, "rev-parse", "--is-inside-work-tree"}}); err != nil {
		var failed *run.ExitError
		if errors.As(err, &failed) {
			return nil // no work tree of git: a path flake sees all files
		}
		return &UntrackedError{Path: s.Path(host), Err: err}
	}
	if err := s.runner.Run(ctx, run.Cmd{Argv: []string{"git", "-C", s.dir, "add", "--intent-to-add", "--", s.Path(host)}}); err != nil {
		return &UntrackedError{Path: s.Path(host), Err: err}
	}
	return nil
}

// Fingerprint is the SHA-256 fingerprint of a public key, "type base64", as OpenSSH writes it.
func Fingerprint(key string) (string, error) {
	fields := strings.Fields(key)
	if len(fields) < 2 || len(key) > 64<<10 {
		return "", fmt.Errorf("a key has the form \"type base64\", not %q", shorten(key))
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return "", fmt.Errorf("key %q: %w", shorten(key), err)
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
}

func shorten(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

// validName says whether a name is one path component that no shell, git or Nix takes for anything else.
func validName(name string) bool {
	return len(name) <= 200 && regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`).MatchString(name)
}
