package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/transport"
)

// newDialers makes the transports by their names in deploy.transport.
func newDialers(o *hostOptions, prompt func(context.Context, string) ([]byte, error), record func(host, address, key string, p transport.Provenance) error, banner func(host, text string)) map[string]transport.Dialer {
	options := transport.Options{ConfigFile: o.sshConfig, Prompt: prompt, RecordHostKey: record, Banner: banner}
	return map[string]transport.Dialer{
		"native":  transport.NewNative(options),
		"openssh": transport.NewOpenSSH(options),
		"local":   transport.NewLocal(),
	}
}

// specialisation finds the store path of a toplevel's specialisation in the local store.
func specialisation(toplevel, name string) (string, error) {
	if !filepath.IsLocal(name) || filepath.Base(name) != name {
		return "", fmt.Errorf("find specialisation %q: it is no name", name)
	}
	link, err := os.Readlink(filepath.Join(toplevel, "specialisation", name))
	if err != nil {
		return "", fmt.Errorf("find specialisation %q: %w", name, err)
	}
	path, err := storepath.Parse(link)
	if err != nil {
		return "", fmt.Errorf("find specialisation %q: %w", name, err)
	}
	return path.String(), nil
}

// maxKeyFile bounds a file with a signing key, in bytes.
const maxKeyFile = 4 << 10

// loadSigningKey reads a secret key as nix key generate-secret writes it. The key never reaches an error.
func loadSigningKey(file string) (*closure.SigningKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("read signing key %q: it is larger than %d bytes", file, maxKeyFile)
	}
	key, err := closure.ParseSigningKey(string(text))
	clear(text)
	if err != nil {
		return nil, fmt.Errorf("read signing key %q: %w", file, err)
	}
	return key, nil
}
