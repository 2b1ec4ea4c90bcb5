package state_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/closure/run"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

const (
	gen1 = secret.Gen("11111111111111111111111111111111")
	gen2 = secret.Gen("22222222222222222222222222222222")
	gen3 = secret.Gen("33333333333333333333333333333333")
)

func id(t testing.TB, text string) secret.ID {
	t.Helper()
	id, err := secret.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// entry makes a secret with an encrypted part, of which the armor is made up, and a public one.
func entry(t testing.TB, name string, gen secret.Gen, seq uint64, owners ...string) *state.Entry {
	t.Helper()
	e := &state.Entry{ID: id(t, name), Owners: map[string]secret.Owner{}, Public: map[string][]byte{"public": []byte("a public text " + string(gen) + "\n")}}
	c := seal.Context{Fleet: "default", ID: e.ID, Part: "public", Gen: gen, Seq: seq}
	e.Meta = secret.Meta{
		CreatedAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Format: secret.Format, Gen: gen, Seq: seq, Origin: secret.Generated,
		GenerationData: []byte(`{"size":32}`),
		Parts: map[string]secret.MetaPart{
			"secret": {Encrypted: true, Commit: strings.Repeat("ab", 32)},
			"public": {Encoding: secret.EncodingText, Commit: seal.Commit(c, nil, secret.NewPlain([]byte(string(e.Public["public"]))))},
		},
	}
	for _, host := range owners {
		e.Owners[host] = owner(host, gen)
	}
	return e
}

func owner(host string, gen secret.Gen) secret.Owner {
	sum := sha256.Sum256([]byte(host))
	armor := fmt.Sprintf("-----BEGIN AGE ENCRYPTED FILE-----\n%s %s\n-----END AGE ENCRYPTED FILE-----\n", host, gen)
	return secret.Owner{
		Format: secret.Format, Gen: gen, Key: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]),
		Parts: map[string]secret.SealedPart{"secret": {Armor: armor, SHA256: secret.Checksum(armor)}},
	}
}

func open(t testing.TB, dir string) *state.Store {
	t.Helper()
	s, err := state.Open(dir, "default", run.RunnerFunc(run.Run))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *state.Store, e *state.Entry) {
	t.Helper()
	if err := s.Put(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, s *state.Store) *state.Tree {
	t.Helper()
	tree, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// repository makes a work tree of git without a commit.
func repository(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	configure(t, dir)
	return dir
}

func configure(t testing.TB, dir string) {
	t.Helper()
	git(t, dir, "config", "user.name", "A Person")
	git(t, dir, "config", "user.email", "person@example.org")
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(t, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryGit(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	out, err := run.Output(context.Background(), run.Cmd{Argv: append([]string{"git", "-C", dir}, args...), Env: []string{"LC_ALL=C"}})
	return string(out), err
}

// snapshot is every file below dir with its time and content, without git's.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		files[rel] = fmt.Sprintf("%s %s", info.ModTime().Format(time.RFC3339Nano), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// requireRoot is for tests that mount something.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatal("this test mounts a file system, which only root can")
	}
	t.Skip("this test mounts a file system, which only root can")
}

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func sealedText(armor string) secret.SealedPart {
	return secret.SealedPart{Armor: armor, SHA256: secret.Checksum(armor)}
}
