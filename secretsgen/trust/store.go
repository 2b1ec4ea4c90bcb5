// Package trust decides whose key a key is, before secrets are encrypted to it.
//
// Addresses and pinned keys come from git, and a handshake proves only that a key answers at an address. So a merge request that changes a
// pin, alone or together with the address, must not be enough to have secrets encrypted to somebody else: this operator's machine keeps,
// outside of every repository, which key it has accepted for which host of which fleet. A key is accepted because a person compared its
// fingerprint, or because the operator's own known_hosts has it for a host that nothing else was known of.
//
// The package decides and remembers; it never looks at the network.
package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"fleet/secretsgen/secret"
)

// How says why a key was accepted.
type How string

// The ways.
const (
	// Confirmed: a person compared the fingerprint.
	Confirmed How = "confirmed"
	// KnownHost: the operator's known_hosts had it.
	KnownHost How = "known_hosts"
)

// Acceptance is a key that was accepted for a host. Its fields are in the order of their names, which is the order in the file.
type Acceptance struct {
	At time.Time `json:"at"`
	// Fingerprint is "SHA256:…" as ssh-keygen -l prints it.
	Fingerprint string `json:"fingerprint"`
	// Fleet is the text that identifies the flake and its fleet.
	Fleet  string `json:"fleet"`
	Format int    `json:"format"`
	Host   string `json:"host"`
	How    How    `json:"how"`
	// Key is "type base64".
	Key string `json:"key"`
}

// Store is what this machine has accepted for one fleet. It is safe for concurrent use, also by several processes: one host is one file,
// which is replaced as a whole.
type Store struct {
	dir, fleet string
}

const (
	storeFormat = 1
	// maxFile bounds one host's file, in bytes, maxHosts the files of a fleet.
	maxFile  = 64 << 10
	maxHosts = 100_000
)

// Open names the acceptances of a fleet. dir is the user's state folder ($XDG_STATE_HOME/fleet); fleet is any text that is the same for
// every run on the same fleet and different for others, such as the flake's place and the fleet's name. Nothing is read or written yet.
func Open(dir, fleet string) (*Store, error) {
	if !filepath.IsAbs(dir) || fleet == "" {
		return nil, fmt.Errorf("open accepted host keys in %q: it needs an absolute folder and a fleet", dir)
	}
	sum := sha256.Sum256([]byte(fleet))
	return &Store{dir: filepath.Join(dir, "accepted-host-keys", hex.EncodeToString(sum[:16])), fleet: fleet}, nil
}

// FileError says that what this machine has accepted cannot be used. It is never taken for nothing accepted.
type FileError struct {
	Path string
	Err  error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("read accepted host key %q: %v", e.Path, e.Err)
}
func (e *FileError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *FileError) Hint() string {
	return "look at the file; when it is removed, the key is asked about again"
}

// Path is the file of a host.
func (s *Store) Path(host string) string { return filepath.Join(s.dir, host+".json") }

// Host returns what was accepted for a host, in the order in which it was; empty where nothing was. The error is a [*FileError].
func (s *Store) Host(host string) ([]Acceptance, error) {
	if err := secret.ValidateName(host); err != nil {
		return nil, fmt.Errorf("read accepted host key: %w", err)
	}
	path := s.Path(host)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &FileError{Path: path, Err: err}
	}
	defer f.Close()
	list, err := s.parse(f, host)
	if err != nil {
		return nil, &FileError{Path: path, Err: err}
	}
	return list, nil
}

func (s *Store) parse(f *os.File, host string) ([]Acceptance, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("it is no file of at most %d bytes", maxFile)
	case info.Mode().Perm()&0o022 != 0:
		return nil, errors.New("others may write to it, so it proves nothing")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var list []Acceptance
	if err := dec.Decode(&list); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("something follows the value")
	}
	for _, a := range list {
		fingerprint, err := Fingerprint(a.Key)
		switch {
		case err != nil:
			return nil, err
		case a.Format != storeFormat:
			return nil, fmt.Errorf("it has format %d, this program reads format %d", a.Format, storeFormat)
		case a.Fleet != s.fleet || a.Host != host || a.Fingerprint != fingerprint:
			return nil, errors.New("it is of another fleet, host or key than it should be")
		}
	}
	return list, nil
}

// Accept remembers a key for a host. Where the host had another key of the same type, that one and all others are forgotten: whoever
// has changed one key of a host has changed them all, and what was replaced must not be accepted for ever. A key that is accepted
// already changes nothing, unless a person now confirms what known_hosts had vouched for.
func (s *Store) Accept(host, key string, how How, now time.Time) error {
	fingerprint, err := Fingerprint(key)
	if err != nil {
		return fmt.Errorf("accept host key of %q: %w", host, err)
	}
	list, err := s.Host(host)
	if err != nil {
		return err
	}
	a := Acceptance{
		At: now.UTC().Truncate(time.Second), Fingerprint: fingerprint, Fleet: s.fleet, Format: storeFormat, Host: host, How: how,
		Key: keyOnly(key),
	}
	for i, old := range list {
		switch {
		case old.Fingerprint == fingerprint && (old.How == how || how == KnownHost):
			return nil
		case old.Fingerprint == fingerprint:
			list[i] = a
			return s.write(host, list)
		case typeOf(old.Key) == typeOf(key):
			return s.write(host, []Acceptance{a})
		}
	}
	return s.write(host, append(list, a))
}

// Forget takes back all that was accepted for a host.
func (s *Store) Forget(host string) error {
	if err := secret.ValidateName(host); err != nil {
		return fmt.Errorf("forget accepted host key: %w", err)
	}
	if err := os.Remove(s.Path(host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget accepted host key: %w", err)
	}
	return nil
}

// All returns what was accepted for the fleet's hosts, by host. The first file that cannot be used is a [*FileError].
func (s *Store) All() (map[string][]Acceptance, error) {
	all := map[string][]Acceptance{}
	entries, err := os.ReadDir(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return all, nil
	case err != nil:
		return nil, &FileError{Path: s.dir, Err: err}
	case len(entries) > maxHosts:
		return nil, &FileError{Path: s.dir, Err: fmt.Errorf("it has more than %d files", maxHosts)}
	}
	for _, entry := range entries {
		host, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok || secret.ValidateName(host) != nil {
			continue
		}
		if all[host], err = s.Host(host); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// others are the hosts, but for this one, that a key was accepted for, sorted.
func (s *Store) others(host, fingerprint string) ([]string, error) {
	all, err := s.All()
	if err != nil {
		return nil, err
	}
	var others []string
	for other, list := range all {
		if other != host && slices.ContainsFunc(list, func(a Acceptance) bool { return a.Fingerprint == fingerprint }) {
			others = append(others, other)
		}
	}
	slices.Sort(others)
	return others, nil
}

func (s *Store) write(host string, list []Acceptance) error {
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("accept host key of %q: %w", host, err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return &WriteError{Host: host, Err: err}
	}
	if err := renameio.WriteFile(s.Path(host), append(data, '\n'), 0o600, renameio.WithTempDir(s.dir)); err != nil {
		return &WriteError{Host: host, Err: err}
	}
	return nil
}

// WriteError says that an acceptance could not be remembered.
type WriteError struct {
	Host string
	Err  error
}

func (e *WriteError) Error() string { return fmt.Sprintf("accept host key of %q: %v", e.Host, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *WriteError) Hint() string {
	return "set XDG_STATE_HOME to a folder that you may write to; accepted host keys are remembered there"
}
