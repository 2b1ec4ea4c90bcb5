//go:build !linux

package transport

import "net"

// keepQueueShort needs TCP_NOTSENT_LOWAT, which is used on Linux only.
func keepQueueShort(net.Conn) {}
