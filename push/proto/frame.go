// Package proto is the protocol between the helper on the operator's machine and the agent on a host.
//
// One connection carries frames: a big-endian u32 payload length, a type byte, a u32 stream
// number, the payload. Both sides begin with a hello that never changes its form; the versions must be equal. After it the client
// opens streams, each one request with parameters, data both ways under its own credit, and one
// result or error from the agent. A stream that nobody reads holds back its own sender and nothing else.
//
// Neither side trusts the other with memory: frames, messages, streams and unread data are
// all bounded, and whatever breaks a rule ends the connection.
package proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxFrame is the largest payload of one frame, in bytes.
	MaxFrame = 128 << 10
	// MaxMessage is the largest JSON text of a request, a result or an error, in bytes; it is carried in several frames.
	MaxMessage = 32 << 20
	// MaxStreams is how many streams a client keeps open at once; [Client.Open] waits for a free one.
	MaxStreams = 64
	// Window is how much data of one stream and direction may be unread, in bytes: as much
	// as one SSH channel of OpenSSH and x/crypto holds, so that this is not the narrower one.
	Window = 2 << 20

	headerSize = 9
	// readAhead is how much is read at once where frames are small, in bytes. Large ones are read to where they stay.
	readAhead = 8 << 10
	// maxAnswer is the largest result or error of a method that lists nothing, and that of one that lists no more than it was asked for,
	// unless the request was larger, in bytes. Go's form of a JSON text can be thirty times as large as the text.
	maxAnswer = 1 << 20
	// maxSecretValue is the largest result of [MethodSecretsOpen]: secret.MaxValue in base64, and room for the JSON around it.
	maxSecretValue = 2 << 20
	// maxHello bounds the first frame, which is read before the peer is known.
	maxHello = 4 << 10
	// maxPartial bounds all messages of a connection that have not arrived whole, in bytes.
	maxPartial = 2 * MaxMessage
	// maxServed is the agent's limit. It is above the client's, since a client may hear of a
	// stream's end before the agent has counted it.
	maxServed = 2 * MaxStreams
)

type frameType uint8

// The frames. Their numbers are the protocol.
const (
	frameHello  frameType = 1  // both; [Hello] as JSON, stream 0
	frameOpen   frameType = 2  // client; the end of a request message
	frameData   frameType = 3  // both; spends credit
	frameEOF    frameType = 4  // both; no more data in this direction
	frameCredit frameType = 5  // both; u32 more bytes may be sent
	frameCancel frameType = 6  // client
	frameResult frameType = 7  // agent; the end of a result message, and of the stream
	frameError  frameType = 8  // agent; the end of an error message, and of the stream; stream 0 refuses a hello
	framePing   frameType = 9  // both; only shows that the sender lives
	frameMore   frameType = 10 // both; a part of a message that goes on
	frameBye    frameType = 11 // both; the sender ends the connection on purpose
)

type frame struct {
	typ     frameType
	stream  uint32
	payload []byte // valid until the next read
}

// frameError says that the peer broke the protocol.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "protocol violation: " + e.what }

func violationf(format string, args ...any) error {
	return &protocolError{what: fmt.Sprintf(format, args...)}
}

// checkHeader says whether a frame of this type may have this stream and length.
func checkHeader(typ frameType, stream, length uint32) error {
	if length > MaxFrame {
		return violationf("frame of %d bytes, the limit is %d", length, MaxFrame)
	}
	switch typ {
	case frameHello:
		if length > maxHello {
			return violationf("hello of %d bytes, the limit is %d", length, maxHello)
		}
		return checkStream(typ, stream, false)
	case framePing, frameBye:
		return errors.Join(checkStream(typ, stream, false), checkLength(typ, length, 0))
	case frameEOF, frameCancel:
		return errors.Join(checkStream(typ, stream, true), checkLength(typ, length, 0))
	case frameCredit:
		return errors.Join(checkStream(typ, stream, true), checkLength(typ, length, 4))
	case frameData, frameMore:
		if length == 0 {
			return violationf("empty frame of type %d", typ)
		}
		return checkStream(typ, stream, true)
	case frameOpen, frameResult:
		return checkStream(typ, stream, true)
	case frameError:
		return nil
	}
	return violationf("frame of unknown type %d", typ)
}

func checkStream(typ frameType, stream uint32, want bool) error {
	if (stream != 0) != want {
		return violationf("frame of type %d for stream %d", typ, stream)
	}
	return nil
}

func checkLength(typ frameType, length, want uint32) error {
	if length != want {
		return violationf("frame of type %d with %d bytes, want %d", typ, length, want)
	}
	return nil
}

// frameReader reads frames into one buffer, which has at most [MaxFrame] bytes.
type frameReader struct {
	r     io.Reader
	spare *spareFrames
	buf   []byte
}

// keep says that somebody keeps the last frame's payload: the next one is read elsewhere.
func (f *frameReader) keep() { f.buf = nil }

// next returns io.EOF at a clean end between frames and [io.ErrUnexpectedEOF] inside of one.
func (f *frameReader) next() (frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(h[0:])
	fr := frame{typ: frameType(h[4]), stream: binary.BigEndian.Uint32(h[5:])}
	if err := checkHeader(fr.typ, fr.stream, length); err != nil {
		return frame{}, err
	}
	if uint32(cap(f.buf)) < length {
		f.buf = f.room(length)
	}
	fr.payload = f.buf[:length]
	if _, err := io.ReadFull(f.r, fr.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return fr, nil
}

// room is memory for a payload.
func (f *frameReader) room(length uint32) []byte {
	const small = 4 << 10
	if length <= small {
		return make([]byte, small)
	}
	return f.spare.get()
}

func putHeader(h *[headerSize]byte, typ frameType, stream uint32, length int) {
	binary.BigEndian.PutUint32(h[0:], uint32(length))
	h[4] = byte(typ)
	binary.BigEndian.PutUint32(h[5:], stream)
}

// writeFrame writes one frame; len(payload) is at most [MaxFrame].
func writeFrame(w io.Writer, typ frameType, stream uint32, payload []byte) error {
	var h [headerSize]byte
	putHeader(&h, typ, stream, len(payload))
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	if len(payload) == 0 {
		return nil
	}
	_, err := w.Write(payload)
	return err
}
