package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// checkShape holds JSON against a Go type and refuses what encoding/json lets pass: unknown fields (it can
// refuse them too, but does not say where they are), names in another case, repeated names, null
// where there is no pointer, list or map, and anything after the value.
func checkShape(data []byte, t reflect.Type) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	s := shape{dec: dec, data: data}
	if err := s.value("", t); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: something follows the value", s.position())
	}
	return nil
}

// shape walks tokens and types side by side. Its depth is that of the type: what the type does not know is refused unread.
type shape struct {
	dec  *json.Decoder
	data []byte
}

func (s *shape) value(path string, t reflect.Type) error {
	if t == reflect.TypeFor[json.RawMessage]() {
		// Whatever it is, it is somebody else's to look at.
		var any json.RawMessage
		return locate(s.data, s.dec.Decode(&any))
	}
	tok, err := s.dec.Token()
	if err != nil {
		return locate(s.data, err)
	}
	if t.Kind() == reflect.Pointer {
		if tok == nil {
			return nil
		}
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		return s.object(path, t, tok)
	case reflect.Map:
		return s.mapping(path, t, tok)
	case reflect.Slice:
		return s.list(path, t, tok)
	default:
		return s.scalar(path, t, tok)
	}
}

func (s *shape) object(path string, t reflect.Type, tok json.Token) error {
	fields := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields[name] = t.Field(i).Type
	}
	return s.members(path, tok, func(name, at string) error {
		ft, ok := fields[name]
		if !ok {
			return fmt.Errorf("%s: unknown field %q", s.position(), at)
		}
		return s.value(at, ft)
	})
}

func (s *shape) mapping(path string, t reflect.Type, tok json.Token) error {
	if tok == nil {
		return nil
	}
	return s.members(path, tok, func(_, at string) error { return s.value(at, t.Elem()) })
}

// members reads the rest of an object and calls each after every name.
func (s *shape) members(path string, tok json.Token, each func(name, at string) error) error {
	if tok != json.Delim('{') {
		return s.mismatch(path, "an object", tok)
	}
	seen := map[string]bool{}
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return locate(s.data, err)
		}
		name, ok := tok.(string)
		if !ok {
			return s.mismatch(path, "a name", tok)
		}
		at := join(path, name)
		if seen[name] {
			return fmt.Errorf("%s: %q is given twice", s.position(), at)
		}
		seen[name] = true
		if err := each(name, at); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return locate(s.data, err)
}

func (s *shape) list(path string, t reflect.Type, tok json.Token) error {
	if tok == nil {
		return nil
	}
	if tok != json.Delim('[') {
		return s.mismatch(path, "a list", tok)
	}
	for i := 0; s.dec.More(); i++ {
		if err := s.value(path+"["+strconv.Itoa(i)+"]", t.Elem()); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return locate(s.data, err)
}

func (s *shape) scalar(path string, t reflect.Type, tok json.Token) error {
	ok := false
	want := t.Kind().String()
	switch t.Kind() {
	case reflect.String:
		_, ok = tok.(string)
	case reflect.Bool:
		want = "true or false"
		_, ok = tok.(bool)
	case reflect.Int:
		want = "an integer"
		var n json.Number
		if n, ok = tok.(json.Number); ok {
			_, err := strconv.Atoi(n.String())
			ok = err == nil
		}
	default:
		return fmt.Errorf("check %q: no rule for type %s", path, t)
	}
	if !ok {
		return s.mismatch(path, want, tok)
	}
	return nil
}

func (s *shape) mismatch(path, want string, tok json.Token) error {
	if path == "" {
		path = "the value"
	}
	got := "null"
	switch tok := tok.(type) {
	case json.Delim:
		got = map[json.Delim]string{'{': "an object", '[': "a list"}[tok]
	case string:
		got = "a string"
	case json.Number:
		got = "the number " + tok.String()
	case bool:
		got = strconv.FormatBool(tok)
	}
	return fmt.Errorf("%s: %s must be %s, not %s", s.position(), path, want, got)
}

// position is where the decoder stands, for a person.
func (s *shape) position() string {
	offset := min(int(s.dec.InputOffset()), len(s.data))
	return "line " + strconv.Itoa(bytes.Count(s.data[:offset], []byte("\n"))+1)
}

// join extends a path by a name, quoted where dots would make it ambiguous.
func join(path, name string) string {
	if name == "" || strings.ContainsAny(name, ".[]\" \t\n") {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
