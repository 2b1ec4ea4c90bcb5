package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"fleet/cmd/fleet-helper/internal/cli"
)

// editPrivatelyMain is a program for tests: edit-privately EDITOR ARGS… edits what is on standard input and prints what became of it.
func editPrivatelyMain() {
	value, err := io.ReadAll(os.Stdin)
	env := cli.OSEnv("test")
	env.Executable = filepath.Join(filepath.Dir(env.Executable), "fleet") // which name it has says what it is
	if err == nil {
		value, err = editPrivately(context.Background(), env, os.Args[1:], "token-secret", value)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = os.Stdout.Write(value)
}

func TestANewlineOfTheEditorsOwnIsNoneOfTheValue(t *testing.T) {
	for name, test := range map[string]struct{ old, edited, want string }{
		"a line that had none":                       {"old", "new\n", "new"},
		"a line that had one":                        {"old\n", "new\n", "new\n"},
		"a new value of one line":                    {"", "new\n", "new"},
		"a new value of more lines":                  {"", "a\nb\n", "a\nb\n"},
		"an editor that adds nothing":                {"old", "new", "new"},
		"lines of which the last one had no newline": {"a\nb", "a\nc\n", "a\nc"},
	} {
		if got := string(withoutEditorNewline([]byte(test.old), []byte(test.edited))); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestTheEditorIsThatOfTheEnvironment(t *testing.T) {
	for want, variables := range map[string]map[string]string{
		"[vi]":        {},
		"[nano]":      {"EDITOR": "nano"},
		"[vim -n]":    {"EDITOR": "nano", "VISUAL": "  vim  -n "},
		"[emacs -nw]": {"EDITOR": "emacs -nw", "VISUAL": " "},
	} {
		if got := fmt.Sprint(editorOf(&cli.Env{Getenv: func(name string) string { return variables[name] }})); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
