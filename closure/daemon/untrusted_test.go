package daemon_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storetest"
)

// untrustedSocket tells the test binary that it runs as an untrusted user, and where the daemon is.
const untrustedSocket = "FLEET_TEST_UNTRUSTED_SOCKET"

func TestUntrustedUserIsToldSo(t *testing.T) {
	if socket := os.Getenv(untrustedSocket); socket != "" {
		addUntrusted(t, socket)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root, to become another user")
	}
	store := storetest.New(t)
	socket := store.Socket()
	// The other user has to reach the socket and this binary, both of which are in folders of root's.
	open := t.TempDir()
	binary := filepath.Join(open, "test")
	for _, err := range []error{
		os.Chmod(filepath.Dir(filepath.Dir(socket)), 0o755), os.Chmod(filepath.Dir(open), 0o755), os.Chmod(open, 0o755),
		copyFile(binary, "/proc/self/exe"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := run.Output(t.Context(), run.Cmd{
		Argv: []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary, "-test.run=^TestUntrustedUserIsToldSo$"},
		Env:  []string{untrustedSocket + "=" + socket}, Dir: "/",
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func addUntrusted(t *testing.T, socket string) {
	c, err := daemon.Dial(t.Context(), socket, daemon.ConnOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if known, trusted := c.Trusted(); trusted || known != (c.ProtocolVersion() >= "1.35") {
		t.Errorf("trust %t %t", known, trusted)
	}
	info, archive := storetest.Prepare(t, storetest.Text{Name: "unsigned"})
	err = c.AddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true})
	var refused *daemon.Error
	if !errors.As(err, &refused) || refused.Reason() != daemon.ReasonUntrusted {
		t.Error(err)
	}
}
