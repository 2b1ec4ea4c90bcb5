package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fleet/closure/run"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// writerDir makes this test binary a writer that writes one value after the other into the folder, until it is killed; writerSlowly
// has it do so as on a file system that cannot exchange folders.
const (
	writerDir    = "FLEET_TEST_STATE_WRITER"
	writerSlowly = "FLEET_TEST_STATE_WRITER_SLOWLY"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeForever(dir, os.Getenv(writerSlowly) != ""))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// value is the nth value of a secret: all that belongs to it says so.
func value(n int) *Entry {
	gen := secret.Gen(fmt.Sprintf("%032x", n))
	e := &Entry{ID: secret.ID{Scope: secret.Shared, Name: "db"}, Owners: map[string]secret.Owner{}, Public: map[string][]byte{"public": []byte(strconv.Itoa(n))}}
	c := seal.Context{Fleet: "default", ID: e.ID, Part: "public", Gen: gen, Seq: uint64(n)}
	e.Meta = secret.Meta{Format: secret.Format, Gen: gen, Seq: uint64(n), Origin: secret.Generated, Parts: map[string]secret.MetaPart{
		"secret": {Encrypted: true, Commit: strings.Repeat("ab", 32)},
		"public": {Encoding: secret.EncodingText, Commit: seal.Commit(c, nil, secret.NewPlain([]byte(strconv.Itoa(n))))},
	}}
	for i := range 5 + n%3 {
		armor := fmt.Sprintf("%d for %d %s", n, i, strings.Repeat("x", 1000))
		e.Owners[fmt.Sprintf("host-%d", i)] = secret.Owner{Format: secret.Format, Gen: gen, Key: "SHA256:" + strings.Repeat("A", 43),
			Parts: map[string]secret.SealedPart{"secret": {Armor: armor, SHA256: secret.Checksum(armor)}}}
	}
	return e
}

func writeForever(dir string, slowly bool) error {
	s, err := Open(dir, "default", run.RunnerFunc(run.Run))
	if err != nil {
		return err
	}
	if _, err := s.Lock(context.Background()); err != nil {
		return err
	}
	tree, err := s.Load()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for n := int(tree.Secrets[value(1).ID].Meta.Seq) + 1; ; n++ {
		if slowly {
			err = putSlowly(s, value(n))
		} else {
			err = s.Put(context.Background(), value(n))
		}
		if err != nil {
			return err
		}
	}
}

// putSlowly is what Put comes to where swap fails.
func putSlowly(s *Store, e *Entry) error {
	files, err := s.complete(e)
	if err != nil {
		return err
	}
	root, err := s.makeRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	parent, err := makeFolders(root, "secrets/shared")
	if err != nil {
		return err
	}
	defer parent.Close()
	suffix, err := randomSuffix()
	if err != nil {
		return err
	}
	if err := buildFolder(parent, newPrefix+"db-"+suffix, "db", files, nil); err != nil {
		return err
	}
	return swapSlowly(parent, "db", suffix)
}

// isWhole says what is wrong with a value that was read back.
func isWhole(e *Entry) error {
	if e == nil {
		return errors.New("it is gone")
	}
	if err := whole(e); err != nil {
		return err
	}
	if n := int(e.Meta.Seq); len(e.Owners) != 5+n%3 || string(e.Public["public"]) != strconv.Itoa(n) {
		return fmt.Errorf("value %d has %d owners and %q", n, len(e.Owners), e.Public["public"])
	}
	return nil
}

func killAndLook(t *testing.T, rounds int, slowly string, look func(s *Store) error) {
	t.Helper()
	dir := t.TempDir()
	if err := run.Run(t.Context(), run.Cmd{Argv: []string{"git", "-C", dir, "init", "-q"}}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, "default", run.RunnerFunc(run.Run))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), value(1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.Put(t.Context(), value(2)); err != nil {
		t.Fatal(err)
	}
	atMost := 4 * time.Since(began)
	last := 0
	for range rounds {
		process, err := run.Start(t.Context(), run.Cmd{Argv: []string{os.Args[0]}, Env: []string{writerDir + "=" + dir, writerSlowly + "=" + slowly}, PipeStdout: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := process.Stdout.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(atMost))
		if err := syscall.Kill(-process.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait()
		if err := look(s); err != nil {
			t.Fatal(err)
		}
		tree, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		if n := int(tree.Secrets[value(1).ID].Meta.Seq); n < last {
			t.Fatalf("value %d is back after %d", n, last)
		} else {
			last = n
		}
	}
	t.Logf("%d values in %d lives", last, rounds)
	if last < rounds/4 {
		t.Errorf("the writers wrote %d values alone: they were killed too early to prove anything", last)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	entries, err := os.ReadDir(filepath.Join(dir, "fleet-state/default/secrets/shared"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func lookWithoutMending(s *Store) error {
	tree, err := s.Load()
	if err != nil {
		return err
	}
	return isWhole(tree.Secrets[value(1).ID])
}

func TestAWriterThatIsKilledLeavesTheOldValueOrTheNewOne(t *testing.T) {
	killAndLook(t, 60, "", lookWithoutMending)
}

func TestWhereFoldersCannotBeExchangedTheNextWriterPutsTheOldOneBack(t *testing.T) {
	killAndLook(t, 60, "yes", func(s *Store) error {
		unlock, err := s.Lock(context.Background())
		if err != nil {
			return err
		}
		unlock()
		return lookWithoutMending(s)
	})
}

func TestAReaderSeesWholeValuesWhileTheyAreExchanged(t *testing.T) {
	s, err := Open(t.TempDir(), "default", run.RunnerFunc(run.Run))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), value(1)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		var err error
		for n := 2; n < 150 && err == nil; n++ {
			err = s.Put(context.Background(), value(n))
		}
		done <- err
	}()
	for reads := 0; ; reads++ {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			t.Logf("%d reads", reads)
			return
		default:
		}
		if err := lookWithoutMending(s); err != nil {
			t.Fatal(err)
		}
	}
}
