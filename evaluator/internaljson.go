package evaluator

import (
	"bytes"
	"encoding/json"

	"fleet/closure/run"
)

// Activity types and result types of Nix's internal-json log (libutil/logging.hh).
const (
	actCopyPath     = 100
	actFileTransfer = 101
	actCopyPaths    = 103
	actBuilds       = 104
	actBuild        = 105
	actSubstitute   = 108

	resBuildLogLine     = 101
	resProgress         = 105
	resPostBuildLogLine = 107
)

// The levels of messages (libutil/error.hh).
const (
	levelError   = 0
	levelWarning = 1
)

// Message is one line of Nix's internal-json log.
type Message struct {
	// Action is "msg", "start", "stop" or "result"; empty for a line that is not in the format, whose text is in Text.
	Action string
	// ID is the activity that start, stop and result speak of.
	ID uint64
	// Type is the activity's type for start, the result's for result.
	Type int
	// Level is the verbosity of msg and start, 0 being errors.
	Level int
	// Text is what a person reads, free of escape codes.
	Text string
	// Raw is an error's own message, without trace and position, free of escape codes.
	Raw string
	// Fields are numbers and strings, the strings free of escape codes.
	Fields []Field
}

// Field is one value of an activity or a result.
type Field struct {
	Number uint64
	Text   string
}

// ParseInternalJSON reads one line that a nix program printed with --log-format internal-json. It never fails: a line that is not in the format
// (a builder's own output, a warning from before the logger is set up) becomes a message without an Action.
func ParseInternalJSON(line []byte) Message {
	line = bytes.TrimRight(line, "\r\n")
	text, ok := bytes.CutPrefix(line, []byte("@nix "))
	if !ok {
		return Message{Text: run.StripEscapes(string(line))}
	}
	var raw struct {
		Action string            `json:"action"`
		ID     uint64            `json:"id"`
		Type   int               `json:"type"`
		Level  int               `json:"level"`
		Msg    string            `json:"msg"`
		RawMsg string            `json:"raw_msg"`
		Text   string            `json:"text"`
		Fields []json.RawMessage `json:"fields"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return Message{Text: run.StripEscapes(string(line))}
	}
	m := Message{Action: raw.Action, ID: raw.ID, Type: raw.Type, Level: raw.Level}
	m.Text = run.StripEscapes(raw.Msg + raw.Text)
	m.Raw = run.StripEscapes(raw.RawMsg)
	for _, field := range raw.Fields {
		m.Fields = append(m.Fields, parseField(field))
	}
	return m
}

func parseField(data json.RawMessage) Field {
	var f Field
	if err := json.Unmarshal(data, &f.Number); err == nil {
		return f
	}
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		f.Text = run.StripEscapes(text)
	}
	return f
}

// field returns the i-th field, the zero Field where there are fewer.
func (m *Message) field(i int) Field {
	if i >= len(m.Fields) {
		return Field{}
	}
	return m.Fields[i]
}

// maxMessage bounds one line. Errors with a full trace reach some hundred KiB.
const maxMessage = 8 << 20

// messageWriter cuts a stream into lines and parses each; what exceeds [maxMessage] in a line is lost. It is not safe for concurrent use.
type messageWriter struct {
	each    func(Message)
	pending []byte
}

// Write never fails.
func (w *messageWriter) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		w.pending = append(w.pending, line[:min(len(line), maxMessage-len(w.pending))]...)
		if ended {
			w.flush()
		}
	}
	return len(data), nil
}

// flush handles a last line without a newline.
func (w *messageWriter) flush() {
	if len(w.pending) > 0 {
		w.each(ParseInternalJSON(w.pending))
	}
	w.pending = w.pending[:0]
}
