package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// maxRequest bounds what a client of the guard's socket says, in bytes, and requestPatience how long it takes for that.
	maxRequest      = 4 << 10
	requestPatience = 10 * time.Second
	maxClients      = 32
)

// guardRequest is one line from a client of the guard's socket: a [proto.ConfirmRequest], or from root a wish to go back.
type guardRequest struct {
	proto.ConfirmRequest
	// Abort is who wants the old system, and why.
	Abort string `json:"abort,omitempty"`
}

// listen makes the guard's socket. Everybody on the host may connect; what counts is what they know and who they are.
func (g *guardian) listen() (*net.UnixListener, error) {
	path := g.file(guardSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// serve answers clients, each in a line.
func (g *guardian) serve(listener *net.UnixListener) {
	places := make(chan struct{}, maxClients)
	for {
		conn, err := listener.AcceptUnix()
		if g.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			time.Sleep(pollInterval) // others will close theirs
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		g.wg.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			g.answerClient(conn)
		})
	}
}

func (g *guardian) answerClient(conn *net.UnixConn) {
	if err := conn.SetDeadline(time.Now().Add(requestPatience)); err != nil {
		return
	}
	// Who has not asked yet is not waited for at the end. Who has is told what was decided, also where that has ended the transaction.
	stop := context.AfterFunc(g.ctx, func() { conn.Close() })
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	if !stop() || err != nil {
		return
	}
	var req guardRequest
	answer := proto.ConfirmAnswer{}
	peer, err := peerOf(conn)
	switch {
	case err != nil:
		answer.Error = proto.Errorf(proto.CodeForbidden, "nobody knows who asks: %v", err)
	case json.Unmarshal(line, &req) != nil:
		answer.Error = proto.Errorf(proto.CodeUsage, "a request is one line of JSON")
	default:
		answer.Error = g.inLoop(g.ctx, func() *proto.Error { return g.heed(req, peer) })
		answer.Confirmed = answer.Error == nil && req.Abort == ""
	}
	if err := conn.SetDeadline(time.Now().Add(requestPatience)); err != nil {
		return
	}
	_ = json.NewEncoder(conn).Encode(answer) // who is gone asks for the status later
}

// inLoop has f called by the one who may look at the state.
func (g *guardian) inLoop(ctx context.Context, f func() *proto.Error) *proto.Error {
	result := make(chan *proto.Error, 1)
	select {
	case g.events <- happening{do: func() { result <- f() }}:
		return <-result
	case <-ctx.Done():
		return proto.Errorf(proto.CodeInternal, "the guard ends; ask again")
	}
}

// heed does what a client wants, or says why not.
func (g *guardian) heed(req guardRequest, peer *unix.Ucred) *proto.Error {
	if req.Abort != "" {
		if peer.Uid != 0 && int(peer.Uid) != g.host.UID {
			return proto.Errorf(proto.CodeForbidden, "only root may abort")
		}
		if g.phase() == guard.RollbackFailed {
			// It waits until it tries again: that may be now.
			g.handle(guard.Event{Kind: guard.Tick, Now: g.state().Deadline})
			return nil
		}
		before := g.journal.last.Seq
		g.handle(guard.Event{Kind: guard.Abort, Detail: "aborted by " + oneLine(req.Abort)})
		if g.journal.last.Seq == before && !g.state().Phase.Ended() {
			return proto.Errorf(proto.CodeTooLate, "it is too late to abort transaction %s: it is %q", g.txn(), g.phase())
		}
		return nil
	}
	if g.phase() != guard.AwaitConfirm || g.nonce == "" {
		return proto.Errorf(proto.CodeTooLate, "transaction %s does not wait for a confirmation: it is %q", g.txn(), g.phase())
	}
	if subtle.ConstantTimeCompare([]byte(req.Nonce), []byte(g.nonce)) != 1 {
		return proto.Errorf(proto.CodeToken, "that is not what a confirmation of transaction %s has to name", g.txn())
	}
	if err := freshConnection(int(peer.Pid), g.journal.last.Switched); err != nil {
		e := proto.Errorf(proto.CodeForbidden, "the confirmation does not prove that the host can still be reached: %v", err)
		e.Remedy = "confirm over a connection that is made anew: fleet confirm"
		return e
	}
	g.handle(guard.Event{Kind: guard.Confirm})
	if !g.state().Confirmed {
		return proto.Errorf(proto.CodeInternal, "the confirmation could not be written down: %s", g.state().Reason)
	}
	return nil
}

// openConfirm lets confirmations in, once nobody else can activate anything, and watches the host meanwhile.
func (g *guardian) openConfirm() {
	s := g.state()
	g.start(func(ctx context.Context) (guard.Event, bool) {
		if !g.compared.take(ctx, g.host, switchLockPatience) {
			return guard.Event{Kind: guard.Unhealthy, Detail: "somebody else's switch-to-configuration runs"}, true
		}
		if err := g.inLoop(ctx, g.takeConfirmations); err != nil {
			return guard.Event{}, false
		}
		verdict := g.host.Watch(ctx, g.trial(s))
		if len(verdict.Failures) == 0 {
			return guard.Event{}, false
		}
		return guard.Event{Kind: guard.Unhealthy, Detail: g.condemn(verdict)}, true
	})
}

// takeConfirmations makes the nonce, or finds the one that a guard before us has made in this boot: somebody may be on the way with it.
func (g *guardian) takeConfirmations() *proto.Error {
	if g.phase() != guard.AwaitConfirm {
		return proto.Errorf(proto.CodeTooLate, "it is over")
	}
	if text, err := readBounded(g.file(nonceName), 256); err == nil && len(text) > 0 {
		g.nonce = string(text)
		return nil
	}
	// 256 bits and more.
	nonce := rand.Text() + rand.Text()
	if err := writeAtomically(g.file(nonceName), []byte(nonce)); err != nil {
		g.say("make a nonce: %v", err)
		return proto.Errorf(proto.CodeInternal, "%v", err)
	}
	g.nonce = nonce
	return nil
}

func (g *guardian) closeConfirm() {
	g.nonce = ""
	_ = os.Remove(g.file(nonceName))
	g.endTask()
	g.compared.release()
}

// freshConnection says why a process is not served by a connection that was made after the switch. A session that has survived from before
// proves nothing about the next one.
func freshConnection(pid int, after guard.Boottime) error {
	chain, err := ancestry(pid)
	if err != nil {
		return err
	}
	if len(chain) == 0 {
		return errors.New("it comes from outside of this host's processes")
	}
	serving := chain[servedBy(chain, isListener)]
	if i := operatorIn(chain); i > 0 {
		// The operator's program runs on the host itself, so no connection is in between: it must have come anew all the same.
		if serving, err = processOf(chain[0].session); err != nil {
			serving = chain[0]
		}
	}
	if serving.started < after {
		return fmt.Errorf("it comes over %s (process %d), which began before the new system stood", oneLine(serving.name), serving.pid)
	}
	return nil
}

// servedBy finds the process that serves the connection: the last one below PID 1, or below what listens for connections.
func servedBy(chain []process, listens func(int) bool) int {
	top := len(chain) - 1
	if top > 0 && (family(chain[top].name) == family(chain[top-1].name) || listens(chain[top].pid)) {
		return top - 1
	}
	return top
}

// family is a server's name without what it calls its parts: sshd, sshd-session, sshd-auth.
func family(name string) string {
	name, _, _ = strings.Cut(name, "-")
	return name
}

// operatorIn finds a program of ours above the client itself.
func operatorIn(chain []process) int {
	for i, p := range chain[1:] {
		exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.pid), "exe"))
		if err == nil && filepath.Base(exe) == "fleet-helper" {
			return i + 1
		}
	}
	return 0
}

// isListener says whether a process waits for TCP connections and has none itself.
func isListener(pid int) bool {
	sockets := socketsOf(pid)
	listens := false
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net", table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			// "sl local remote st tx:rx tr:tm retrnsmt uid timeout inode …", see proc_pid_net(5)
			fields := strings.Fields(line)
			if len(fields) < 10 || !sockets[fields[9]] {
				continue
			}
			const established, listening = "01", "0A"
			switch fields[3] {
			case established:
				return false
			case listening:
				listens = true
			}
		}
	}
	return listens
}

// socketsOf returns the inodes of a process's sockets.
func socketsOf(pid int) map[string]bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	found := make(map[string]bool)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			found[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return found
}

// askGuard sends a request to the guard of a transaction.
func (h *Host) askGuard(ctx context.Context, txn string, req guardRequest) (proto.ConfirmAnswer, error) {
	var answer proto.ConfirmAnswer
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(h.txnDir(txn), guardSocket))
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return answer, err
	}
	if err := json.NewDecoder(io.LimitReader(conn, 64<<10)).Decode(&answer); err != nil {
		return answer, fmt.Errorf("ask the guard of %s: %w", txn, err)
	}
	return answer, nil
}

// AttachGuard copies between a stream and the socket of a transaction's guard, until either ends.
func AttachGuard(ctx context.Context, host *Host, txn string, stdin io.Reader, stdout io.Writer) error {
	if !txnForm().MatchString(txn) {
		return fmt.Errorf("attach: %.60q is no transaction", txn)
	}
	return Attach(ctx, filepath.Join(host.txnDir(txn), guardSocket), stdin, stdout)
}
