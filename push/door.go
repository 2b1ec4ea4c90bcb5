package push

import (
	"context"
	"io"

	"fleet/push/transport"
)

// doorScript waits until it is told which helper attaches to which socket. Reading lines takes no byte of what follows them.
const doorScript = `IFS= read -r exe && IFS= read -r socket && exec "$exe" attach --socket "$socket"`

// door is a command of the login user that becomes the attach command once the agent is there. A server takes no input for a command before it
// has started that, which takes a round trip: with a door it is the one in which the agent is started.
type door struct {
	// started is closed once the rest is known.
	started chan struct{}
	ch      transport.Channel
	err     error
}

// newDoor starts one and does not wait for that. It must be entered or closed.
func newDoor(ctx context.Context, conn transport.Conn) *door {
	d := &door{started: make(chan struct{})}
	go func() {
		defer close(d.started)
		d.ch, d.err = conn.Start(ctx, transport.Quote("/bin/sh", "-c", doorScript), transport.ChannelOptions{})
	}()
	return d
}

// enter turns the door into the attach command of an agent. It fails where the host has closed it meanwhile.
func (d *door) enter(ctx context.Context, agent agentRef) (transport.Channel, error) {
	select {
	case <-d.started:
	case <-ctx.Done():
		d.close()
		return nil, context.Cause(ctx)
	}
	if d.err != nil {
		return nil, d.err
	}
	if _, err := io.WriteString(d.ch, agent.exe+"\n"+agent.socket+"\n"); err != nil {
		d.close()
		return nil, err
	}
	return d.ch, nil
}

// close ends a door that nobody enters. It may be called on nil.
func (d *door) close() {
	if d == nil {
		return
	}
	go func() {
		if <-d.started; d.err == nil {
			_ = d.ch.Close() // its shell ends with its input
		}
	}()
}
