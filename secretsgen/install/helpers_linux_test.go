package install

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// requireRoot skips a test that gives files away, and fails it where everything is expected to be there.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// bench is a made-up host with a root folder of its own.
type bench struct {
	t    testing.TB
	root string
	// key is the file of the host's key.
	key string
	to  seal.Recipient
	m   *Manifest
	log []string
	// gens counts, for generations that can be told apart.
	gens int
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir()}
	// Owners must get through to their files.
	for dir := b.root; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		b.must(os.Chmod(dir, 0o755))
	}
	for _, dir := range []string{"run", "etc", "links"} {
		b.must(os.Mkdir(b.path(dir), 0o755))
	}
	b.write("etc/passwd", "root:x:0:0::/root:/bin/sh\ngit:x:990:980::/:/bin/sh\n# comment\nbroken\n+::::\nshort:x:1\nbad:x:y:z::\ngit:x:1:1::/:/bin/sh\n")
	b.write("etc/group", "root:x:0:\ngit:x:980:\nkeys:x:96:git,"+strings.Repeat("member,", 20000)+"\nbad:x:-1:\n")
	b.newKey()
	b.m = &Manifest{Format: 1, Fleet: "default", Host: "web", Identities: []string{b.path("absent"), b.key}, Secrets: []Secret{}, Templates: []Template{}}
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.root, name) }

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	b.must(os.WriteFile(b.path(name), []byte(text), 0o644))
}

// newKey gives the host another key.
func (b *bench) newKey() {
	b.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	b.must(err)
	block, err := ssh.MarshalPrivateKey(private, "")
	b.must(err)
	b.key = b.path("key")
	b.must(os.WriteFile(b.key, pem.EncodeToMemory(block), 0o600))
	key, err := ssh.NewPublicKey(public)
	b.must(err)
	b.to, err = seal.ParseRecipient(string(ssh.MarshalAuthorizedKey(key)))
	b.must(err)
}

func (b *bench) nextGen() secret.Gen {
	b.gens++
	return secret.Gen(fmt.Sprintf("%032x", b.gens))
}

// secret makes a secret with one encrypted part of a new generation.
func (b *bench) secret(name, value string) Secret {
	b.t.Helper()
	s := Secret{ID: secret.ID{Scope: secret.OfHost("web"), Name: name}, Gen: b.nextGen(), Seq: 1, Owner: "git", Group: "keys", Mode: "0440", Parts: map[string]Part{}}
	b.encrypted(&s, "secret", value)
	return s
}

func (b *bench) context(s *Secret, part string) seal.Context {
	return seal.Context{Fleet: b.m.Fleet, ID: s.ID, Part: part, Gen: s.Gen, Seq: s.Seq}
}

func (b *bench) encrypted(s *Secret, part, value string) {
	b.t.Helper()
	salt, err := seal.NewSalt()
	b.must(err)
	c, plain := b.context(s, part), secret.NewPlain([]byte(value))
	sealed, err := seal.Seal(c, salt, plain, b.to)
	b.must(err)
	s.Parts[part] = Part{Encrypted: true, Commit: seal.Commit(c, salt, plain), Armor: sealed.Armor}
}

func (b *bench) public(s *Secret, part, encoding, text, value string) {
	s.Parts[part] = Part{Commit: seal.Commit(b.context(s, part), nil, secret.NewPlain([]byte(value))), Encoding: encoding, Text: text}
}

func (b *bench) options() Options {
	return Options{Root: b.path("run"), Links: b.path("links"), Accounts: b.path("etc"), Log: func(line string) { b.log = append(b.log, line) }}
}

// install runs the installer, which must not fail as a whole, and returns what failed.
func (b *bench) install() []Failure {
	b.t.Helper()
	b.log = nil
	report, err := Install(b.t.Context(), b.m, b.options())
	b.must(err)
	return report.Failed
}

// good runs the installer, in which nothing must fail.
func (b *bench) good() {
	b.t.Helper()
	if failed := b.install(); len(failed) > 0 {
		b.t.Fatalf("failed: %+v", failed)
	}
}

// want checks files below the root: "CONTENT UID:GID MODE" by path, or "" for one that is not there.
func (b *bench) want(files map[string]string) {
	b.t.Helper()
	for name, want := range files {
		if got := b.describe(name); got != want {
			b.t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func (b *bench) describe(name string) string {
	data, err := os.ReadFile(b.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	b.must(err)
	info, err := os.Stat(b.path(name))
	b.must(err)
	own := ownershipOf(info)
	return fmt.Sprintf("%s %d:%d %04o", data, own.UID, own.GID, uint32(own.Mode))
}

// snapshot is all that there is below a folder: kinds, owners, modes, contents, links, inodes and times.
func (b *bench) snapshot(name string) string {
	b.t.Helper()
	var out bytes.Buffer
	b.must(filepath.WalkDir(b.path(name), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		var data []byte
		if info.Mode().IsRegular() {
			data, _ = os.ReadFile(path)
		}
		fmt.Fprintf(&out, "%s %s %+v %s %q %s\n", path, info.Mode(), ownershipOf(info), target, data, info.ModTime())
		return nil
	}))
	return out.String()
}

func (b *bench) generations(folder string) []string {
	entries, err := os.ReadDir(b.path("run/" + folder + ".d"))
	b.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// clone copies a manifest, so that it can be changed.
func clone(t testing.TB, m *Manifest) *Manifest {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Manifest)
	if err := json.Unmarshal(data, c); err != nil {
		t.Fatal(err)
	}
	return c
}
