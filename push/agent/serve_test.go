package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/push/proto"
)

// start starts an agent as a real process.
func start(t *testing.T, host *Host, opts StartOptions) proto.Ready {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(host.Run, "fleet")
	}
	opts.Owner = os.Geteuid()
	ready, err := Start(t.Context(), host, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { waitUntil(t, "the end of the agent", func() bool { return gone(filepath.Dir(ready.Socket)) }) })
	return ready
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// attach runs the pipe of an SSH channel, and returns its near end.
func attach(t *testing.T, socket string) io.ReadWriteCloser {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Attach(context.Background(), socket, far, far)
		far.Close()
	}()
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return near
}

func TestAnAgentOutlivesItsChannels(t *testing.T) {
	requireRoot(t)
	host := testHost(t)
	ready := start(t, host, StartOptions{Grace: 30 * time.Second})
	if ready.Version != proto.Version || len(ready.Token) < 32 || ready.PID == 0 {
		t.Errorf("%+v", ready)
	}
	for range 3 {
		client, err := proto.NewClient(t.Context(), attach(t, ready.Socket), proto.Hello{Token: ready.Token})
		if err != nil {
			t.Fatal(err)
		}
		var info proto.HostInfo
		if err := client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil || !info.Root {
			t.Errorf("%+v, %v", info, err)
		}
		client.Close()
	}
	if _, err := proto.NewClient(t.Context(), attach(t, ready.Socket), proto.Hello{Token: "guessed"}); proto.CodeOf(err) != proto.CodeToken {
		t.Errorf("a guessed token: %v", err)
	}
	checkSecrecy(t, ready)
	end(t, ready)
}

// end ends a session on request.
func end(t *testing.T, ready proto.Ready) {
	t.Helper()
	client, err := proto.NewClient(t.Context(), attach(t, ready.Socket), proto.Hello{Token: ready.Token})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Call(t.Context(), proto.MethodEnd, nil, nil); err != nil {
		t.Error(err)
	}
	client.Close()
	waitUntil(t, "the end of the agent", func() bool { return gone(filepath.Dir(ready.Socket)) })
}

// checkSecrecy looks at the agent's process: nothing of the session that started it, and no token where others could read it.
func checkSecrecy(t *testing.T, ready proto.Ready) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(ready.PID))
	ours := descriptors(t, "/proc/self")
	for target := range descriptors(t, proc) {
		// Go's runtime keeps the limits of its control group open.
		if ours[target] && target != os.DevNull && !strings.HasPrefix(target, "/sys/fs/cgroup/") {
			t.Errorf("the agent holds %s of the process that started it", target)
		}
	}
	dir := filepath.Dir(ready.Socket)
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join(proc, file))
		if err != nil || strings.Contains(string(text), ready.Token) {
			t.Errorf("%s holds the token, or cannot be read: %v", file, err)
		}
	}
	if !gone(filepath.Join(dir, configName)) {
		t.Error("the token is still on the disk")
	}
	info, err := os.Stat(ready.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the folder's mode: %v, %v", info.Mode(), err)
	}
}

// descriptors returns what a process holds open, as /proc names it: pipes and sockets by their numbers.
func descriptors(t *testing.T, proc string) map[string]bool {
	t.Helper()
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]bool)
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err == nil && !strings.HasPrefix(target, "anon_inode:") {
			open[target] = true
		}
	}
	return open
}

func TestAnAgentWithoutClientsEnds(t *testing.T) {
	host := testHost(t)
	ready := start(t, host, StartOptions{Grace: 50 * time.Millisecond, Dir: filepath.Join(host.Run, "fleet")})
	waitUntil(t, "the end of the agent", func() bool { return gone(filepath.Dir(ready.Socket)) })
}

func TestAUserWithoutARuntimeFolderGetsAFolderThatGoesAway(t *testing.T) {
	host := testHost(t)
	tmp := filepath.Join(host.Run, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	t.Setenv("XDG_RUNTIME_DIR", "")
	user := *host
	user.UID = -1 // not root, so there is no /run/fleet
	parent, err := sessionParent(&user, "")
	if err != nil || filepath.Dir(parent) != tmp {
		t.Fatalf("%q, %v", parent, err)
	}
	dir, config, err := makeSession(host, parent, StartOptions{Owner: os.Geteuid(), Grace: time.Millisecond})
	if err != nil || config.Token == "" {
		t.Fatal(err)
	}
	if err := removeSession(dir); err != nil || !gone(parent) {
		t.Errorf("%q is left, %v", parent, err)
	}
}

func TestAnAgentThatDiesLeavesNothing(t *testing.T) {
	host := testHost(t)
	ready := start(t, host, StartOptions{Grace: 30 * time.Second})
	process, err := os.FindProcess(ready.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(ready.Socket)
	waitUntil(t, "the freed lock", func() bool { busy, err := held(filepath.Join(dir, aliveName)); return err == nil && !busy })
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, past, past); err != nil {
		t.Fatal(err)
	}
	end(t, start(t, host, StartOptions{}))
	if !gone(dir) {
		t.Error("its folder is still there")
	}
}

func TestAnAgentThatCannotStartIsAnError(t *testing.T) {
	host := testHost(t)
	_, err := Start(t.Context(), host, StartOptions{Helper: "/bin/false", Owner: os.Geteuid(), Dir: filepath.Join(host.Run, "fleet")})
	if err == nil || !strings.Contains(err.Error(), "ended before it listened") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(host.Run, "fleet", sessionPrefix+"*")); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestAttachToNothingIsAnError(t *testing.T) {
	err := Attach(t.Context(), filepath.Join(t.TempDir(), "socket"), strings.NewReader(""), io.Discard)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheOwnerAndRootMayAttach(t *testing.T) {
	host := testHost(t)
	near, far, err := socketPair(t)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(host, t.TempDir(), host.UID)
	defer s.close()
	if os.Geteuid() == 0 {
		// Root may always; what is left to see is that it is asked for.
		go serveClient(t.Context(), far, sessionConfig{Token: "0123456789", Owner: 12345}, s)
		client, err := proto.NewClient(t.Context(), near, proto.Hello{Token: "0123456789"})
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		return
	}
	go serveClient(t.Context(), far, sessionConfig{Token: "0123456789", Owner: os.Geteuid() + 1}, s)
	if _, err := proto.NewClient(t.Context(), near, proto.Hello{Token: "0123456789"}); err == nil {
		t.Error("a stranger got in")
	}
}

func socketPair(t *testing.T) (near, far *net.UnixConn, err error) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	near, err = net.DialUnix("unix", nil, listener.Addr().(*net.UnixAddr))
	if err != nil {
		return nil, nil, err
	}
	far, err = listener.AcceptUnix()
	return near, far, err
}
