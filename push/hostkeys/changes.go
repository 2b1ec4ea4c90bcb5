package hostkeys

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// RetiredPin is a key that a host had once. It is kept so that a person can see when it was replaced, and is trusted for nothing.
type RetiredPin struct {
	AddedAt     time.Time `json:"addedAt"`
	Fingerprint string    `json:"fp"`
	Key         string    `json:"key"`
	RetiredAt   time.Time `json:"retiredAt"`
	Verified    Verified  `json:"verified"`
}

// HostPins is all that the state says of one host's keys.
type HostPins struct {
	// Pins are trusted, in the order in which they were added.
	Pins    []Pin
	Retired []RetiredPin
}

// SharedKeyError says that a key is pinned for another host already: the machines are copies of one image, or one of the two
// names is wrong. Whatever is encrypted to one could be read on the other.
type SharedKeyError struct {
	// Host is whose key it was to be, Other whose it is.
	Host, Other string
	Fingerprint string
}

func (e *SharedKeyError) Error() string {
	return fmt.Sprintf("pin host key of %q: the host %q has the same key, %s", e.Host, e.Other, e.Fingerprint)
}

// Hint says how a host gets a key of its own.
func (e *SharedKeyError) Hint() string {
	return fmt.Sprintf("give %s a key of its own: on its console, rm /etc/ssh/ssh_host_*_key*, make new ones with ssh-keygen -A, restart sshd; or correct its deploy.address", e.Host)
}

// All returns what the state says of every host that has a file.
func (s *Store) All() (map[string]HostPins, error) {
	all := map[string]HostPins{}
	err := s.each(func(host string, f *file) error {
		retired, err := f.retired()
		if err != nil {
			return &FileError{Path: s.Path(host), Err: err}
		}
		all[host] = HostPins{Pins: f.Recipients, Retired: retired}
		return nil
	})
	return all, err
}

// OwnerOf names another host than host that has key pinned, "" where there is none.
func (s *Store) OwnerOf(key, host string) (string, error) {
	keys, err := s.Keys()
	if err != nil {
		return "", err
	}
	for _, other := range slices.Sorted(maps.Keys(keys)) {
		if other != host && slices.ContainsFunc(keys[other], func(pinned string) bool { return plainKey(pinned) == plainKey(key) }) {
			return other, nil
		}
	}
	return "", nil
}

// Replace pins a host's key in place of the one of the same type, which is retired. It is what a person does who has compared the
// new key with the host's own; nothing else may. A key that another host has is a [*SharedKeyError]. The error is an [*UntrackedError]
// where only git was not told.
func (s *Store) Replace(ctx context.Context, host, key string, verified Verified, now time.Time) error {
	other, err := s.OwnerOf(key, host)
	if err != nil {
		return err
	}
	pin, err := newPin(host, key, verified, now)
	if err != nil {
		return err
	}
	if other != "" {
		return &SharedKeyError{Host: host, Other: other, Fingerprint: pin.Fingerprint}
	}
	return s.change(ctx, host, func(f *file) (bool, error) { return s.replace(host, f, pin) })
}

// replace changes a host's file. It is written once: a host whose old key was retired and whose new one was not yet pinned would be open
// to any key.
func (s *Store) replace(host string, f *file, pin Pin) (bool, error) {
	if slices.ContainsFunc(f.Recipients, func(old Pin) bool { return old.Key == pin.Key }) {
		return false, nil
	}
	retired, err := f.retired()
	if err != nil {
		return false, &FileError{Path: s.Path(host), Err: err}
	}
	var kept []Pin
	for _, old := range f.Recipients {
		if typeOf(old.Key) == typeOf(pin.Key) {
			retired = append(retired, RetiredPin{AddedAt: old.AddedAt, Fingerprint: old.Fingerprint, Key: old.Key, RetiredAt: pin.AddedAt, Verified: old.Verified})
			continue
		}
		kept = append(kept, old)
	}
	if len(retired) > 0 {
		if f.Retired, err = json.Marshal(retired); err != nil {
			return false, fmt.Errorf("retire host key of %q: %w", host, err)
		}
	}
	f.Recipients = append(kept, pin)
	return true, nil
}

// retired decodes the retired keys, strictly: they are rewritten by [Store.Replace], which must not lose what it does not know.
func (f *file) retired() ([]RetiredPin, error) {
	if len(bytes.TrimSpace(f.Retired)) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(f.Retired))
	decoder.DisallowUnknownFields()
	var retired []RetiredPin
	if err := decoder.Decode(&retired); err != nil {
		return nil, fmt.Errorf("retired keys: %w", err)
	}
	return retired, nil
}

// plainKey is a key without its comment.
func plainKey(key string) string {
	fields := strings.Fields(key)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

func typeOf(key string) string {
	kind, _, _ := strings.Cut(key, " ")
	return kind
}
