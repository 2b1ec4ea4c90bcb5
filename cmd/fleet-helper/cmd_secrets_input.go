package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/secretsgen/secret"
)

// errNoValue says that nothing was given as a value.
var errNoValue = errors.New("the value is empty")

// readNewValue takes a value from standard input, or from a person where that is a terminal. It never comes from an argument. raw keeps the
// newline at the end of a single line, which is otherwise taken for the shell's.
func readNewValue(ctx context.Context, env *cli.Env, prompter *ui.Prompter, question string, raw bool) (secret.Plain, error) {
	if env.StdinTerminal {
		typed, err := prompter.NewSecret(ctx, question)
		if err != nil {
			return secret.Plain{}, cli.WithHint(fmt.Errorf("read the value: %w", err), "more than a line: write it to standard input, or use fleet secrets edit")
		}
		return checkValue(typed)
	}
	value, err := readBounded(env.Stdin)
	if err != nil {
		return secret.Plain{}, fmt.Errorf("read the value from standard input: %w", err)
	}
	if !raw {
		value = withoutShellNewline(value)
	}
	return checkValue(value)
}

// readBounded reads a little more than a value may have at most.
func readBounded(r io.Reader) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, secret.MaxValue+1))
	if err != nil {
		clear(value)
		return nil, err
	}
	return value, nil
}

// withoutShellNewline drops the newline of a single line: echo and shells add it, and no password has it. What has several lines is a file,
// such as a key, and stays as it is.
func withoutShellNewline(value []byte) []byte {
	if i := bytes.IndexByte(value, '\n'); i == len(value)-1 && i >= 0 {
		return bytes.TrimSuffix(value[:i], []byte("\r"))
	}
	return value
}

func checkValue(value []byte) (secret.Plain, error) {
	switch {
	case len(value) == 0:
		return secret.Plain{}, &cli.UsageError{Err: errNoValue, Remedy: "write the value to standard input, as in: fleet secrets set NAME < FILE; or call it on a terminal and type it"}
	case len(value) > secret.MaxValue:
		clear(value)
		return secret.Plain{}, cli.Usagef("the value is larger than %d bytes", secret.MaxValue)
	}
	return secret.NewPlain(value), nil
}

// isText says whether a terminal can show a value without being driven by it.
func isText(value []byte) bool {
	for _, r := range string(value) {
		switch {
		case r == '\n' || r == '\t':
		case r == '\uFFFD', r < ' ', r >= 0x7f && r < 0xa0:
			return false
		}
	}
	return true
}
