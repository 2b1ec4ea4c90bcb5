// Package state reads and writes the secrets of a fleet in its state: one folder a secret below fleet-state/<fleet>/secrets, beside
// flake.nix, with a small file for every owner, so that git merges what two people did to different owners, and plain Nix reads all of it.
//
//	format                                    the format of all below, "1"
//	secrets/<id>/meta.json                    [secret.Meta]
//	secrets/<id>/owners/<host>.json           [secret.Owner]
//	secrets/<id>/public/<part>                a public part, as it is or in base64
//	secrets/<id>/revoked/<gen>-<host>.json    [secret.Revoked]
//
// A change of a secret is one exchange of its whole folder, so that whoever reads, and whatever kills the writer, the folder is the old one
// or the new one. What is read may come from a merge request: it is bounded, no link is followed, and a secret that is broken is
// named and takes no other along. Nothing here can decrypt, and no plaintext of an encrypted part ever comes here.
package state

import (
	"fmt"
	"path"
	"sync"

	"fleet/closure/run"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// Folder is the folder of all states in the folder of a flake.
const Folder = "fleet-state"

// Store is the secrets of one fleet in one work tree. It is safe for concurrent use; two that write into one work tree hold [Store.Lock].
type Store struct {
	dir, fleet string
	runner     run.Runner
	mu         sync.Mutex
	// written are the paths that this store wrote or removed.
	written map[string]bool
	// worktree is whether dir is in a work tree of git; nil until somebody asked.
	worktree *bool
}

// Open names the secrets of fleet below dir, the folder of the flake. Nothing is read or written yet. runner starts git.
func Open(dir, fleet string, runner run.Runner) (*Store, error) {
	if err := secret.ValidateName(fleet); err != nil {
		return nil, fmt.Errorf("open state of fleet %q: %w", fleet, err)
	}
	return &Store{dir: dir, fleet: fleet, runner: runner, written: map[string]bool{}}, nil
}

// Dir is the folder of the flake.
func (s *Store) Dir() string { return s.dir }

// Fleet is the name of the fleet.
func (s *Store) Fleet() string { return s.fleet }

// Path is where a secret is, relative to the folder of the flake, with slashes.
func (s *Store) Path(id secret.ID) string { return path.Join(s.folder(), secretPath(id)) }

// folder is the fleet's state, relative to the folder of the flake.
func (s *Store) folder() string { return path.Join(Folder, s.fleet) }

// secretPath is where a secret is in the fleet's state.
func secretPath(id secret.ID) string { return path.Join("secrets", string(id.Scope), id.Name) }

// Tree is all secrets of a state.
type Tree struct {
	Secrets map[secret.ID]*Entry
	// Strays are files and folders between the secrets that are none, sorted, relative to the fleet's state.
	Strays []string
}

// Entry is one secret of the state.
type Entry struct {
	ID   secret.ID
	Meta secret.Meta
	// Owners are the copies of the encrypted parts by host. A secret of public parts alone has them too, without parts in them.
	Owners map[string]secret.Owner
	// Public are the values of the public parts, decoded.
	Public map[string][]byte
	// Revoked are former owners, in the order of their files' names.
	Revoked []secret.Revoked
	// Err is a [*BrokenError], or several joined ones, where something of the secret cannot be read; the rest is then what could be. See [Entry.Faults].
	Err error
}

// Ref is an encrypted part as an owner has it, for those that open it. False where the owner has no such part, and where its copy is of
// another generation than the metadata.
func (e *Entry) Ref(fleet, owner, part string) (seal.Ref, bool) {
	copied, ok := e.Owners[owner]
	sealed, has := copied.Parts[part]
	if !ok || !has || copied.Gen != e.Meta.Gen {
		return seal.Ref{}, false
	}
	return seal.Ref{
		Fleet: fleet, ID: e.ID, Part: part, Gen: e.Meta.Gen, Seq: e.Meta.Seq,
		Armor: sealed.Armor, Commit: e.Meta.Parts[part].Commit,
	}, true
}
