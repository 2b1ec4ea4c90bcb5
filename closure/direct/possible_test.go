//go:build linux

package direct

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet/closure/daemon"
)

func TestWhereItMayNotBeUsed(t *testing.T) {
	machineStore(t, "")
	if err := Possible(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	config := os.Getenv("NIX_CONFIG")
	for _, test := range []struct {
		rule, config, reason string
		opts                 Options
		env                  [2]string
	}{
		{rule: "files are linked to one another", config: "auto-optimise-store = true", reason: "auto-optimise-store"},
		{rule: "garbage is collected by need", config: "min-free = 1000", reason: "min-free"},
		{rule: "another store is configured", config: "store = /elsewhere", reason: "elsewhere"},
		{rule: "another store is asked for", opts: Options{Daemon: daemon.Options{Store: "/elsewhere"}}, reason: "elsewhere"},
		{rule: "another daemon is asked for", opts: Options{Daemon: daemon.Options{Socket: "/elsewhere"}}, reason: "elsewhere"},
		{rule: "another database is asked for", opts: Options{StateDir: "/elsewhere"}, reason: "elsewhere"},
		{rule: "nix-store is not there", opts: Options{Program: "/elsewhere/nix-store"}, reason: "not found"},
		{rule: "another store folder is set", env: [2]string{"NIX_STORE_DIR", "/elsewhere"}, reason: "elsewhere"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Setenv("NIX_CONFIG", config+"\n"+test.config)
			if test.env[0] != "" {
				t.Setenv(test.env[0], test.env[1])
			}
			var unavailable *UnavailableError
			if err := Possible(t.Context(), test.opts); !errors.As(err, &unavailable) || !strings.Contains(err.Error(), test.reason) {
				t.Error(err)
			}
		})
	}
	t.Run("the file system is read-only", func(t *testing.T) {
		machineStore(t, "mode=0755,size=30m")
		if err := unix.Mount("", "/nix", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		if err := Possible(t.Context(), Options{}); err == nil {
			t.Error("no error")
		}
	})
}
