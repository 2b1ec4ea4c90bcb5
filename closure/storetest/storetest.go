// Package storetest makes private Nix stores for tests: real ones, below a temporary folder, that Nix's own
// programs and daemon work on. Their paths are called /nix/store/… as everywhere. It is for tests only.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/storepath"
)

// Store is a private store. It is gone when the test has ended.
type Store struct {
	// Root is the folder that holds it: the contents of /nix/store/x are at Root/nix/store/x.
	Root string

	t       testing.TB
	scratch string
}

// RequireNix skips the test where Nix is not installed, and fails it where FLEET_REQUIRE_ALL is 1.
func RequireNix(t testing.TB) {
	t.Helper()
	err := run.Run(t.Context(), run.Cmd{Argv: []string{"nix-store", "--version"}})
	switch {
	case err == nil:
	case os.Getenv("FLEET_REQUIRE_ALL") == "1":
		t.Fatal("Nix is needed: ", err)
	default:
		t.Skip("Nix is needed: ", err)
	}
}

// New makes an empty store.
func New(t testing.TB) *Store {
	t.Helper()
	RequireNix(t)
	// Nix makes what is in a store read-only, which os.RemoveAll of t.TempDir cannot remove for non-root users.
	dir, err := os.MkdirTemp("", "fleet-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeStore(dir); err != nil {
			t.Error(err)
		}
	})
	s := &Store{Root: filepath.Join(dir, "root"), t: t, scratch: filepath.Join(dir, "scratch")}
	if err := errors.Join(os.Mkdir(s.Root, 0o755), os.Mkdir(s.scratch, 0o755)); err != nil {
		t.Fatal(err)
	}
	s.Nix("--init")
	return s
}

func removeStore(dir string) error {
	walkErr := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(walkErr, os.RemoveAll(dir))
}

// RealPath is where the contents of a path are.
func (s *Store) RealPath(p storepath.Path) string { return s.Root + p.String() }

// Options open the store with a daemon process.
func (s *Store) Options() daemon.Options { return daemon.Options{Store: s.Root} }

// Nix runs nix-store on the store and returns what it prints.
func (s *Store) Nix(args ...string) string {
	s.t.Helper()
	return s.NixInput(nil, args...)
}

// NixInput is [Store.Nix] with an input.
func (s *Store) NixInput(stdin io.Reader, args ...string) string {
	s.t.Helper()
	argv := append([]string{"nix-store", "--store", s.Root}, args...)
	out, err := run.Output(s.t.Context(), run.Cmd{Argv: argv, Stdin: stdin})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// Connect opens a connection that is closed when the test ends.
func (s *Store) Connect() *daemon.Conn {
	s.t.Helper()
	c, err := daemon.Open(s.t.Context(), s.Options())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Socket starts a real nix-daemon for the store and returns its socket. It runs until the test ends.
func (s *Store) Socket() string {
	s.t.Helper()
	socket := filepath.Join(s.scratch, "socket")
	ctx, cancel := context.WithCancel(context.Background())
	process, err := run.Start(ctx, run.Cmd{
		Argv: []string{"nix-daemon", "--store", s.Root},
		Env:  []string{"NIX_DAEMON_SOCKET_PATH=" + socket, "NIX_REMOTE="},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = process.Wait()
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return socket
		}
		select {
		case <-process.Done():
			s.t.Fatal(process.Wait())
		default:
		}
		if time.Since(start) > 30*time.Second {
			s.t.Fatal("nix-daemon does not listen")
		}
	}
}

// Text is a path to add: a file that names its references, as real ones do.
type Text struct {
	Name string
	// Contents come before the references.
	Contents string
	// References are other paths; SelfReference adds the path itself.
	References    []storepath.Path
	SelfReference bool
}

// Prepare makes the info and the NAR of a text, without adding it.
func Prepare(t testing.TB, text Text) (storepath.Info, []byte) {
	t.Helper()
	contents := text.Contents
	for _, ref := range text.References {
		contents += "\n" + ref.String()
	}
	digest := sha256.Sum256([]byte(text.Name + "\n" + contents))
	path, err := storepath.ParseBase(storepath.EncodeBase32(digest[:20]) + "-" + text.Name)
	if err != nil {
		t.Fatal(err)
	}
	info := storepath.Info{Path: path, References: append([]storepath.Path{}, text.References...)}
	if text.SelfReference {
		contents += "\n" + path.String()
		info.References = append(info.References, path)
	}
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	if err := errors.Join(w.File("", false, uint64(len(contents)), strings.NewReader(contents)), w.Close()); err != nil {
		t.Fatal(err)
	}
	info.NarHash, info.NarSize = sha256.Sum256(archive.Bytes()), uint64(archive.Len())
	storepath.Sort(info.References)
	return info, archive.Bytes()
}

// Add adds a text to the store.
func (s *Store) Add(c *daemon.Conn, text Text) storepath.Info {
	s.t.Helper()
	info, archive := Prepare(s.t, text)
	if err := c.AddToStoreNar(s.t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true}); err != nil {
		s.t.Fatal(err)
	}
	return info
}

// Diamond adds four paths: top refers to left and right, both of which refer to base, which refers to itself.
func (s *Store) Diamond(c *daemon.Conn) (base, left, right, top storepath.Info) {
	s.t.Helper()
	base = s.Add(c, Text{Name: "base", Contents: fmt.Sprint("base of ", s.t.Name()), SelfReference: true})
	left = s.Add(c, Text{Name: "left", Contents: "left", References: []storepath.Path{base.Path}})
	right = s.Add(c, Text{Name: "right", Contents: "right", References: []storepath.Path{base.Path}})
	top = s.Add(c, Text{Name: "top", Contents: "top", References: []storepath.Path{left.Path, right.Path}})
	return base, left, right, top
}
