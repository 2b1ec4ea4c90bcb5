package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// maxIdentityFile bounds a private key file, in bytes.
const maxIdentityFile = 64 << 10

// hostKey is a private key that knows its public half.
type hostKey struct {
	age.Identity
	public Recipient
}

// LoadIdentities reads private host keys. Files that are not there are skipped, and so are those that nothing can be decrypted with (of an
// ecdsa key, say); where no key is left, the error says why not for every file, and is a [*NoKeyError].
func LoadIdentities(files ...string) ([]age.Identity, error) {
	var identities []age.Identity
	failed := &NoKeyError{Files: files}
	for _, file := range files {
		id, err := loadIdentity(file)
		if err != nil {
			failed.Reasons = append(failed.Reasons, err)
			continue
		}
		identities = append(identities, id)
	}
	if len(identities) == 0 {
		return nil, failed
	}
	return identities, nil
}

// NoKeyError says that a host has no key that it could decrypt with.
type NoKeyError struct {
	Files []string
	// Reasons says what is wrong with each file, in the order of Files.
	Reasons []error
}

func (e *NoKeyError) Error() string { return "this host has no key to decrypt with: " + e.Detail() }

// Detail says what is wrong with each file.
func (e *NoKeyError) Detail() string {
	reasons := make([]string, len(e.Reasons))
	for i, err := range e.Reasons {
		reasons[i] = fmt.Sprintf("%q: %s", e.Files[i], err)
		if errors.Is(err, fs.ErrNotExist) {
			reasons[i] = fmt.Sprintf("%q is not there", e.Files[i])
		}
	}
	if len(reasons) == 0 {
		reasons = []string{"no file is named"}
	}
	return strings.Join(reasons, "; ")
}

// Unwrap returns the reasons.
func (e *NoKeyError) Unwrap() []error { return e.Reasons }

// Hint says what can be done about it.
func (e *NoKeyError) Hint() string {
	return "put the host's key back; if it is lost, make a new one there (ssh-keygen -A), accept it with: fleet secrets host-key scan; then run: fleet secrets status"
}

// Fingerprints lists the fingerprints of the keys that [LoadIdentities] read.
func Fingerprints(identities []age.Identity) []string {
	var list []string
	for _, id := range identities {
		if key, ok := id.(hostKey); ok {
			list = append(list, key.public.Fingerprint)
		}
	}
	return list
}

// namesOneOf says whether a file's header has a stanza for one of the keys.
func namesOneOf(file []byte, identities []age.Identity) bool {
	h, err := readHeader(file)
	return err == nil && slices.ContainsFunc(identities, func(id age.Identity) bool {
		key, ok := id.(hostKey)
		return ok && slices.Contains(h.Stanzas, key.public.stanza())
	})
}

func loadIdentity(file string) (age.Identity, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxIdentityFile+1))
	if err != nil {
		return nil, err
	}
	defer clear(pem)
	if len(pem) > maxIdentityFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxIdentityFile)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	public, err := ParseRecipient(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if err != nil {
		return nil, err
	}
	id, err := agessh.ParseIdentity(pem)
	if err != nil {
		return nil, err
	}
	return hostKey{Identity: id, public: public}, nil
}
