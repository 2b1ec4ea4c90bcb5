package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"fleet/closure/run"
	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/material"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

func newGhHash() *cli.Command {
	return &cli.Command{
		Name: "hash", Summary: "Hash a password for a file of users.",
		Help: "Reads a file with a password, with the mark of this program or without one. A newline at its end does not belong to the password.",
		Sub: []*cli.Command{
			ghHash("bcrypt", "Hash a password with bcrypt.", func(flags *pflag.FlagSet) hashPassword {
				cost := flags.Int("cost", material.DefaultBcrypt, "`NUMBER` of doublings of the work")
				return func(_ context.Context, password secret.Plain) (secret.Plain, error) {
					return material.Bcrypt(password, *cost)
				}
			}),
			ghHash("yescrypt", "Hash a password with yescrypt.", func(*pflag.FlagSet) hashPassword { return hashYescrypt }),
		},
	}
}

type hashPassword func(ctx context.Context, password secret.Plain) (secret.Plain, error)

func ghHash(name, summary string, bind func(*pflag.FlagSet) hashPassword) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, Help: "The hash is as in /etc/shadow.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			in := addInput(flags, "input", "i", "`FILE` with the password")
			out := addOutput(flags, "output", "o", step.Encrypted)
			hash := bind(flags)
			return func(ctx context.Context, _ *cli.Env, _ []string) error {
				if err := out.check(); err != nil {
					return err
				}
				value, err := in.read()
				if err != nil {
					return err
				}
				password := trimLine(value)
				defer password.Wipe()
				hashed, err := hash(ctx, password)
				if err != nil {
					return err
				}
				return out.write(hashed)
			}
		},
	}
}

// hashYescrypt has mkpasswd hash: the only maintained code for yescrypt is libxcrypt's.
func hashYescrypt(ctx context.Context, password secret.Plain) (secret.Plain, error) {
	if password.Len() == 0 || bytes.ContainsAny(password.Bytes(), "\x00\r\n") {
		return secret.Plain{}, errors.New("hash a password: it is empty, or has a newline or a zero byte in it")
	}
	out, err := run.Output(ctx, run.Cmd{
		Argv: []string{"mkpasswd", "--stdin", "--method=yescrypt"}, Stdin: bytes.NewReader(append(bytes.Clone(password.Bytes()), '\n')), MaxOutput: 4 << 10,
	})
	var missing *run.NotFoundError
	if errors.As(err, &missing) {
		return secret.Plain{}, cli.WithHint(fmt.Errorf("hash a password: %w", err), "mkpasswd is in the package mkpasswd of nixpkgs, and in whois of Debian")
	}
	if err != nil {
		return secret.Plain{}, fmt.Errorf("hash a password: %w", err)
	}
	hash := strings.TrimSpace(string(out))
	if !strings.HasPrefix(hash, "$y$") || strings.ContainsAny(hash, " \n") {
		return secret.Plain{}, errors.New("hash a password: mkpasswd gave no yescrypt hash")
	}
	return secret.NewPlain([]byte(hash)), nil
}
