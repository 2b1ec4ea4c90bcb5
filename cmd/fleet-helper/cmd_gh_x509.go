package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/material"
)

func newGhX509() *cli.Command {
	return &cli.Command{
		Name: "x509", Summary: "Make a certificate and its key.",
		Help: "Both are PEM, the key is PKCS #8. The end of the certificate's life is written to $out/expires_at; of several, the first.",
		Sub: []*cli.Command{
			{Name: "ca", Summary: "Make a self-signed CA.", Help: "It signs others, and is in no other use.", New: newGhCA},
			{Name: "leaf", Summary: "Make a certificate that a CA signs.", Help: "It does not outlive the CA. Without --client and --server it is for both.", New: newGhLeaf},
		},
	}
}

// ghCertificate are the flags of all certificates.
type ghCertificate struct {
	public, private *ghOutput
	key, subject    string
	days            int
}

func addCertificate(flags *pflag.FlagSet) *ghCertificate {
	c := &ghCertificate{}
	c.public, c.private = addPair(flags)
	flags.StringVar(&c.key, "key", "ecdsa-p256", "`TYPE` of key: "+strings.Join(material.CertificateKeys(), ", "))
	flags.StringVar(&c.subject, "subject", "", "`JSON` object of attributes, such as {\"CN\": \"example.org\"}")
	flags.IntVar(&c.days, "days", 365, "`NUMBER` of days that it is valid for")
	return c
}

func (c *ghCertificate) options() (material.CertificateOptions, error) {
	if err := errors.Join(c.public.check(), c.private.check()); err != nil {
		return material.CertificateOptions{}, err
	}
	subject, err := material.ParseSubject(c.subject)
	if err != nil {
		return material.CertificateOptions{}, &cli.UsageError{Err: err}
	}
	return material.CertificateOptions{Key: c.key, Subject: subject, Days: c.days, Now: time.Now()}, nil
}

func (c *ghCertificate) write(env *cli.Env, made material.Certificate) error {
	if err := writePair(made.Pair, c.public, c.private); err != nil {
		return err
	}
	return writeExpiry(env.Getenv("out"), made.NotAfter)
}

// writeExpiry says in $out when the value expires. Where another certificate of it expires first, that stays.
func writeExpiry(out string, expires time.Time) error {
	if out == "" {
		return nil
	}
	path := filepath.Join(out, "expires_at")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if before, parseErr := time.Parse(time.RFC3339, strings.TrimSpace(string(old))); err == nil && parseErr == nil && before.Before(expires) {
		return nil
	}
	return os.WriteFile(path, []byte(expires.UTC().Format(time.RFC3339)+"\n"), 0o600)
}

func newGhCA(flags *pflag.FlagSet) cli.RunFunc {
	certificate := addCertificate(flags)
	return func(_ context.Context, env *cli.Env, _ []string) error {
		opt, err := certificate.options()
		if err != nil {
			return err
		}
		made, err := material.CA(rand.Reader, opt)
		if err != nil {
			return err
		}
		return certificate.write(env, made)
	}
}

func newGhLeaf(flags *pflag.FlagSet) cli.RunFunc {
	certificate := addCertificate(flags)
	var opt material.LeafOptions
	names := flags.String("san", "[]", "`JSON` list of names, such as [\"DNS:example.org\", \"IP:192.0.2.1\"]; also URI: and email:")
	caCert := addInput(flags, "ca-cert", "", "`FILE` with the CA's certificate")
	caKey := addInput(flags, "ca-key", "", "`FILE` with the CA's private key")
	flags.BoolVar(&opt.Client, "client", false, "it is for clients")
	flags.BoolVar(&opt.Server, "server", false, "it is for servers")
	return func(_ context.Context, env *cli.Env, _ []string) error {
		var err error
		if opt.CertificateOptions, err = certificate.options(); err != nil {
			return err
		}
		if opt.Names, err = material.ParseNames(*names); err != nil {
			return &cli.UsageError{Err: err}
		}
		cert, err := caCert.read()
		if err != nil {
			return err
		}
		opt.CACertificate = cert.Bytes()
		if opt.CAKey, err = caKey.read(); err != nil {
			return err
		}
		defer opt.CAKey.Wipe()
		made, err := material.Leaf(rand.Reader, opt)
		if err != nil {
			return err
		}
		return certificate.write(env, made)
	}
}
