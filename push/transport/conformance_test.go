package transport_test

import (
	"context"
	"testing"

	"fleet/push/transport"
	"fleet/push/transport/transporttest"
)

func TestNativeAgainstInProcessServer(t *testing.T) {
	transporttest.Run(t, transporttest.Env{Dialer: transport.NewNative, Server: transporttest.StartInProcess, OwnBanner: true})
}

func TestNativeAgainstSSHD(t *testing.T) {
	transporttest.Run(t, transporttest.Env{Dialer: transport.NewNative, Server: transporttest.StartSSHD, OwnBanner: true})
}

func TestOpenSSHAgainstInProcessServer(t *testing.T) {
	transporttest.Run(t, transporttest.Env{Dialer: transport.NewOpenSSH, Server: transporttest.StartInProcess, WaitsForAgent: true})
}

func TestOpenSSHAgainstSSHD(t *testing.T) {
	transporttest.Run(t, transporttest.Env{Dialer: transport.NewOpenSSH, Server: transporttest.StartSSHD, WaitsForAgent: true})
}

func TestLocalCommands(t *testing.T) {
	conn, err := transport.NewLocal().Dial(context.Background(), transport.Target{Host: "here", Address: transport.AddressLocal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	transporttest.Commands(t, conn)
}
