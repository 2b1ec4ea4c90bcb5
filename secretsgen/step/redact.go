package step

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"

	"fleet/closure/run"
	"fleet/secretsgen/secret"
)

// The lengths in bytes from which on a value, and a line of one, are taken out of what is shown: PINs are short. Shorter lines would take ordinary
// words along.
const (
	smallestValue = 4
	smallestLine  = 8
)

const redacted = "[redacted]"

// redactor takes values out of texts.
type redactor struct {
	// whole are values and their usual encodings, pieces also the lines of values.
	whole, pieces [][]byte
}

// newRedactor makes a redactor of values. A value is found as it is, in base64 and hexadecimal; and line by line, since programs indent what
// they quote.
func newRedactor(values []secret.Plain) *redactor {
	r := &redactor{}
	add := func(list *[][]byte, text []byte, smallest int) {
		if text = bytes.TrimSpace(text); len(text) >= smallest {
			*list = append(*list, text)
		}
	}
	for _, v := range values {
		value := v.Bytes()
		for _, form := range [][]byte{
			value, bytes.TrimSpace(value), []byte(run.StripEscapes(string(value))),
			[]byte(hex.EncodeToString(value)), []byte(strings.ToUpper(hex.EncodeToString(value))),
			[]byte(base64.RawStdEncoding.EncodeToString(value)), []byte(base64.RawURLEncoding.EncodeToString(value)),
		} {
			add(&r.whole, form, smallestValue)
		}
		for line := range bytes.Lines(value) {
			add(&r.pieces, line, smallestLine)
			add(&r.pieces, []byte(run.StripEscapes(string(line))), smallestLine)
		}
	}
	r.pieces = append(r.pieces, r.whole...)
	// The longest first: a piece of a longer one would leave the rest of it.
	slices.SortFunc(r.pieces, func(a, b []byte) int { return len(b) - len(a) })
	return r
}

// Text makes what a program printed fit to be shown: without values, escape codes, and values again that escape codes were hiding. With cut
// the beginning of the text is missing, and may have taken the first half of a value along.
func (r *redactor) Text(raw []byte, cut bool) string {
	if cut {
		raw = r.dropHalf(raw)
	}
	return string(r.replace([]byte(run.StripEscapes(string(r.replace(raw))))))
}

func (r *redactor) replace(text []byte) []byte {
	for _, piece := range r.pieces {
		text = bytes.ReplaceAll(text, piece, []byte(redacted))
	}
	return text
}

// dropHalf drops what may be the end of a value from the beginning of a text.
func (r *redactor) dropHalf(text []byte) []byte {
	longest := 0
	for _, value := range r.whole {
		for n := min(len(value), len(text)); n > longest; n-- {
			if bytes.Equal(value[len(value)-n:], text[:n]) {
				longest = n
			}
		}
	}
	return text[longest:]
}

// printed keeps the end of what a program prints.
type printed struct {
	data []byte
	cut  bool
}

// Write never fails.
func (p *printed) Write(data []byte) (int, error) {
	p.data = append(p.data, data...)
	if len(p.data) > 4*MaxOutput {
		p.trim()
	}
	return len(data), nil
}

func (p *printed) trim() {
	if extra := len(p.data) - MaxOutput; extra > 0 {
		p.data, p.cut = append(p.data[:0], p.data[extra:]...), true
	}
}

// text is what may be shown, in whole lines where the beginning is missing.
func (p *printed) text(r *redactor) string {
	p.trim()
	text := r.Text(p.data, p.cut)
	if p.cut {
		_, rest, found := strings.Cut(text, "\n")
		if !found {
			return "[a line longer than what is kept of it]"
		}
		text = "[…]\n" + rest
	}
	return text
}
