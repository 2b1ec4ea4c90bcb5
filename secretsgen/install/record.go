package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"fleet/secretsgen/secret"
)

// ownership is whose a file is.
type ownership struct {
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
	Mode fs.FileMode `json:"mode"`
}

// public is how public parts are owned.
func publicOwnership() ownership { return ownership{Mode: 0o444} }

// file is a file of a generation.
type file struct {
	// path is below the generation's folder; alias, if not empty, is a second name of the same file.
	path, alias string
	data        secret.Plain
	own         ownership
}

// recordFile is the name of a generation's [record], which is written last.
const recordFile = ".fleet.json"

// renderedFolder is the folder of rendered templates in a generation. No secret has such a name.
const renderedFolder = ".rendered"

// record is what a generation says of itself: no values, and nothing that a value could be guessed from.
type record struct {
	Format    int                       `json:"format"`
	Secrets   map[string]recordSecret   `json:"secrets"`
	Templates map[string]recordTemplate `json:"templates"`
}

type recordSecret struct {
	ID  secret.ID  `json:"id"`
	Gen secret.Gen `json:"gen"`
	// Parts are the commitments.
	Parts map[string]string `json:"parts"`
	Own   ownership         `json:"own"`
}

type recordTemplate struct {
	// Is identifies the content with its values.
	Is   string    `json:"is"`
	Own  ownership `json:"own"`
	Path string    `json:"path,omitempty"`
}

func newRecord() record {
	return record{Format: secret.Format, Secrets: map[string]recordSecret{}, Templates: map[string]recordTemplate{}}
}

func (r record) encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write a generation's record: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeRecord reads a record of a version that this program understands.
func decodeRecord(data []byte) (record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&r); err != nil {
		return record{}, fmt.Errorf("read a generation's record: %w", err)
	}
	if r.Format != secret.Format {
		return record{}, fmt.Errorf("read a generation's record: it has format %d", r.Format)
	}
	return r, nil
}

// commits are the commitments of a secret's parts.
func (s *Secret) commits() map[string]string {
	all := make(map[string]string, len(s.Parts))
	for name, part := range s.Parts {
		all[name] = part.Commit
	}
	return all
}

// same says whether the record is of the secret's present value.
func (r recordSecret) same(s *Secret) bool {
	return r.ID == s.ID && r.Gen == s.Gen && maps.Equal(r.Parts, s.commits())
}

// changes says, a line each, how two generations differ.
func changes(before, after record) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(after.Secrets)) {
		is := after.Secrets[name]
		was, there := before.Secrets[name]
		switch {
		case !there || was.ID != is.ID:
			lines = append(lines, fmt.Sprintf("added %s, generation %s", is.ID, is.Gen))
		case was.Gen != is.Gen || !maps.Equal(was.Parts, is.Parts):
			lines = append(lines, fmt.Sprintf("changed %s, generation %s to %s", is.ID, was.Gen, is.Gen))
		case was.Own != is.Own:
			lines = append(lines, fmt.Sprintf("changed owner, group or mode of %s, generation %s", is.ID, is.Gen))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before.Secrets)) {
		was := before.Secrets[name]
		if is, there := after.Secrets[name]; !there || is.ID != was.ID {
			lines = append(lines, fmt.Sprintf("removed %s, generation %s", was.ID, was.Gen))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after.Templates)) {
		is := after.Templates[name]
		was, there := before.Templates[name]
		switch {
		case !there:
			lines = append(lines, fmt.Sprintf("added template %s", name))
		case was != is:
			lines = append(lines, fmt.Sprintf("changed template %s", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before.Templates)) {
		if _, there := after.Templates[name]; !there {
			lines = append(lines, fmt.Sprintf("removed template %s", name))
		}
	}
	return lines
}
