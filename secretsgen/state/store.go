package state

import (
	"context"
	"errors"
	"time"

	"fleet/secretsgen/secret"
)

// Load reads all secrets. No state at all is no secrets. What is wrong with one secret is in its [Entry.Err]; the error is for what
// concerns all of them, such as a newer format.
func (s *Store) Load() (*Tree, error) { return nil, errors.ErrUnsupported }

// LoadFolder reads all secrets of the state in folder, as fleet-state/<fleet>, wherever that is: as [Store.Load] does, without a work tree.
func LoadFolder(folder, fleet string) (*Tree, error) { return nil, errors.ErrUnsupported }

// Put writes the whole secret in one step, and tells git of new files. Where nothing differs from what is there, not one byte and no time of
// a file changes. The error is an [*UntrackedError] where only git was not told.
func (s *Store) Put(ctx context.Context, e *Entry) error { return errors.ErrUnsupported }

// Remove removes the whole secret in one step. A secret that is not there is no error.
func (s *Store) Remove(ctx context.Context, id secret.ID) error { return errors.ErrUnsupported }

// Written lists the files that this store wrote or removed, sorted, relative to the folder of the flake.
func (s *Store) Written() []string { return nil }

// Lock makes this process the one writer of the fleet's state in the work tree until unlock is called, and cleans up what a writer that was
// killed has left. It does not wait: the error is a [*LockedError] where another process has it.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) { return nil, errors.ErrUnsupported }

// Side is a side of a merge.
type Side string

// The sides, as git calls them. In a rebase and a cherry-pick, theirs is the commit that is being applied.
const (
	Ours   Side = "ours"
	Theirs Side = "theirs"
)

// Conflicts lists the secrets that git has a conflict in, sorted.
func (s *Store) Conflicts(ctx context.Context) ([]secret.ID, error) { return nil, errors.ErrUnsupported }

// Resolve ends the conflict in a secret with the whole value of one side, and stages it.
func (s *Store) Resolve(ctx context.Context, id secret.ID, side Side) error { return errors.ErrUnsupported }

// Change is what became of a secret between two states: in a commit, or since a revision.
type Change struct {
	ID secret.ID `json:"id"`
	// Commit, Author, At and Subject are the commit's; empty for what is not committed, and in [Store.Diff].
	Commit  string    `json:"commit,omitempty"`
	Author  string    `json:"author,omitempty"`
	At      time.Time `json:"at,omitzero"`
	Subject string    `json:"subject,omitempty"`
	// OldGen is empty for a secret that is new, Gen for one that was removed.
	OldGen secret.Gen `json:"oldGen,omitempty"`
	Gen    secret.Gen `json:"gen,omitempty"`
	// OwnersAdded and OwnersRemoved are hosts, sorted.
	OwnersAdded   []string `json:"ownersAdded,omitempty"`
	OwnersRemoved []string `json:"ownersRemoved,omitempty"`
	// OldExpiresAt and ExpiresAt are nil where the value does not expire.
	OldExpiresAt *time.Time `json:"oldExpiresAt,omitempty"`
	ExpiresAt    *time.Time `json:"expiresAt,omitempty"`
}

// Log lists what became of a secret, commit by commit, the newest first.
func (s *Store) Log(ctx context.Context, id secret.ID) ([]Change, error) { return nil, errors.ErrUnsupported }

// Diff lists what became of the secrets since a revision, in the work tree as it is, sorted by id.
func (s *Store) Diff(ctx context.Context, rev string) ([]Change, error) { return nil, errors.ErrUnsupported }
