package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// decodeStrict reads one JSON value so that no other reader can understand it otherwise: unknown fields, fields in another case, fields
// that come twice, and anything behind the value are errors. (encoding/json alone takes "GEN" for "gen", and the last of two; Nix takes neither.)
// Merge markers have an error of their own.
func decodeStrict(data []byte, into any) error {
	if HasMergeMarkers(data) {
		return ErrMergeMarkers
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return checkFields(json.NewDecoder(bytes.NewReader(data)), reflect.TypeOf(into).Elem())
}

// checkFields walks one value of the type t. What it does not know by its type, such as raw JSON, may have any fields, but none twice.
func checkFields(dec *json.Decoder, t reflect.Type) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		err = checkObject(dec, t)
	case json.Delim('['):
		for err == nil && dec.More() {
			err = checkFields(dec, nil)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	_, err = dec.Token() // the end of the object or list
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type) error {
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if seen[name] {
			return fmt.Errorf("field %q is there twice", shorten(name))
		}
		seen[name] = true
		field, err := fieldType(t, name)
		if err != nil {
			return err
		}
		if err := checkFields(dec, field); err != nil {
			return err
		}
	}
	return nil
}

// fieldType is the type of a field of t, nil where there is none to know.
func fieldType(t reflect.Type, name string) (reflect.Type, error) {
	switch {
	case t == nil || t.Implements(reflect.TypeFor[json.Marshaler]()):
		return nil, nil
	case t.Kind() == reflect.Map:
		return t.Elem(), nil
	case t.Kind() != reflect.Struct:
		return nil, nil
	}
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); tag == name {
			return t.Field(i).Type, nil
		}
	}
	return nil, fmt.Errorf("unknown field %q", shorten(name))
}
