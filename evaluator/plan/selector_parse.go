package plan

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SyntaxError says where an expression cannot be read.
type SyntaxError struct {
	Selector string
	// Offset counts bytes from the start of Selector.
	Offset  int
	Message string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("read selector %s: at character %d: %s", quote(e.Selector), utf8.RuneCountInString(e.Selector[:e.Offset])+1, e.Message)
}

// Hint shows the grammar by example.
func (e *SyntaxError) Hint() string {
	return `a selector is as: web-1, 'web-*', @canary, '@web & !@canary', '(a | b) & @x'`
}

const (
	maxSelector = 64 << 10
	maxNesting  = 64
)

// ParseSelector reads an expression in the grammar of [Selector]; the error is a [*SyntaxError].
func ParseSelector(text string) (*Selector, error) {
	p := &parser{text: text}
	if len(text) > maxSelector {
		p.text = ""
		return nil, p.fail("it is longer than %d bytes", maxSelector)
	}
	if !utf8.ValidString(text) {
		return nil, p.fail("it is not UTF-8")
	}
	if i := strings.IndexFunc(text, func(c rune) bool { return unicode.IsControl(c) && !unicode.IsSpace(c) }); i >= 0 {
		p.at = i
		return nil, p.fail("it has a control character")
	}
	root, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.peek() != end {
		return nil, p.fail("expected , | or & before %q", p.text[p.at:])
	}
	return &Selector{text: text, root: root}, nil
}

// parser is a recursive descent over the text; peek skips white space.
type parser struct {
	text string
	at   int
}

func (p *parser) fail(format string, args ...any) error {
	return &SyntaxError{Selector: p.text, Offset: p.at, Message: fmt.Sprintf(format, args...)}
}

// end is what peek returns at the end; no text has it.
const end rune = -1

// peek returns the next rune that is no white space.
func (p *parser) peek() rune {
	rest := strings.TrimLeftFunc(p.text[p.at:], unicode.IsSpace)
	p.at = len(p.text) - len(rest)
	if rest == "" {
		return end
	}
	c, _ := utf8.DecodeRuneInString(rest)
	return c
}

func (p *parser) or(depth int) (node, error) {
	var out anyOf
	for {
		n, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
		if c := p.peek(); c != ',' && c != '|' {
			break
		}
		p.at++
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

func (p *parser) and(depth int) (node, error) {
	var out allOf
	for {
		n, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
		if p.peek() != '&' {
			break
		}
		p.at++
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

func (p *parser) unary(depth int) (node, error) {
	if depth > maxNesting {
		return nil, p.fail("it is nested more than %d deep", maxNesting)
	}
	switch p.peek() {
	case '!':
		p.at++
		n, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return not{n}, nil
	case '(':
		p.at++
		n, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.fail("expected )")
		}
		p.at++
		return n, nil
	default:
		return p.atom()
	}
}

// atom reads a name or a tag. Inside brackets every character belongs to the set, operators too.
func (p *parser) atom() (node, error) {
	a := new(atom)
	if p.peek() == '@' {
		a.tag = true
		p.at++
	}
	start := p.at
	for p.at < len(p.text) {
		c, size := utf8.DecodeRuneInString(p.text[p.at:])
		if strings.ContainsRune("&|,!()@", c) || unicode.IsSpace(c) {
			break
		}
		if c == '[' {
			length := setEnd(p.text[p.at:])
			if length < 0 {
				return nil, p.fail("the set has no closing bracket")
			}
			size = length
		}
		p.at += size
	}
	a.pattern = p.text[start:p.at]
	switch {
	case a.pattern != "":
		return a, nil
	case a.tag:
		return nil, p.fail("expected a tag after @")
	case p.at == len(p.text):
		return nil, p.fail("expected a host's name or a @tag")
	default:
		return nil, p.fail("expected a host's name or a @tag before %q", p.text[p.at:])
	}
}
