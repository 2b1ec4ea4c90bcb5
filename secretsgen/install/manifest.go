// Package install puts a host's secrets in place: it decrypts all of them in memory, verifies them, writes a new generation beside the one
// that is in use, and swaps the two by one rename.
//
// One secret that cannot be read takes no other along: it keeps the copy of the generation before where that is of the same value, and is
// absent otherwise, and the installer ends with an error that names it.
package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"fleet/secretsgen/secret"
)

// Manifest is all that the installer needs to know: a file in the Nix store, rendered by flakeModule/nixos. It holds ciphertext alone.
type Manifest struct {
	Format int    `json:"format"`
	Fleet  string `json:"fleet"`
	Host   string `json:"host"`
	// Identities are the files with the host's private keys; those that are not there are skipped.
	Identities []string   `json:"identities"`
	Secrets    []Secret   `json:"secrets"`
	Templates  []Template `json:"templates"`
}

// Secret is one secret of the host.
type Secret struct {
	ID  secret.ID  `json:"id"`
	Gen secret.Gen `json:"gen"`
	Seq uint64     `json:"seq"`
	// Owner and Group are names or numbers; an empty Owner is root, an empty Group the owner's own. Mode is octal, for encrypted parts.
	// Public parts are 0444 and root's.
	Owner string `json:"owner"`
	Group string `json:"group"`
	Mode  string `json:"mode"`
	// NeededForUsers puts it into /run/secrets-for-users, owned by root, before users are made.
	NeededForUsers bool            `json:"neededForUsers"`
	Parts          map[string]Part `json:"parts"`
	// Credentials also links the parts into /run/credstore, for LoadCredential and ImportCredential: the part's name by the link's.
	Credentials map[string]string `json:"credentials"`
}

// Part is one part: Armor for an encrypted one, else Text in Encoding.
type Part struct {
	Encrypted bool   `json:"encrypted"`
	Commit    string `json:"commit"`
	Armor     string `json:"armor"`
	Text      string `json:"text"`
	Encoding  string `json:"encoding"`
}

// Template is a file that secrets are rendered into.
type Template struct {
	Name string `json:"name"`
	// Owner, Group and Mode are as those of a secret.
	Owner string `json:"owner"`
	Group string `json:"group"`
	Mode  string `json:"mode"`
	// Content has placeholders, see [Placeholder].
	Content string `json:"content"`
	// Path is where a link to the rendered file is put, absolute; empty for none.
	Path string `json:"path"`
	// NeededForUsers renders it in the phase before users are made.
	NeededForUsers bool `json:"neededForUsers"`
}

// maxManifest bounds a manifest, in bytes.
const maxManifest = 256 << 20

// LoadManifest reads a manifest's file, see [DecodeManifest].
func LoadManifest(path string) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	return DecodeManifest(f)
}

// DecodeManifest reads a manifest strictly, and validates it.
func DecodeManifest(r io.Reader) (*Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("read manifest: it is larger than %d bytes", maxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	m := new(Manifest)
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read manifest: something follows it")
	}
	if m.Format != secret.Format {
		return nil, fmt.Errorf("read manifest: it has format %d, this program reads format %d", m.Format, secret.Format)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}
