package daemon_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/storetest"
)

func TestOpenExplainsWhatIsMissing(t *testing.T) {
	var hint interface{ Hint() string }
	_, err := daemon.Open(t.Context(), daemon.Options{Socket: filepath.Join(t.TempDir(), "socket")})
	var unavailable *daemon.UnavailableError
	if !errors.As(err, &unavailable) || !errors.As(err, &hint) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	_, err = daemon.Open(t.Context(), daemon.Options{Store: t.TempDir(), Program: "no-such-daemon"})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
	_, err = daemon.Open(t.Context(), daemon.Options{Store: "nonsense://store"})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("the process's own words are missing: %v", err)
	}
	storetest.RequireNix(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := daemon.Open(ctx, daemon.Options{Store: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOpenWithoutSocketStartsADaemon(t *testing.T) {
	storetest.RequireNix(t)
	if os.Geteuid() != 0 {
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	t.Setenv("NIX_DAEMON_SOCKET_PATH", filepath.Join(t.TempDir(), "socket"))
	c, err := daemon.Open(t.Context(), daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
