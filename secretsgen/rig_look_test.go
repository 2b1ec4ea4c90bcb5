package secretsgen_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

func (r *rig) entry(id secret.ID) *state.Entry {
	r.t.Helper()
	tree, err := r.store.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	entry := tree.Secrets[id]
	if entry == nil {
		r.t.Fatalf("the state has no %s", id)
	}
	return entry
}

// has says whether the state has a value of a secret.
func (r *rig) has(id secret.ID) bool {
	r.t.Helper()
	tree, err := r.store.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	return tree.Secrets[id] != nil
}

// read is what a host reads of its own copy.
func (r *rig) read(id secret.ID, name string) string {
	r.t.Helper()
	entry := r.entry(id)
	ref, ok := entry.Ref("default", name, "secret")
	if !ok {
		r.t.Fatalf("%s has no copy of %s", name, id)
	}
	opened, err := ref.Open(r.hosts[name].identities...)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(opened.Value.Bytes())
}

// ownersOf are the owners in the state.
func (r *rig) ownersOf(id secret.ID) string {
	r.t.Helper()
	var names []string
	for name := range r.entry(id).Owners {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// snapshot is every file of the flake's folder with its content, its mode and its time.
func (r *rig) snapshot() map[string]string {
	r.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(r.dir, path)
		if strings.HasPrefix(name, ".git") && name != filepath.Join(".git", "index") {
			return nil
		}
		text := fmt.Sprint(info.Mode())
		if !entry.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			text += fmt.Sprint(info.ModTime().UnixNano()) + " " + hex.EncodeToString(sum[:])
		}
		files[name] = text
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// nowhere fails where a value is in the flake's folder, the events or the report.
func (r *rig) nowhere(value string, said ...any) {
	r.t.Helper()
	if value == "" {
		r.t.Fatal("no value to look for")
	}
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(value)) {
			r.t.Errorf("%s holds the value", path)
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	for _, one := range append(said, r.events) {
		if strings.Contains(fmt.Sprintf("%+v", one), value) || strings.Contains(show(one), value) {
			r.t.Errorf("the value was said: %+v", one)
		}
	}
}
