package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// rootFor makes the tree of the name that the program was started by: a generator finds it as `gh` and as `encrypt`.
func rootFor(argv0 string) *cli.Command {
	switch filepath.Base(argv0) {
	case "gh":
		return newGh()
	case "encrypt":
		return newEncrypt()
	}
	return newRoot()
}

// newEncrypt makes the filter that marks a value as one to encrypt.
func newEncrypt() *cli.Command {
	return &cli.Command{
		Name:    "encrypt",
		Summary: "Mark standard input as a value that is to be encrypted.",
		Help:    "For generators of secrets: `… | encrypt > $out/secret`. The value is sealed to the owners once the generator has ended.",
		Hidden:  true,
		New: func(*pflag.FlagSet) cli.RunFunc {
			return func(_ context.Context, env *cli.Env, _ []string) error {
				value, err := readValue(env.Stdin, "standard input")
				if err != nil {
					return err
				}
				// The mark alone says better what went wrong than a file without it.
				_, err = env.Stdout.Write(step.Mark(step.Encrypted, value).Bytes())
				if value.Len() == 0 {
					return errors.Join(err, errors.New("standard input is empty"))
				}
				return err
			}
		},
	}
}

// newGh makes the helper of generators.
func newGh() *cli.Command {
	return &cli.Command{
		Name:    "gh",
		Summary: "Make values of secrets; for generators.",
		Help: `
A generator finds this program in its PATH. Outputs are new files, by convention in $out. What is private is marked as such, and sealed to the
owners once the generator has ended; values are never arguments.`,
		Hidden: true,
		Sub: []*cli.Command{
			ghFilter("public", "Write standard input as a public part.", step.Public),
			ghFilter("private", "Write standard input as an encrypted part.", step.Encrypted),
			newGhDecode(), newGhGenerate(), newGhHash(), newGhX509(),
		},
	}
}

func ghFilter(name, summary string, kind step.Kind) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, Help: "Reads the value from standard input.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			out := addOutput(flags, "output", "o", kind)
			encoding := addEncoding(flags)
			return func(_ context.Context, env *cli.Env, _ []string) error {
				if err := errors.Join(out.check(), encoding.check()); err != nil {
					return err
				}
				value, err := readValue(env.Stdin, "standard input")
				if err != nil {
					return err
				}
				return out.write(encoding.encode(value))
			}
		},
	}
}

func newGhDecode() *cli.Command {
	return &cli.Command{
		Name: "decode", Summary: "Print a value that this program has written.", Help: "Takes the mark off a file, and prints the rest.",
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			in := addInput(flags, "input", "i", "`FILE` to read")
			return func(_ context.Context, env *cli.Env, _ []string) error {
				value, err := in.read()
				if err != nil {
					return err
				}
				_, err = env.Stdout.Write(value.Bytes())
				return err
			}
		},
	}
}

// ghInput is a file that is read, with a mark or without one.
type ghInput struct {
	flag, path string
}

func addInput(flags *pflag.FlagSet, name, short, usage string) *ghInput {
	in := &ghInput{flag: name}
	flags.StringVarP(&in.path, name, short, "", usage)
	return in
}

func (in *ghInput) read() (secret.Plain, error) {
	if in.path == "" {
		return secret.Plain{}, cli.Usagef("--%s is missing", in.flag)
	}
	f, err := os.Open(in.path)
	if err != nil {
		return secret.Plain{}, err
	}
	defer f.Close()
	file, err := readValue(f, in.path)
	if err != nil {
		return secret.Plain{}, err
	}
	_, value := step.Unmark(file)
	return value, nil
}

// readValue reads to the end, within the bounds of a value.
func readValue(r io.Reader, name string) (secret.Plain, error) {
	data, err := io.ReadAll(io.LimitReader(r, secret.MaxValue+64))
	if err != nil {
		return secret.Plain{}, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) >= secret.MaxValue+64 {
		clear(data)
		return secret.Plain{}, fmt.Errorf("read %s: a value has at most %d bytes", name, secret.MaxValue)
	}
	return secret.NewPlain(data), nil
}

// ghOutput is a file that is made.
type ghOutput struct {
	flag, path string
	kind       step.Kind
}

func addOutput(flags *pflag.FlagSet, name, short string, kind step.Kind) *ghOutput {
	out := &ghOutput{flag: name, kind: kind}
	flags.StringVarP(&out.path, name, short, "", fmt.Sprintf("new `FILE` for the %s value", kind))
	return out
}

// addPair binds the flags of what has a public and a private half.
func addPair(flags *pflag.FlagSet) (public, private *ghOutput) {
	return addOutput(flags, "public", "p", step.Public), addOutput(flags, "private", "s", step.Encrypted)
}

func (o *ghOutput) check() error {
	if o.path == "" {
		return cli.Usagef("--%s is missing", o.flag)
	}
	return nil
}

// write makes the file, which must not be there.
func (o *ghOutput) write(value secret.Plain) error {
	file := step.Mark(o.kind, value)
	defer file.Wipe()
	return writeNew(o.path, file.Bytes())
}

func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// ghEncoding is how a value is written.
type ghEncoding struct{ name string }

func addEncoding(flags *pflag.FlagSet) *ghEncoding {
	e := &ghEncoding{}
	flags.StringVarP(&e.name, "encoding", "e", "raw", "how to write the value: `ENCODING` is raw, base64 or hex")
	return e
}

func (e *ghEncoding) check() error {
	if e.name != "raw" && e.name != "base64" && e.name != "hex" {
		return cli.Usagef("--encoding %q: want raw, base64 or hex", e.name)
	}
	return nil
}

func (e *ghEncoding) encode(value secret.Plain) secret.Plain {
	switch e.name {
	case "base64":
		return secret.NewPlain(base64.StdEncoding.AppendEncode(nil, value.Bytes()))
	case "hex":
		return secret.NewPlain(hex.AppendEncode(nil, value.Bytes()))
	}
	return value
}

// trimLine takes the newline off that a shell puts at the end of a line.
func trimLine(value secret.Plain) secret.Plain {
	return secret.NewPlain([]byte(strings.TrimSuffix(strings.TrimSuffix(string(value.Bytes()), "\n"), "\r")))
}
