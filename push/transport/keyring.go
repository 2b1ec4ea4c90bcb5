package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxKeyFileBytes bounds a private key, public key or certificate file.
const maxKeyFileBytes = 1 << 20

// maxPassphraseTries is ssh's NumberOfPasswordPrompts default.
const maxPassphraseTries = 3

// keyring keeps the private keys of a dialer, so that the passphrase of a file is asked for once, however
// many hosts need it. It is safe for concurrent use.
type keyring struct {
	prompt func(ctx context.Context, prompt string) ([]byte, error)

	mu    sync.Mutex
	files map[string]*keyFile
	// asking is held while a person is asked: two questions at once would fight for the terminal.
	asking chan struct{}
}

func newKeyring(prompt func(context.Context, string) ([]byte, error)) *keyring {
	return &keyring{prompt: prompt, files: map[string]*keyFile{}, asking: make(chan struct{}, 1)}
}

// keyFile is one identity file. public is known from the beginning, private once it was unlocked.
type keyFile struct {
	path   string
	public ssh.PublicKey
	// problem says why the file cannot be used by itself; an agent may still hold its key.
	problem error
	pem     []byte

	mu      sync.Mutex
	private ssh.Signer
	locked  error
}

// errWrongPassphrase is what all later uses of a file get after the passphrase was wrong too often.
var errWrongPassphrase = errors.New("the passphrase was wrong")

// file reads path once. A file that does not exist is nil: ssh's defaults name many that are not there.
func (k *keyring) file(path string) *keyFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f, ok := k.files[path]; ok {
		return f
	}
	f := readKeyFile(path, k.prompt != nil)
	k.files[path] = f
	return f
}

func readKeyFile(path string, canPrompt bool) *keyFile {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		// The private half may live in an agent or a token alone.
		if public := readPublicKey(path + ".pub"); public != nil {
			return &keyFile{path: path, public: public, problem: errors.New("there is only its public half")}
		}
		return nil
	}
	f := &keyFile{path: path}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err == nil {
		f.pem, err = readBounded(path, maxKeyFileBytes)
	}
	if err != nil {
		f.problem = err
		return f
	}
	f.parse(canPrompt)
	// ssh refuses such keys as well (UNPROTECTED PRIVATE KEY FILE), and only looks at its user's own files.
	stat, ok := info.Sys().(*syscall.Stat_t)
	if f.pem != nil && f.problem == nil && info.Mode().Perm()&0o077 != 0 && ok && int(stat.Uid) == os.Getuid() {
		f.problem, f.private = fmt.Errorf("others can read it (mode %04o); run chmod 600", info.Mode().Perm()), nil
	}
	return f
}

func (f *keyFile) parse(canPrompt bool) {
	if public, _, _, _, err := ssh.ParseAuthorizedKey(f.pem); err == nil && !bytes.Contains(f.pem, []byte("PRIVATE KEY-----")) {
		f.public, f.pem, f.problem = public, nil, errors.New("it is a public key whose private half is in no agent")
		return
	}
	signer, err := ssh.ParsePrivateKey(f.pem)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		f.private, f.public = signer, signer.PublicKey()
	case errors.As(err, &missing):
		if f.public = missing.PublicKey; f.public == nil {
			f.public = readPublicKey(f.path + ".pub")
		}
		if f.public == nil {
			f.problem = errors.New("it is encrypted in an old format; run ssh-keygen -p to rewrite it")
		} else if !canPrompt {
			f.problem = errors.New("it is encrypted and there is no terminal to ask for its passphrase; use ssh-agent")
		}
	default:
		f.public = readPublicKey(f.path + ".pub")
		f.problem = err
		if f.public != nil && bytes.HasPrefix([]byte(f.public.Type()), []byte("sk-")) {
			f.problem = errors.New("it lives on a FIDO token; use ssh-agent, or deploy.transport = \"openssh\"")
		}
	}
}

func readPublicKey(path string) ssh.PublicKey {
	content, err := readBounded(path, maxKeyFileBytes)
	if err != nil {
		return nil
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(content)
	if err != nil {
		return nil
	}
	return public
}

// unlock returns the private key, asking for its passphrase where it has to.
func (k *keyring) unlock(ctx context.Context, f *keyFile) (ssh.Signer, error) {
	if signer, err := f.state(); signer != nil || err != nil {
		return signer, err
	}
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Another host may have been faster.
	if signer, err := f.state(); signer != nil || err != nil {
		return signer, err
	}
	signer, err := k.ask(ctx, f)
	// A cancelled run is no verdict on the file.
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.private, f.locked = signer, err
	return signer, err
}

func (f *keyFile) state() (ssh.Signer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.private, f.locked
}

func (k *keyring) ask(ctx context.Context, f *keyFile) (ssh.Signer, error) {
	question := fmt.Sprintf("Passphrase for key %s: ", cleanText(f.path, maxErrorText))
	for range maxPassphraseTries {
		passphrase, err := k.prompt(ctx, question)
		if err != nil {
			return nil, fmt.Errorf("ask for its passphrase: %w", err)
		}
		signer, err := ssh.ParsePrivateKeyWithPassphrase(f.pem, passphrase)
		clear(passphrase)
		if err == nil {
			return signer, nil
		}
		question = fmt.Sprintf("Wrong passphrase. Passphrase for key %s: ", cleanText(f.path, maxErrorText))
	}
	return nil, errWrongPassphrase
}

// keySigner signs with a key file, and unlocks it only once a server has said that it would accept the key.
type keySigner struct {
	ctx     context.Context // of the dial that it belongs to, and lives no longer
	keyring *keyring
	file    *keyFile
	// human runs what may wait for a person, outside of the handshake's time limit.
	human func(func())
}

var _ ssh.MultiAlgorithmSigner = (*keySigner)(nil)

func (s *keySigner) PublicKey() ssh.PublicKey { return s.file.public }

func (s *keySigner) Algorithms() []string { return keyAlgorithms(s.file.public.Type()) }

func (s *keySigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}

func (s *keySigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := s.file.state()
	if signer == nil && err == nil {
		s.human(func() { signer, err = s.keyring.unlock(s.ctx, s.file) })
	}
	if err != nil {
		return nil, fmt.Errorf("use key %q: %w", s.file.path, err)
	}
	if as, ok := signer.(ssh.AlgorithmSigner); ok {
		return as.SignWithAlgorithm(rand, data, algorithm)
	}
	return signer.Sign(rand, data)
}
