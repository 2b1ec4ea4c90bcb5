package daemon

import (
	"strings"

	"fleet/closure/run"
)

// The messages that come before an operation's result (libstore/worker-protocol.hh).
const (
	msgNext          = 0x6f6c6d67
	msgError         = 0x63787470
	msgLast          = 0x616c7473
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// Reason is what an [Error] is about, as far as its text tells: the protocol has no codes.
type Reason string

// The reasons that are told apart.
const (
	ReasonOther Reason = ""
	// ReasonUntrusted: the path lacks a signature that the daemon trusts, and we are not a trusted user.
	ReasonUntrusted Reason = "untrusted"
	// ReasonNoSpace: the store's file system, or that of its database, is full.
	ReasonNoSpace Reason = "no space"
	// ReasonCorrupt: what was sent does not have the hash or size that was announced, or is no NAR.
	ReasonCorrupt Reason = "corrupt"
	// ReasonInvalidPath: a path that is needed is not valid in the store.
	ReasonInvalidPath Reason = "invalid path"
)

// Error is what the daemon answered to one operation. The connection can still be used.
type Error struct {
	// Message is one or more lines, free of escape codes.
	Message string
	// Traces are what Nix was doing, from the inside out.
	Traces []string
}

func (e *Error) Error() string { return "nix daemon: " + e.Message }

// Reason classifies the error by the texts that Nix 2.8 to 2.36 use (libstore/local-store.cc, libutil/archive.cc).
func (e *Error) Reason() Reason {
	has := func(texts ...string) bool {
		for _, text := range texts {
			if strings.Contains(e.Message, text) {
				return true
			}
		}
		return false
	}
	switch {
	case has("No space left on device", "database or disk is full", "Disk quota exceeded"):
		return ReasonNoSpace
	case has("lacks a signature by a trusted key", "lacks a valid signature"):
		return ReasonUntrusted
	case has("hash mismatch importing path", "size mismatch importing path", "content address of path", "bad archive",
		"does not look like a Nix archive", "doesn't look like a Nix archive", "unexpected end-of-file", "reached end of FramedSource"):
		return ReasonCorrupt
	case has("is not valid"):
		return ReasonInvalidPath
	}
	return ReasonOther
}

// messages reads what comes before the result of an operation: nil where the result follows, an [*Error] where the operation
// failed, any other error where the connection cannot be used any more.
func (d decoder) messages(log func(string)) error {
	for {
		kind, err := d.number()
		if err != nil {
			return err
		}
		switch kind {
		case msgLast:
			return nil
		case msgError:
			return d.daemonError()
		case msgNext:
			err = d.logLine(log)
		case msgStartActivity:
			err = d.startActivity(log)
		case msgStopActivity:
			_, err = d.number()
		case msgResult:
			err = d.activityResult()
		default:
			err = fault("unknown message %#x", kind)
		}
		if err != nil {
			return err
		}
	}
}

func (d decoder) logLine(log func(string)) error {
	text, err := d.text(maxLogText)
	if err == nil {
		logText(log, text)
	}
	return err
}

func logText(log func(string), text string) {
	if text = strings.TrimRight(run.StripEscapes(text), "\n"); log != nil && text != "" {
		log(text)
	}
}

func (d decoder) startActivity(log func(string)) error {
	// Identifier, level, type.
	for range 3 {
		if _, err := d.number(); err != nil {
			return err
		}
	}
	if err := d.logLine(log); err != nil {
		return err
	}
	if err := d.fields(); err != nil {
		return err
	}
	_, err := d.number()
	return err
}

func (d decoder) activityResult() error {
	for range 2 {
		if _, err := d.number(); err != nil {
			return err
		}
	}
	return d.fields()
}

func (d decoder) fields() error {
	n, err := d.count(maxList)
	if err != nil {
		return err
	}
	for range n {
		kind, err := d.number()
		if err != nil {
			return err
		}
		switch kind {
		case 0:
			_, err = d.number()
		case 1:
			_, err = d.text(maxLogText)
		default:
			err = fault("unknown type of field %d", kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// daemonError reads an error in the form that is used since 1.26: type, level, name, text, position, traces.
func (d decoder) daemonError() error {
	if _, err := d.text(maxShortText); err != nil {
		return err
	}
	if _, err := d.number(); err != nil {
		return err
	}
	if _, err := d.text(maxShortText); err != nil {
		return err
	}
	message, err := d.text(maxLogText)
	if err != nil {
		return err
	}
	if _, err := d.number(); err != nil {
		return err
	}
	n, err := d.count(maxList)
	if err != nil {
		return err
	}
	e := &Error{Message: cleanMessage(message)}
	for range n {
		if _, err := d.number(); err != nil {
			return err
		}
		trace, err := d.text(maxLogText)
		if err != nil {
			return err
		}
		e.Traces = append(e.Traces, cleanMessage(trace))
	}
	return e
}

// maxMessage is how much of an error's text is kept.
const maxMessage = 64 << 10

func cleanMessage(text string) string {
	if len(text) > maxMessage {
		text = text[:maxMessage]
	}
	text = strings.TrimSpace(run.StripEscapes(text))
	return strings.TrimPrefix(text, "error: ")
}
