package proto

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
)

// mute is a way to an agent that says nothing to the client before the client has asked for something.
func mute(t *testing.T, h Handler) net.Conn {
	t.Helper()
	client, near := net.Pipe()
	far, agent := net.Pipe()
	go func() { _ = Serve(context.Background(), agent, testToken, h) }()
	asked := make(chan struct{})
	go func() {
		defer far.Close()
		var said []byte
		buf, open := make([]byte, 4096), true
		for {
			n, err := near.Read(buf)
			if said = append(said, buf[:n]...); open && bytes.Contains(said, []byte(`"method"`)) {
				open = false
				close(asked)
			}
			if _, writeErr := far.Write(buf[:n]); writeErr != nil || err != nil {
				return
			}
		}
	}()
	go func() {
		defer near.Close()
		<-asked
		_, _ = io.Copy(near, far)
	}()
	return client
}

func TestAQuestionFollowsTheHelloAtOnce(t *testing.T) {
	for rule, token := range map[string]string{"and is answered": testToken, "and is refused with it": "other"} {
		t.Run(rule, func(t *testing.T) {
			c := Begin(mute(t, HandlerFunc(func(context.Context, *Request) (any, error) { return "fine", nil })), Hello{Token: token})
			defer c.Close()
			var answer string
			asked := make(chan error, 1)
			go func() { asked <- c.Call(t.Context(), "early", nil, &answer) }()
			err := c.Greeted(t.Context())
			early := <-asked
			if token != testToken {
				if CodeOf(err) != CodeToken || CodeOf(early) != CodeToken {
					t.Errorf("the hello: %v; the question: %v", err, early)
				}
				return
			}
			if err != nil || early != nil || answer != "fine" || c.Agent().Version != Version {
				t.Errorf("the hello: %v; the question: %v, %q", err, early, answer)
			}
		})
	}
}
