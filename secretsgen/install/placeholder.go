package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"fleet/secretsgen/secret"
)

// What a placeholder begins and ends with, and the length of what is between.
const (
	placeholderBegin = "<FLEET-SECRET:"
	placeholderEnd   = ">"
	placeholderSize  = 32
)

// Placeholder is the text that stands for a part of a secret in a template, until the host renders it. It tells nothing of the value. Nix renders
// the same: <FLEET-SECRET:HASH>, HASH the first 32 digits of the SHA-256 of "ID/PART" in lower-case hexadecimal.
func Placeholder(id secret.ID, part string) string {
	return placeholderBegin + placeholderHash(id, part) + placeholderEnd
}

func placeholderHash(id secret.ID, part string) string {
	sum := sha256.Sum256([]byte(id.String() + "/" + part))
	return hex.EncodeToString(sum[:])[:placeholderSize]
}

// splitTemplate splits a template into its own text and the hashes of the placeholders between: one text more than hashes.
func splitTemplate(content string) (texts, hashes []string, err error) {
	for {
		text, rest, found := strings.Cut(content, placeholderBegin)
		texts = append(texts, text)
		if !found {
			return texts, hashes, nil
		}
		hash, rest, found := strings.Cut(rest, placeholderEnd)
		if !found || len(hash) != placeholderSize {
			return nil, nil, errors.New("it has the beginning of a placeholder that does not end as one")
		}
		hashes = append(hashes, hash)
		content = rest
	}
}

// slot is what a placeholder stands for.
type slot struct {
	id   secret.ID
	part string
	// commit says which value it is.
	commit string
}

// slots are all that templates can stand for, by the hash of the placeholder.
func (m *Manifest) slots() map[string]slot {
	all := map[string]slot{}
	for _, s := range m.Secrets {
		for name, part := range s.Parts {
			all[placeholderHash(s.ID, name)] = slot{s.ID, name, part.Commit}
		}
	}
	return all
}

// rendering is a template on its way.
type rendering struct {
	texts []string
	slots []slot
	// is identifies what comes out: the same content with the same values.
	is string
}

// prepare reads a template's content.
func (t *Template) prepare(all map[string]slot) (rendering, error) {
	texts, hashes, err := splitTemplate(t.Content)
	if err != nil {
		return rendering{}, err
	}
	r := rendering{texts: texts}
	digest := sha256.New()
	digest.Write([]byte(t.Content))
	for _, hash := range hashes {
		s, ok := all[hash]
		if !ok {
			return rendering{}, fmt.Errorf("it has a placeholder, %s%s%s, of a secret that this host does not have", placeholderBegin, hash, placeholderEnd)
		}
		r.slots = append(r.slots, s)
		digest.Write([]byte("\x00" + s.commit))
	}
	r.is = hex.EncodeToString(digest.Sum(nil))
	return r, nil
}

// render fills in values, in one pass: a value that looks like a placeholder stays what it is.
func (r rendering) render(value func(slot) (secret.Plain, error)) (secret.Plain, error) {
	values := make([]secret.Plain, len(r.slots))
	size := 0
	for i, s := range r.slots {
		v, err := value(s)
		if err != nil {
			return secret.Plain{}, err
		}
		values[i] = v
		size += v.Len()
	}
	for _, text := range r.texts {
		size += len(text)
	}
	out := make([]byte, 0, size)
	for i, text := range r.texts {
		out = append(out, text...)
		if i < len(values) {
			out = append(out, values[i].Bytes()...)
		}
	}
	return secret.NewPlain(out), nil
}
