//go:build !linux

package main

import "fleet/cmd/fleet-helper/internal/cli"

func newSecretsInstall() *cli.Command { return noHost("secrets-install") }
