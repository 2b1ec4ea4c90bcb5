package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"fleet/closure/run"
)

// requireNix ends the test where there is no Nix to compare with.
func requireNix(t testing.TB) {
	t.Helper()
	if err := run.Run(context.Background(), run.Cmd{Argv: []string{"nix-store", "--version"}}); err != nil {
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip("nix-store is needed: ", err)
	}
}

// makeTree makes a tree with one of everything that a NAR can hold.
func makeTree(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "empty", "a/b/c", "share"} {
		must(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for size := range 18 {
		must(os.WriteFile(filepath.Join(root, "share", fmt.Sprintf("size-%d", size)), bytes.Repeat([]byte{0xa5}, size), 0o644))
	}
	must(os.WriteFile(filepath.Join(root, "bin", "run"), []byte("#!/bin/sh\n"), 0o755))
	must(os.WriteFile(filepath.Join(root, "bin", "group-executable"), []byte("x"), 0o654))
	must(os.WriteFile(filepath.Join(root, "a.b"), []byte("sorts before a/"), 0o600))
	must(os.WriteFile(filepath.Join(root, "größe"), bytes.Repeat([]byte("large"), 300_000), 0o444))
	must(os.WriteFile(filepath.Join(root, "a\xff\n"), nil, 0o444))
	must(os.WriteFile(filepath.Join(root, strings.Repeat("n", MaxNameLength)), nil, 0o444))
	must(os.Symlink("../nowhere", filepath.Join(root, "a", "dangling")))
	must(os.Symlink("/etc/passwd", filepath.Join(root, "a", "b", "absolute")))
	must(os.Symlink("bin", filepath.Join(root, "to-a-directory")))
	return root
}

func nixDump(t testing.TB, path string) []byte {
	t.Helper()
	requireNix(t)
	golden, err := run.Output(context.Background(), run.Cmd{Argv: []string{"nix-store", "--dump", path}})
	if err != nil {
		t.Fatal(err)
	}
	return golden
}

func TestDumpIsWhatNixDumps(t *testing.T) {
	tree := makeTree(t)
	for _, path := range []string{tree, tree + "/bin/run", tree + "/a.b", tree + "/a/dangling", tree + "/to-a-directory", tree + "/empty"} {
		golden := nixDump(t, path)
		var ours bytes.Buffer
		if err := Dump(&ours, path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, ours.Bytes()) {
			t.Errorf("%s: %d bytes, Nix has %d", path, ours.Len(), len(golden))
		}
		if size, err := Size(path); err != nil || size != uint64(len(golden)) {
			t.Errorf("%s: size %d, %v; Nix has %d", path, size, err, len(golden))
		}
	}
}

func TestNixRestoresWhatWeDumpAndWeWhatNixDumps(t *testing.T) {
	tree := makeTree(t)
	golden := nixDump(t, tree)
	theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
	var archive bytes.Buffer
	if err := Dump(&archive, tree); err != nil {
		t.Fatal(err)
	}
	if err := run.Run(context.Background(), run.Cmd{Argv: []string{"nix-store", "--restore", theirs}, Stdin: &archive}); err != nil {
		t.Fatal(err)
	}
	if err := Restore(bytes.NewReader(golden), ours); err != nil {
		t.Fatal(err)
	}
	for _, restored := range []string{theirs, ours} {
		var again bytes.Buffer
		if err := Dump(&again, restored); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, again.Bytes()) {
			t.Errorf("%s differs from the tree", restored)
		}
	}
}

func TestRestoreReplacesNothing(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	if err := os.WriteFile(dest, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(bytes.NewReader(sample(t)), dest); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if data, _ := os.ReadFile(dest); string(data) != "mine" {
		t.Errorf("the file holds %q", data)
	}
}

func TestRestoreLeavesNothingOfABrokenNAR(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "dest")
	archive := sample(t)
	if err := Restore(bytes.NewReader(archive[:len(archive)-8]), dest); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
		t.Error("it is still there:", err)
	}
}

func TestDumpRefusesSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var format *FormatError
	for _, path := range []string{dir, filepath.Join(dir, "pipe"), "/dev/null"} {
		if err := Dump(io.Discard, path); !errors.As(err, &format) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Dump(io.Discard, filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestDumpBoundsDepth(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", MaxDepth+1)), 0o755); err != nil {
		t.Fatal(err)
	}
	var format *FormatError
	if err := Dump(io.Discard, dir); !errors.As(err, &format) {
		t.Error(err)
	}
	if err := Dump(io.Discard, filepath.Join(dir, "d")); err != nil {
		t.Error(err)
	}
}

func BenchmarkDump(b *testing.B) {
	dir := b.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	for i := range 1000 {
		sub := filepath.Join(dir, fmt.Sprint(i/50))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	size, err := Size(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		if err := Dump(io.Discard, dir); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFilesAreVisitedInTheOrderOfTheNAR(t *testing.T) {
	dir := t.TempDir()
	for name, contents := range map[string]string{"b": "second", "a/z": "first", "a.b": "in between", "c/empty": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var seen []string
	visit := func(name string, size uint64, contents io.Reader) error {
		data := make([]byte, min(size, 5))
		_, err := io.ReadFull(contents, data)
		seen = append(seen, fmt.Sprintf("%s %d %s", name, size, data))
		return err
	}
	if err := Files(dir, visit); err != nil {
		t.Fatal(err)
	}
	want := []string{"a/z 5 first", "a.b 10 in be", "b 6 secon", "c/empty 0 "}
	if !slices.Equal(seen, want) {
		t.Errorf("got %q", seen)
	}
	enough := errors.New("enough")
	if err := Files(dir, func(string, uint64, io.Reader) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Files(dir, visit); err == nil || !strings.Contains(err.Error(), "neither a file") {
		t.Error(err)
	}
}
