package step_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// TestMain makes the test binary what fleet-helper is: the child, and the marking of what generators write.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "encrypt":
		os.Exit(status(mark(step.Encrypted)))
	case filepath.Base(os.Args[0]) == "gh" && len(os.Args) == 2 && os.Args[1] == "public":
		os.Exit(status(mark(step.Public)))
	case len(os.Args) == 2 && os.Args[1] == step.ChildCommand:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(status(step.Child(ctx, os.Stdin, os.Stdout)))
	case len(os.Args) == 2 && os.Args[1] == "run-step":
		os.Exit(status(runFromStdin()))
	}
	os.Exit(m.Run())
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func mark(kind step.Kind) error {
	value, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(step.Mark(kind, secret.NewPlain(value)).Bytes())
	return err
}

// runFromStdin is a process that runs a generator, for the tests that kill it.
func runFromStdin() error {
	var req step.Request
	if err := json.NewDecoder(os.Stdin).Decode(&req); err != nil {
		return err
	}
	fmt.Println("begins")
	_, err := step.Run(context.Background(), req, step.Options{Helper: os.Args[0]})
	return err
}

// owner is a made-up host with its key.
type owner struct {
	key        string
	identities []age.Identity
}

func newOwner(t testing.TB) owner {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	o := owner{key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))}
	if o.identities, err = seal.LoadIdentities(file); err != nil {
		t.Fatal(err)
	}
	return o
}

// generator writes a script that anybody can run.
func generator(t testing.TB, script string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleet-generator-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "generate")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, []byte("#!/bin/sh\nset -eu\n"+script), 0o755)); err != nil {
		t.Fatal(err)
	}
	return program
}

// request asks one owner's secret of a script.
func request(t testing.TB, o owner, script string) step.Request {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return step.Request{
		Program: generator(t, script), Fleet: "default", ID: secret.ID{Scope: secret.OfHost("web"), Name: "db"}, Gen: gen, Seq: 1,
		Owners: map[string]string{"web": o.key}, Sandbox: step.SandboxStrict, Timeout: time.Minute,
	}
}

func options(t testing.TB) step.Options {
	t.Helper()
	return step.Options{Helper: os.Args[0], Warn: func(text string) { t.Log("warning:", text) }}
}

// value opens one part of a result as its owner.
func value(t testing.TB, req step.Request, result step.Result, o owner, part string) string {
	t.Helper()
	p, ok := result.Parts[part]
	if !ok || !p.Encrypted {
		t.Fatalf("no encrypted part %q in %+v", part, result.Parts)
	}
	opened, err := seal.Open(result.Sealed["web"][part].Armor, req.Context(part), p.Commit, o.identities...)
	if err != nil {
		t.Fatal(err)
	}
	return string(opened.Value.Bytes())
}
