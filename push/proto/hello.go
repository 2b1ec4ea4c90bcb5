package proto

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Hello is the first frame of both sides. Its form never changes, so that two versions can tell each other apart.
type Hello struct {
	// Version is the protocol's; 0 means [Version].
	Version int `json:"version"`
	// Token is the session's secret, sent by the client alone.
	Token string `json:"token,omitempty"`
	// Software names the program and its version, for messages.
	Software string `json:"software,omitempty"`
}

func (h Hello) version() int {
	if h.Version == 0 {
		return Version
	}
	return h.Version
}

func writeHello(w io.Writer, h Hello) error {
	h.Version = h.version()
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(text) > maxHello {
		return Errorf(CodeUsage, "hello of %d bytes, the limit is %d", len(text), maxHello)
	}
	// One write, so that it never waits between header and payload for a peer that reads nothing.
	var h9 [headerSize]byte
	putHeader(&h9, frameHello, 0, len(text))
	_, err = w.Write(append(h9[:], text...))
	return err
}

// readHello reads the peer's first frame, which is a hello or a refusal. What is no frame at all
// is quoted, since it is what a shell or a login script printed.
func readHello(br *bufio.Reader) (Hello, error) {
	head, err := br.Peek(headerSize)
	if err != nil && len(head) == 0 {
		return Hello{}, lostIO(err)
	}
	fr := frameReader{r: br}
	typ := byte(0)
	if len(head) == headerSize {
		typ = head[4]
	}
	if typ != byte(frameHello) && typ != byte(frameError) {
		more, _ := br.Peek(min(br.Buffered(), 80))
		return Hello{}, violationf("the peer does not speak the fleet protocol, it began with %q", more)
	}
	f, err := fr.next()
	if err != nil {
		return Hello{}, lostIO(err)
	}
	if f.typ == frameError {
		return Hello{}, refusal(f.payload)
	}
	var h Hello
	if err := json.Unmarshal(f.payload, &h); err != nil {
		return Hello{}, violationf("hello is no JSON: %v", err)
	}
	return h, nil
}

func refusal(text []byte) error {
	var e Error
	if err := json.Unmarshal(text, &e); err != nil || e.Code == "" {
		return violationf("refusal is no error: %.80q", text)
	}
	return &e
}

func versionError(client, agent int) *Error {
	data, err := json.Marshal(VersionData{Client: client, Agent: agent})
	if err != nil {
		panic(err) // two integers
	}
	return &Error{
		Code:    CodeVersion,
		Message: fmt.Sprintf("protocol version %d on the operator's side, %d on the host", client, agent),
		Data:    data,
		Remedy:  "use the fleet-helper of one and the same revision on both sides: the flake's fleet input decides",
	}
}

// greeting reads the agent's hello as a client.
func greeting(br *bufio.Reader, mine Hello) (Hello, error) {
	theirs, err := readHello(br)
	if err != nil {
		return Hello{}, err
	}
	if ours := mine.version(); theirs.Version != ours {
		return Hello{}, versionError(ours, theirs.Version)
	}
	return theirs, nil
}

// welcome exchanges hellos as an agent and checks the token.
func welcome(rw io.ReadWriter, br *bufio.Reader, token string) error {
	theirs, err := readHello(br)
	if err != nil {
		return err
	}
	if theirs.Version != Version {
		// The client finds the version in our hello; this one says nothing about the token.
		return errors.Join(versionError(theirs.Version, Version), writeHello(rw, Hello{}))
	}
	if token == "" || subtle.ConstantTimeCompare([]byte(theirs.Token), []byte(token)) != 1 {
		e := Errorf(CodeToken, "the session token is wrong")
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return errors.Join(e, writeFrame(rw, frameError, 0, text))
	}
	return writeHello(rw, Hello{})
}

// bounded runs the exchange of hellos; where ctx ends or the time is over it closes rw and says so.
func bounded(ctx context.Context, rw io.Closer, limit time.Duration, exchange func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, lostf("no hello from the peer within %s", limit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	err := exchange()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}
