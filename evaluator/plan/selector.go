package plan

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Selector is a parsed expression that names hosts:
//
//	web-1            a host            web-*  web-?  web-[1-3]   globs over names
//	@canary          hosts with a tag  @system/*                 globs over tags
//	a, b   a | b     or                a & b                     and, which binds closer
//	!a               not, which binds closest                    ( … ) groups
//
// White space between the parts means nothing. A star matches slashes too.
type Selector struct {
	text string
	root node
}

// String is the expression as it was given.
func (s *Selector) String() string { return s.text }

// SelectError says that a selector names nothing.
type SelectError struct {
	// Selector is the whole expression.
	Selector string
	// Atom is the name or tag in it that matches nothing; empty where every atom matches something, but not the whole.
	Atom string
	// Near are existing names or tags that look like Atom, best first.
	Near []string
	// Known are all names, or all tags with their @, of the fleet.
	Known []string
}

func (e *SelectError) Error() string {
	switch {
	case e.Atom == "":
		return fmt.Sprintf("select hosts: %s matches no host, though its parts do", quote(e.Selector))
	case e.Atom == e.Selector:
		return fmt.Sprintf("select hosts: %s matches no host", quote(e.Atom))
	default:
		return fmt.Sprintf("select hosts: %s in %s matches no host", quote(e.Atom), quote(e.Selector))
	}
}

// Hint suggests what was meant.
func (e *SelectError) Hint() string {
	const shown = 20
	var parts []string
	if len(e.Near) > 0 {
		parts = append(parts, "did you mean "+strings.Join(e.Near, " or ")+"?")
	}
	if n := len(e.Known); n > shown {
		parts = append(parts, fmt.Sprintf("there are %s and %d more", strings.Join(e.Known[:shown], ", "), n-shown))
	} else if n > 0 {
		parts = append(parts, "there are "+strings.Join(e.Known, ", "))
	}
	return strings.Join(parts, " ")
}

// Match says whether a host is named. It does not notice atoms that name nothing; [Select] does.
func (s *Selector) Match(name string, tags []string) bool {
	return s.root.match(name, tags)
}

// Select returns the sorted names of the hosts that at least one of the selectors names and none of exclude does. No selector
// means all hosts. A selector, or a single name or tag inside one, that matches nothing is a [*SelectError]: a typing error
// must neither deploy less than was meant nor, in exclude, more. An excluded host that was not selected is fine.
func Select(p *Plan, selectors, exclude []string) ([]string, error) {
	chosen := map[string]bool{}
	if len(selectors) == 0 {
		for name := range p.Hosts {
			chosen[name] = true
		}
	}
	for _, text := range selectors {
		names, err := p.matching(text)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, &SelectError{Selector: text}
		}
		for _, name := range names {
			chosen[name] = true
		}
	}
	for _, text := range exclude {
		names, err := p.matching(text)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			delete(chosen, name)
		}
	}
	return slices.Sorted(maps.Keys(chosen)), nil
}

// matching returns the hosts that an expression names, after checking each of its atoms.
func (p *Plan) matching(text string) ([]string, error) {
	s, err := ParseSelector(text)
	if err != nil {
		return nil, err
	}
	var failed error
	s.root.atoms(func(a *atom) {
		if failed == nil {
			failed = p.checkAtom(text, a)
		}
	})
	if failed != nil {
		return nil, failed
	}
	var names []string
	for name, h := range p.Hosts {
		if s.root.match(name, h.Tags) {
			names = append(names, name)
		}
	}
	return names, nil
}

func (p *Plan) checkAtom(text string, a *atom) error {
	for name, h := range p.Hosts {
		if a.match(name, h.Tags) {
			return nil
		}
	}
	known := slices.Sorted(maps.Keys(p.Hosts))
	if a.tag {
		known = p.Tags()
		for i, tag := range known {
			known[i] = "@" + tag
		}
	}
	e := &SelectError{Selector: text, Atom: a.String(), Near: nearest(a.String(), known), Known: known}
	if len(e.Near) == 0 && !a.tag && slices.Contains(p.Tags(), a.pattern) {
		e.Near = []string{"@" + a.pattern}
	}
	if _, ok := p.Hosts[a.pattern]; ok && a.tag {
		e.Near = []string{a.pattern}
	}
	return e
}

// Tags returns all tags of the fleet, sorted.
func (p *Plan) Tags() []string {
	set := map[string]bool{}
	for _, h := range p.Hosts {
		for _, tag := range h.Tags {
			set[tag] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// SelectFrom reads selectors, one a line; empty lines and lines that begin with # are skipped. It reads at most 1 MiB. A list
// without any selector is an error, since it would mean all hosts where somebody's script found none.
func SelectFrom(r io.Reader) ([]string, error) {
	const limit = 1 << 20
	lines := bufio.NewScanner(io.LimitReader(r, limit+1))
	lines.Buffer(nil, limit)
	var out []string
	total := 0
	for lines.Scan() {
		if total += len(lines.Bytes()) + 1; total > limit {
			return nil, fmt.Errorf("read selectors: more than %d bytes", limit)
		}
		line := strings.TrimSpace(lines.Text())
		if line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read selectors: %w", err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read selectors: the input holds none")
	}
	return out, nil
}

// node is a part of an expression.
type node interface {
	match(name string, tags []string) bool
	atoms(each func(*atom))
}

type (
	anyOf []node
	allOf []node
	not   struct{ node }
	atom  struct {
		tag     bool
		pattern string
	}
)

func (n anyOf) match(name string, tags []string) bool {
	return slices.ContainsFunc(n, func(c node) bool { return c.match(name, tags) })
}

func (n allOf) match(name string, tags []string) bool {
	return !slices.ContainsFunc(n, func(c node) bool { return !c.match(name, tags) })
}

func (n not) match(name string, tags []string) bool { return !n.node.match(name, tags) }

func (a *atom) match(name string, tags []string) bool {
	if !a.tag {
		return glob(a.pattern, name)
	}
	return slices.ContainsFunc(tags, func(tag string) bool { return glob(a.pattern, tag) })
}

func (n anyOf) atoms(each func(*atom)) {
	for _, c := range n {
		c.atoms(each)
	}
}

func (n allOf) atoms(each func(*atom)) {
	for _, c := range n {
		c.atoms(each)
	}
}

func (a *atom) atoms(each func(*atom)) { each(a) }

func (a *atom) String() string {
	if a.tag {
		return "@" + a.pattern
	}
	return a.pattern
}
