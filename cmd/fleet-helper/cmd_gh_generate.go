package main

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/material"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

func newGhGenerate() *cli.Command {
	return &cli.Command{
		Name: "generate", Summary: "Make a password, random bytes or a key.", Help: "Every command makes a new value each time.",
		Sub: []*cli.Command{
			ghPassword(), ghBytes(),
			ghPair("ed25519", "Make an ed25519 key pair as bytes.", "The private key is 64 bytes: the seed and the public key.", ghEd25519),
			ghPair("x25519", "Make an X25519 key pair as bytes.", "Both have 32 bytes.", func(flags *pflag.FlagSet) makePair {
				encoding := addEncoding(flags)
				return func() (material.Pair, error) {
					if err := encoding.check(); err != nil {
						return material.Pair{}, err
					}
					return encoding.pair(material.X25519(rand.Reader))
				}
			}),
			ghPair("rsa", "Make an RSA key pair in PEM.", "The private key is PKCS #8, the public one PKIX.", func(flags *pflag.FlagSet) makePair {
				bits := flags.Int("bits", 4096, "`NUMBER` of bits")
				return func() (material.Pair, error) { return material.RSA(rand.Reader, *bits) }
			}),
			ghPair("ssh", "Make an SSH key pair.", "As ssh-keygen writes them, without a passphrase.", ghSSH),
			ghPair("wireguard", "Make a WireGuard key pair.", "As `wg genkey` and `wg pubkey` print them.", func(*pflag.FlagSet) makePair {
				return func() (material.Pair, error) { return material.WireGuard(rand.Reader) }
			}),
			ghWireGuardPSK(),
			ghPair("age", "Make an identity of age and its recipient.", "As age-keygen prints them, without comments.", func(*pflag.FlagSet) makePair { return material.Age }),
			ghPair("nix-key", "Make a key pair that signs store paths.", "As `nix key generate-secret` prints them.", func(flags *pflag.FlagSet) makePair {
				name := flags.String("name", "", "`NAME` of the key, such as cache.example.org-1")
				return func() (material.Pair, error) {
					if *name == "" {
						return material.Pair{}, cli.Usagef("--name is missing")
					}
					return material.NixKey(rand.Reader, *name)
				}
			}),
		},
	}
}

// makePair makes a key pair as the flags say.
type makePair func() (material.Pair, error)

// ghPair makes a command that writes a key pair to two files.
func ghPair(name, summary, help string, bind func(*pflag.FlagSet) makePair) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, Help: help,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			public, private := addPair(flags)
			makeIt := bind(flags)
			return func(context.Context, *cli.Env, []string) error {
				if err := errors.Join(public.check(), private.check()); err != nil {
					return err
				}
				pair, err := makeIt()
				if err != nil {
					return err
				}
				return writePair(pair, public, private)
			}
		},
	}
}

func writePair(pair material.Pair, public, private *ghOutput) error {
	defer pair.Private.Wipe()
	if err := private.write(pair.Private); err != nil {
		return err
	}
	return public.write(secret.NewPlain(pair.Public))
}

func ghEd25519(flags *pflag.FlagSet) makePair {
	noPublic := flags.Bool("no-embed-public", false, "the private key is the seed alone, 32 bytes")
	encoding := addEncoding(flags)
	return func() (material.Pair, error) {
		if err := encoding.check(); err != nil {
			return material.Pair{}, err
		}
		return encoding.pair(material.Ed25519(rand.Reader, material.PrivateForm(!*noPublic)))
	}
}

// pair encodes both halves.
func (e *ghEncoding) pair(pair material.Pair, err error) (material.Pair, error) {
	if err != nil {
		return material.Pair{}, err
	}
	return material.Pair{Private: e.encode(pair.Private), Public: e.encode(secret.NewPlain(pair.Public)).Bytes()}, nil
}

func ghSSH(flags *pflag.FlagSet) makePair {
	var opt material.SSHOptions
	flags.StringVar(&opt.Type, "type", material.SSHEd25519, "`TYPE` of key: ed25519, rsa or ecdsa")
	flags.IntVar(&opt.Bits, "bits", 0, "`NUMBER` of bits; 0 is what is usual for the type")
	flags.StringVar(&opt.Comment, "comment", "", "`TEXT` at the end of the public key")
	return func() (material.Pair, error) { return material.SSH(rand.Reader, opt) }
}

// ghValue makes a command that writes one encrypted value.
func ghValue(name, summary, help string, bind func(*pflag.FlagSet) func() (secret.Plain, error)) *cli.Command {
	return &cli.Command{
		Name: name, Summary: summary, Help: help,
		New: func(flags *pflag.FlagSet) cli.RunFunc {
			out := addOutput(flags, "output", "o", step.Encrypted)
			makeIt := bind(flags)
			return func(context.Context, *cli.Env, []string) error {
				if err := out.check(); err != nil {
					return err
				}
				value, err := makeIt()
				if err != nil {
					return err
				}
				defer value.Wipe()
				return out.write(value)
			}
		},
	}
}

func ghPassword() *cli.Command {
	return ghValue("password", "Make a password.", "Letters, digits and symbols, each as likely as the others.", func(flags *pflag.FlagSet) func() (secret.Plain, error) {
		size := flags.Int("size", 32, "`NUMBER` of characters")
		plain := flags.BoolP("no-symbols", "n", false, "letters and digits alone")
		encoding := addEncoding(flags)
		return func() (secret.Plain, error) {
			if err := encoding.check(); err != nil {
				return secret.Plain{}, err
			}
			password, err := material.Password(rand.Reader, *size, material.Symbols(!*plain))
			return encoding.encode(password), err
		}
	})
}

func ghBytes() *cli.Command {
	return ghValue("bytes", "Make random bytes.", "From the kernel's random numbers.", func(flags *pflag.FlagSet) func() (secret.Plain, error) {
		count := flags.IntP("count", "c", 32, "`NUMBER` of bytes")
		noNuls := flags.Bool("no-nuls", false, "no byte is zero")
		encoding := addEncoding(flags)
		return func() (secret.Plain, error) {
			if err := encoding.check(); err != nil {
				return secret.Plain{}, err
			}
			data, err := material.Bytes(rand.Reader, *count, material.Nuls(!*noNuls))
			return encoding.encode(data), err
		}
	})
}

func ghWireGuardPSK() *cli.Command {
	return ghValue("wireguard-psk", "Make a pre-shared key of WireGuard.", "As `wg genpsk` prints it.", func(*pflag.FlagSet) func() (secret.Plain, error) {
		return func() (secret.Plain, error) { return material.WireGuardPSK(rand.Reader) }
	})
}
