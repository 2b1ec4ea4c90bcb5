package agent

import (
	"net"
	"os"
)

// TellReady tells systemd that a unit of Type=notify has started, see sd_notify(3). Where nobody wants to know, it does nothing.
func TellReady() error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
