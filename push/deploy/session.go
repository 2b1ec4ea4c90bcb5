package deploy

import (
	"context"

	"fleet/closure/storepath"
	"fleet/push"
	"fleet/push/proto"
	"fleet/push/transport"
)

// Connector opens sessions with hosts. It is safe for concurrent use.
type Connector interface {
	// Connect returns an open session, or one of the error types of push and its transports.
	Connect(ctx context.Context, spec push.HostSpec) (Session, error)
	// Plain opens a way to push to a host where the helper cannot run, for the reason that cause is, or says why there is none.
	Plain(ctx context.Context, spec push.HostSpec, cause error) (Pusher, error)
	// HostKey learns the key that a host proves to have, and what vouches for it, and does nothing else there.
	HostKey(ctx context.Context, spec push.HostSpec) (string, transport.Provenance, error)
}

// Pusher pushes to one host; [push.Plain] is the real one that is no session.
type Pusher interface {
	Push(ctx context.Context, request push.PushRequest) (push.PushResult, error)
	Close() error
}

// Session is an open session with one host; [push.Session] is the real one and documents the methods.
type Session interface {
	// Again opens another session with the same host, by spec, over a connection that is made anew.
	Again(ctx context.Context, spec push.HostSpec) (Session, error)
	Info() proto.HostInfo
	HostKey() (string, transport.Provenance)
	Refresh(ctx context.Context) (proto.HostInfo, error)
	Moved() uint64
	Push(ctx context.Context, request push.PushRequest) (push.PushResult, error)
	Offer(ctx context.Context, request push.OfferRequest) (*push.Offer, error)
	Take(ctx context.Context, request push.TakeRequest) (push.PushResult, error)
	Root(ctx context.Context, name string, path storepath.Path) error
	Build(ctx context.Context, request push.BuildRequest) (storepath.Path, error)
	Fetch(ctx context.Context, roots []storepath.Path) error
	Begin(ctx context.Context, request proto.BeginRequest) (string, error)
	Watch(ctx context.Context, watch *push.Watch) (proto.TxnStatus, error)
	Status(ctx context.Context, txn string) (proto.TxnStatus, error)
	Nonce(ctx context.Context, txn string) (string, error)
	Confirm(ctx context.Context, txn, nonce string) error
	Abort(ctx context.Context, txn, reason string) (proto.TxnStatus, error)
	Generations(ctx context.Context) ([]proto.Generation, error)
	Check(ctx context.Context, request proto.CheckRequest) (problem string, err error)
	Secrets(ctx context.Context, request push.SecretsRequest) error
	Close() error
}

// Wrap makes the real session a [Session].
func Wrap(s *push.Session) Session { return wrapped{s} }

type wrapped struct{ *push.Session }

func (w wrapped) Again(ctx context.Context, spec push.HostSpec) (Session, error) {
	s, err := w.Session.Again(ctx, spec)
	if err != nil {
		return nil, err
	}
	return wrapped{s}, nil
}
