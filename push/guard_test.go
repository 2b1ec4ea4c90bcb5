package push

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

// system adds a system that can be activated, and that differs from others by its name.
func (l *lab) system(t *testing.T, name string) storepath.Path {
	t.Helper()
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho %s $1\n[ $1 = check ] || ln -sfn \"$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")\" /run/current-system\n", name)
	write(t, filepath.Join(dir, "nixos-version"), name, 0o644)
	write(t, filepath.Join(dir, "activate"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(dir, "bin", "switch-to-configuration"), script, 0o755)
	return l.add(t, dir)
}

// guardedHost is a host that runs a system, and has another one that it can be switched to.
type guardedHost struct {
	*host
	old, new storepath.Path
}

func (l *lab) guardedHost(t *testing.T, user string) (*guardedHost, *Session) {
	t.Helper()
	h := &guardedHost{host: l.host(t, hostOptions{}), old: l.system(t, "old"), new: l.system(t, "new")}
	s := connect(t, l.connector(), h.spec(user))
	push(t, s, h.old)
	push(t, s, h.new)
	h.sh(t, "ln -sfn "+h.old.String()+" /run/current-system")
	return h, s
}

// begin opens a guarded test of the new system, and waits until it waits.
func (h *guardedHost) begin(t *testing.T, s *Session, policy proto.GuardPolicy) string {
	t.Helper()
	txn, err := s.Begin(t.Context(), proto.BeginRequest{Action: proto.ActionTest, Toplevel: h.new.String(), Owner: "me@here", Guard: &policy})
	if err != nil {
		t.Fatal(err)
	}
	for {
		status, err := s.Status(t.Context(), txn)
		if err != nil || status.State.Done() {
			t.Fatalf("%+v, %v", status, err)
		}
		if status.State == proto.TxnAwaitConfirm {
			if status.DeadlineSeconds < 1 || status.DeadlineSeconds > policy.ConfirmSeconds {
				t.Errorf("%d seconds left of %d", status.DeadlineSeconds, policy.ConfirmSeconds)
			}
			return txn
		}
	}
}

func codeOf(t *testing.T, err error) proto.ErrorCode {
	t.Helper()
	answer, ok := errors.AsType[*AgentError](err)
	if !ok {
		t.Fatalf("error %v is no answer of the host", err)
	}
	return answer.Code
}

func TestConfirmationsTakeAConnectionThatIsMadeAnew(t *testing.T) {
	l := newLab(t)
	for _, user := range []string{"root", "free", "freedoas"} {
		t.Run(user, func(t *testing.T) {
			h, s := l.guardedHost(t, user)
			txn := h.begin(t, s, proto.GuardPolicy{ConfirmSeconds: 60})
			if open := refresh(t, s).Open; open == nil || open.Txn != txn || open.State != proto.TxnAwaitConfirm || open.Owner != "me@here" {
				t.Errorf("open: %+v", open)
			}
			// A session from before the switch neither learns the nonce nor can use one.
			if _, err := s.Nonce(t.Context(), txn); codeOf(t, err) != proto.CodeForbidden {
				t.Errorf("nonce for an old session: %v", err)
			}
			again, err := s.Again(t.Context(), h.spec(user))
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			nonce, err := again.Nonce(t.Context(), txn)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Confirm(t.Context(), txn, nonce); codeOf(t, err) != proto.CodeForbidden {
				t.Errorf("confirm over the old connection: %v", err)
			}
			if err := again.Confirm(t.Context(), txn, nonce+"x"); codeOf(t, err) != proto.CodeToken {
				t.Errorf("confirm with another nonce: %v", err)
			}
			if err := again.Confirm(t.Context(), txn, nonce); err != nil {
				t.Fatal(err)
			}
			status, err := again.Attach(t.Context(), txn, nil)
			if err != nil || status.State != proto.TxnTested || status.Current != h.new.String() {
				t.Errorf("%+v, %v", status, err)
			}
			if err := again.Confirm(t.Context(), txn, nonce); err == nil {
				t.Error("it was confirmed twice")
			}
			if open := refresh(t, s).Open; open != nil {
				t.Errorf("still open: %+v", open)
			}
		})
	}
}

func refresh(t *testing.T, s *Session) proto.HostInfo {
	t.Helper()
	info, err := s.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestWhatIsNotConfirmedGoesBack(t *testing.T) {
	l := newLab(t)
	h, s := l.guardedHost(t, "free")
	txn := h.begin(t, s, proto.GuardPolicy{ConfirmSeconds: 2})
	var states []proto.TxnState
	status, err := s.Attach(t.Context(), txn, func(e proto.TxnEvent) {
		if e.State != "" {
			states = append(states, e.State)
		}
	})
	if err != nil || status.State != proto.TxnRolledBack || status.Current != h.old.String() || !strings.Contains(status.Reason, "confirmation") {
		t.Errorf("%+v, %v", status, err)
	}
	if len(states) < 2 || states[0] != proto.TxnAwaitConfirm || states[len(states)-1] != proto.TxnRolledBack {
		t.Errorf("states %v", states)
	}
	if all, err := s.Transactions(t.Context()); err != nil || len(all) != 1 || all[0].State != proto.TxnRolledBack {
		t.Errorf("transactions %+v, %v", all, err)
	}
}

func TestAnAbortGoesBackAtOnceAndKeepsItsReason(t *testing.T) {
	l := newLab(t)
	h, s := l.guardedHost(t, "free")
	txn := h.begin(t, s, proto.GuardPolicy{ConfirmSeconds: 600})
	status, err := s.Abort(t.Context(), txn, "the site is down")
	if err != nil || status.State != proto.TxnRolledBack || status.Current != h.old.String() || !strings.Contains(status.Reason, "the site is down") {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestAConfirmationOverTheSystemsSSH(t *testing.T) {
	l := newLab(t)
	h, s := l.guardedHost(t, "free")
	spec := h.spec("free")
	spec.Transport = "openssh"
	h.confirm(t, s, spec)
}

// confirm begins over s, and confirms over a connection of its own, by spec.
func (h *guardedHost) confirm(t *testing.T, s *Session, spec HostSpec) {
	t.Helper()
	txn := h.begin(t, s, proto.GuardPolicy{ConfirmSeconds: 60})
	again, err := s.Again(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	nonce, err := again.Nonce(t.Context(), txn)
	if err == nil {
		err = again.Confirm(t.Context(), txn, nonce)
	}
	if err != nil {
		t.Fatal(err)
	}
	if status, err := again.Attach(t.Context(), txn, nil); err != nil || status.State != proto.TxnTested {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestAPasswordIsNotAskedForAgain(t *testing.T) {
	l := newLab(t)
	h := l.host(t, hostOptions{})
	c := l.connector()
	asked := 0
	c.Password = func(context.Context, string) ([]byte, error) { asked++; return []byte("right"), nil }
	s := connect(t, c, h.spec("sudoer"))
	again, err := s.Again(t.Context(), h.spec("sudoer"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if asked != 1 || !refresh(t, again).Root {
		t.Errorf("asked %d times", asked)
	}
}

func TestGenerationsAreListedNewestFirst(t *testing.T) {
	l := newLab(t)
	h, s := l.guardedHost(t, "root")
	h.sh(t, fmt.Sprintf("mkdir -p /nix/var/nix/profiles && cd /nix/var/nix/profiles && ln -sfn %s system-3-link && ln -sfn %s system-12-link && ln -sfn system-3-link system", h.old, h.new))
	all, err := s.Generations(t.Context())
	if err != nil || len(all) != 2 || all[0].Number != 12 || all[0].Toplevel != h.new.String() || all[0].Current || all[1].Number != 3 || !all[1].Current {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestWhatSpeaksAgainstAnActivationIsNamed(t *testing.T) {
	l := newLab(t)
	h, s := l.guardedHost(t, "free")
	// What runs is a system that cannot be activated again.
	dir := filepath.Join(l.dir, "bare")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "nixos-version"), "bare", 0o644)
	bare := l.add(t, dir)
	push(t, s, bare)
	h.sh(t, "ln -sfn "+bare.String()+" /run/current-system")
	_, err := s.Begin(t.Context(), proto.BeginRequest{Action: proto.ActionTest, Toplevel: h.new.String(), Owner: "me@here"})
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		t.Fatalf("error %v", err)
	}
	if len(refused.Findings) == 0 || refused.Findings[0].Check == "" || !strings.Contains(err.Error(), refused.Findings[0].Problem) {
		t.Errorf("findings %+v", refused.Findings)
	}
}
