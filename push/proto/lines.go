package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxLines bounds what a [Lines] unpacks to, in bytes: four times the paths of the largest closures.
	maxLines = 16 << 20
	// maxLineCount bounds how many lines there are, since each costs more memory than its text.
	maxLineCount = 1 << 18
)

// Lines is a list of texts without line breaks, such as the names of ten thousand paths. It crosses as one compressed text, which takes a third of the
// bytes: a list of paths is most of what a push of nothing sends.
type Lines []string

// MarshalJSON implements [json.Marshaler].
func (l Lines) MarshalJSON() ([]byte, error) {
	if len(l) == 0 {
		return []byte("null"), nil
	}
	for _, line := range l {
		if line == "" || strings.ContainsRune(line, '\n') {
			return nil, fmt.Errorf("encode list: %q is no line", line)
		}
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return json.Marshal(z.EncodeAll([]byte(strings.Join(l, "\n")), nil))
}

// UnmarshalJSON implements [json.Unmarshaler]. Its memory is bounded whatever it reads.
func (l *Lines) UnmarshalJSON(text []byte) (err error) {
	*l, err = decodeLines(text, maxLineCount)
	return err
}

// decodeLines decodes what MarshalJSON has made of so many lines at most.
func decodeLines(text []byte, most int) (Lines, error) {
	var packed []byte
	if err := json.Unmarshal(text, &packed); err != nil {
		return nil, err
	}
	if len(packed) == 0 {
		return nil, nil
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxLines))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	plain, err := z.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("decode list: %w", err)
	}
	if n := bytes.Count(plain, []byte("\n")) + 1; n > min(most, maxLineCount) {
		return nil, fmt.Errorf("decode list: %d lines, the limit is %d", n, min(most, maxLineCount))
	}
	lines := strings.Split(string(plain), "\n")
	for _, line := range lines {
		if line == "" {
			return nil, errors.New("decode list: an empty line")
		}
	}
	return lines, nil
}
