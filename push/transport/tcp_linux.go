package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsentLowWater is how much may wait unsent in the kernel, in bytes. Without it, megabytes of an upload
// queue up before a keepalive or an interactive byte on a slow link.
const unsentLowWater = 256 << 10

// keepQueueShort is an optimisation; where it fails, all still works.
func keepQueueShort(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLowWater)
	})
}
