package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// listenPatience is how long a server that was started again may take until it listens.
	listenPatience = 3 * time.Second
	// maxListeners bounds how many sockets are looked at, and maxSSHPorts how many ports are remembered.
	maxListeners = 1 << 16
	maxSSHPorts  = 16
	// listening is TCP_LISTEN in /proc/net/tcp.
	listening = "0A"
)

// SSHMissing returns those of the ports that SSH servers listened on at which nobody listens any more. It waits a moment for them.
func (h *Host) SSHMissing(b Baseline) []uint16 {
	for begun := time.Now(); ; time.Sleep(pollInterval) {
		sockets, err := listeners()
		if err != nil {
			return nil // without /proc nobody knows, and nothing of this is lost: whoever confirms comes over such a port
		}
		missing := slices.DeleteFunc(slices.Clone(b.SSHPorts), func(port uint16) bool {
			return slices.ContainsFunc(sockets, func(s socket) bool { return s.port == port })
		})
		if len(missing) == 0 || time.Since(begun) > listenPatience {
			return missing
		}
	}
}

// sshPorts are the ports that SSH servers listen on, or systemd for them.
func (h *Host) sshPorts(ctx context.Context, m manager) ([]uint16, error) {
	sockets, err := listeners()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	held := make(map[string]bool)
	for _, pid := range serversCalled("sshd", "dropbear") {
		maps.Copy(held, socketsOf(pid))
	}
	var ports []uint16
	for _, s := range sockets {
		if held[s.inode] && !s.local {
			ports = append(ports, s.port)
		}
	}
	addresses, err := m.listens(ctx, []string{"sshd*.socket", "ssh.socket"})
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		if _, text, err := net.SplitHostPort(address); err == nil {
			if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
				ports = append(ports, uint16(port))
			}
		}
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	return ports[:min(len(ports), maxSSHPorts)], nil
}

// socket is one that listens.
type socket struct {
	port  uint16
	inode string
	// local says that only this host can reach it, as with most ports that a session forwards.
	local bool
}

// listeners reads the listening TCP sockets of our network, see proc_net_tcp(5).
func listeners() ([]socket, error) {
	var all []socket
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(table, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() && len(all) < maxListeners {
			if s, ok := parseListener(lines.Text()); ok {
				all = append(all, s)
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read %q: %w", table, err)
		}
	}
	return all, nil
}

// parseListener reads a line: number, local address, remote address, state, …, and the inode as the tenth.
func parseListener(line string) (socket, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listening {
		return socket{}, false
	}
	address, text, ok := strings.Cut(fields[1], ":")
	port, err := strconv.ParseUint(text, 16, 16)
	if !ok || err != nil {
		return socket{}, false
	}
	return socket{uint16(port), fields[9], address == "0100007F" || address == "00000000000000000000000001000000"}, true
}

// serversCalled are processes that the service manager has started. Those that they have started themselves serve somebody, and may listen for them.
func serversCalled(names ...string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, err := processOf(pid); err == nil && p.parent == 1 && slices.Contains(names, p.name) {
			pids = append(pids, pid)
		}
	}
	return pids
}
