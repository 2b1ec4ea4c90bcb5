//go:build !linux

package main

import (
	"context"
	"errors"

	"fleet/cmd/fleet-helper/internal/cli"
)

// editPrivately is not possible where there is no file system in memory that is a process' own.
func editPrivately(context.Context, *cli.Env, []string, string, []byte) ([]byte, error) {
	return nil, cli.WithHint(errors.New("there is no private memory for files on this system"), "fleet secrets get prints it, fleet secrets set reads it from standard input")
}

// newEditValue is what only Linux has.
func newEditValue() *cli.Command {
	return noHost("edit-value")
}
