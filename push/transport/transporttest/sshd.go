package transporttest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
)

// sshd is OpenSSH's server with a configuration of its own.
type sshd struct {
	host   string
	port   int
	user   string
	pid    int
	cancel context.CancelFunc
	ended  <-chan struct{}
	once   sync.Once
}

// Need fails the test where the environment says that all must run (FLEET_REQUIRE_ALL=1), and skips it with the reason otherwise.
func Need(t testing.TB, ok bool, reason string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatal("missing: " + reason)
	}
	t.Skip("missing: " + reason)
}

const sshdProgram = "/usr/sbin/sshd"

// StartSSHD starts a real sshd on a loopback port; it ends with the test. It needs root, as it logs in as root.
func StartSSHD(t testing.TB, options ServerOptions) Server {
	t.Helper()
	_, err := os.Stat(sshdProgram)
	Need(t, err == nil && os.Getuid() == 0, "root and "+sshdProgram+" (apt-get install openssh-server)")
	// sshd's privilege separation folder (Debian); sshd itself refuses to start without it.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	address := options.Address
	if address == "" {
		address = "127.0.0.1"
	}
	s := &sshd{host: address, port: freePort(t, address), user: "root"}
	dir := t.TempDir()
	config := filepath.Join(dir, "sshd_config")
	writeFile(t, config, s.configure(t, dir, options))
	s.start(t, config)
	t.Cleanup(s.Close)
	return s
}

func freePort(t testing.TB, address string) int {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func (s *sshd) configure(t testing.TB, dir string, options ServerOptions) string {
	lines := []string{
		"Port " + strconv.Itoa(s.port), "ListenAddress " + s.host, "PidFile none", "UsePAM no", "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes", "LogLevel INFO",
		"MaxStartups 100", "LoginGraceTime 20", "PrintMotd no",
	}
	sessions := options.MaxSessions
	if sessions == 0 {
		sessions = 100
	}
	lines = append(lines, "MaxSessions "+strconv.Itoa(sessions))
	for i, key := range options.HostKeys {
		lines = append(lines, "HostKey "+key.Write(t, filepath.Join(dir, fmt.Sprintf("host%d", i)), ""))
	}
	if options.HostCertificate != nil {
		path := filepath.Join(dir, "host0-cert.pub")
		writeFile(t, path, string(ssh.MarshalAuthorizedKey(options.HostCertificate)))
		lines = append(lines, "HostCertificate "+path)
	}
	authorized := ""
	for _, key := range options.AuthorizedKeys {
		authorized += string(ssh.MarshalAuthorizedKey(key))
	}
	writeFile(t, filepath.Join(dir, "authorized"), authorized)
	lines = append(lines, "AuthorizedKeysFile "+filepath.Join(dir, "authorized"))
	if options.UserAuthority != nil {
		writeFile(t, filepath.Join(dir, "authority"), string(ssh.MarshalAuthorizedKey(options.UserAuthority)))
		lines = append(lines, "TrustedUserCAKeys "+filepath.Join(dir, "authority"))
	}
	if options.Banner != "" {
		writeFile(t, filepath.Join(dir, "banner"), options.Banner)
		lines = append(lines, "Banner "+filepath.Join(dir, "banner"))
	}
	return strings.Join(lines, "\n") + "\n"
}

func (s *sshd) start(t testing.TB, config string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	var once sync.Once
	var log strings.Builder
	var mu sync.Mutex
	lines := run.NewLineWriter(func(line string) {
		mu.Lock()
		defer mu.Unlock()
		log.WriteString(line + "\n")
		if strings.Contains(line, "Server listening on") {
			once.Do(func() { close(ready) })
		}
	})
	process, err := run.Start(ctx, run.Cmd{Argv: []string{sshdProgram, "-D", "-e", "-f", config}, Stderr: lines, Stdout: io.Discard, Grace: time.Second})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s.pid, s.cancel, s.ended = process.PID, cancel, process.Done()
	select {
	case <-ready:
	case <-process.Done():
		t.Fatalf("sshd did not start: %v", process.Wait())
	case <-time.After(10 * time.Second):
		cancel()
		t.Fatalf("sshd did not start within 10 s:\n%s", log.String())
	}
}

func (s *sshd) Host() string { return s.host }
func (s *sshd) Port() int    { return s.port }
func (s *sshd) User() string { return s.user }

// Drop implements [Server]: it kills the processes that serve connections. Those of commands get to know by themselves;
// killing them first would look like their own end.
func (s *sshd) Drop() {
	for _, pid := range descendants(s.pid) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.HasPrefix(string(name), "sshd") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Freeze implements [Server]: it stops all of the server's processes. The kernel still answers for them.
func (s *sshd) Freeze() {
	for _, pid := range append(descendants(s.pid), s.pid) {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
}

// Close implements [Server].
func (s *sshd) Close() {
	s.once.Do(func() {
		for _, pid := range descendants(s.pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		s.cancel()
		<-s.ended
	})
}

// descendants are all processes below pid.
func descendants(pid int) []int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// The name in brackets may hold anything, so the fields are counted behind it (proc(5)).
		_, rest, _ := strings.Cut(string(content[strings.LastIndexByte(string(content), ')'):]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[child], _ = strconv.Atoi(fields[1])
	}
	var out []int
	for child := range parents {
		for p := parents[child]; p > 1; p = parents[p] {
			if p == pid {
				out = append(out, child)
				break
			}
		}
	}
	return out
}
