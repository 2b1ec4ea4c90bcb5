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
	// HostKey learns the key that a host proves to have, and what vouches for it, and does nothing else there.
	HostKey(ctx context.Context, spec push.HostSpec) (string, transport.Provenance, error)
}

// Session is an open session with one host; [push.Session] is the real one and documents the methods.
type Session interface {
	Info() proto.HostInfo
	HostKey() (string, transport.Provenance)
	Refresh(ctx context.Context) (proto.HostInfo, error)
	Push(ctx context.Context, request push.PushRequest) (push.PushResult, error)
	Root(ctx context.Context, name string, path storepath.Path) error
	Build(ctx context.Context, request push.BuildRequest) (storepath.Path, error)
	Fetch(ctx context.Context, roots []storepath.Path) error
	Begin(ctx context.Context, request proto.BeginRequest) (string, error)
	Attach(ctx context.Context, txn string, each func(proto.TxnEvent)) (proto.TxnStatus, error)
	Secrets(ctx context.Context, request push.SecretsRequest) error
	Close() error
}
