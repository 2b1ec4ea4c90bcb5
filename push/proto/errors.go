package proto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrLost is wrapped by every error that comes from the connection and not from the other
// side's answer: a caller may dial again and go on.
var ErrLost = errors.New("connection lost")

// ErrClosed is returned for what is tried after [Client.Close].
var ErrClosed = errors.New("connection closed")

// ErrEnded is returned by [Stream.Write] where the peer has ended the stream; [Stream.Result] knows why.
var ErrEnded = errors.New("stream ended by the peer")

// Error is an answer of the other side that is not a result.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
	// Data belongs to the code: a [LockHolder] for [CodeLocked], a [VersionData] for [CodeVersion].
	Data json.RawMessage `json:"data,omitempty"`
	// Remedy is what a person can do about it, empty where nothing is known.
	Remedy string `json:"remedy,omitempty"`
}

// VersionData is the Data of an error with [CodeVersion].
type VersionData struct {
	// Client and Agent are the protocol versions that both sides speak.
	Client int `json:"client"`
	Agent  int `json:"agent"`
}

func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return e.Message
}

// Hint returns the remedy.
func (e *Error) Hint() string { return e.Remedy }

// Is lets errors.Is(err, &Error{Code: c}) find an error by its code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == "" && t.Data == nil && t.Remedy == ""
}

// Errorf makes an [*Error] with a formatted message.
func Errorf(code ErrorCode, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first [*Error] in err's tree, and "" where there is none.
func CodeOf(err error) ErrorCode {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// asError makes what a handler returned into what crosses the wire.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return &Error{Code: CodeCancelled, Message: err.Error()}
	}
	return &Error{Code: CodeInternal, Message: err.Error()}
}

func errCancelled() *Error { return &Error{Code: CodeCancelled, Message: "stream cancelled"} }

func lostf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrLost, fmt.Errorf(format, args...))
}
