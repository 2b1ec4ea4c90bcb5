package state

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// The files and folders of a secret.
const (
	metaFile      = "meta.json"
	ownersFolder  = "owners"
	publicFolder  = "public"
	revokedFolder = "revoked"
)

// content is the files of a secret's folder by their paths in it, with slashes.
type content map[string][]byte

// base64Columns is the width of a public part that is no text.
const base64Columns = 76

// EncodingOf is how a public part is kept: as it is where Nix and git leave it as it is, else in base64.
func EncodingOf(value []byte) string {
	if utf8.Valid(value) && !bytes.ContainsAny(value, "\x00\r") {
		return secret.EncodingText
	}
	return secret.EncodingBase64
}

func encodePublic(value []byte, encoding string) []byte {
	if encoding == secret.EncodingText {
		return value
	}
	text := base64.StdEncoding.EncodeToString(value)
	var out bytes.Buffer
	for len(text) > 0 {
		n := min(len(text), base64Columns)
		out.WriteString(text[:n])
		out.WriteByte('\n')
		text = text[n:]
	}
	return out.Bytes()
}

func decodePublic(data []byte, encoding string) ([]byte, error) {
	if encoding == secret.EncodingText {
		return data, nil
	}
	value, err := base64.StdEncoding.Strict().DecodeString(string(data))
	if err != nil {
		return nil, fmt.Errorf("decode base64: %w", err)
	}
	return value, nil
}

// render makes the files of a secret.
func render(e *Entry) (content, error) {
	meta := e.Meta
	data, err := secret.CanonicalJSON(meta.GenerationData)
	if err != nil {
		return nil, fmt.Errorf("generationData: %w", err)
	}
	meta.GenerationData = data
	files := content{}
	if files[metaFile], err = meta.Encode(); err != nil {
		return nil, err
	}
	for host, owner := range e.Owners {
		if err := secret.ValidateName(host); err != nil {
			return nil, err
		}
		if files[path.Join(ownersFolder, host+".json")], err = owner.Encode(); err != nil {
			return nil, err
		}
	}
	for part, value := range e.Public {
		if err := secret.ValidatePart(part); err != nil {
			return nil, err
		}
		files[path.Join(publicFolder, part)] = encodePublic(value, meta.Parts[part].Encoding)
	}
	for _, former := range e.Revoked {
		if files[revokedPath(former)], err = former.Encode(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func revokedPath(r secret.Revoked) string {
	return path.Join(revokedFolder, fmt.Sprintf("%s-%s.json", r.Gen, r.Owner))
}

// errStray says that a file has no place in a secret's folder.
var errStray = errors.New("it does not belong here")

// parser reads the files of one secret.
type parser struct {
	fleet string
	// folder is the secret's folder, for errors.
	folder string
	entry  *Entry
	errs   []error
}

func (p *parser) fail(file, owner string, err error) {
	p.errs = append(p.errs, &BrokenError{ID: p.entry.ID, Path: path.Join(p.folder, file), Owner: owner, Err: err})
}

// parse reads the files of a secret. What is wrong is in the entry's Err; unread are files that could not even be read, with paths in the folder.
func parse(fleet, folder string, id secret.ID, files content, unread ...*BrokenError) *Entry {
	p := &parser{fleet: fleet, folder: folder, entry: &Entry{ID: id, Owners: map[string]secret.Owner{}, Public: map[string][]byte{}}}
	failed := map[string]bool{}
	for _, broken := range unread {
		failed[broken.Path] = true
		p.fail(broken.Path, broken.Owner, broken.Err)
	}
	meta, err := secret.DecodeMeta(files[metaFile])
	switch {
	case failed[metaFile]:
	case files[metaFile] == nil:
		p.fail(metaFile, "", errors.New("it is missing"))
	case err != nil:
		p.fail(metaFile, "", err)
	}
	p.entry.Meta = meta
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if file != metaFile {
			p.file(file, files[file])
		}
	}
	for _, part := range slices.Sorted(maps.Keys(meta.Parts)) {
		file := path.Join(publicFolder, part)
		if _, ok := files[file]; !ok && !failed[file] && !meta.Parts[part].Encrypted {
			p.fail(file, "", errors.New("it is missing"))
		}
	}
	p.entry.Err = joined(p.errs)
	return p.entry
}

// joined is one error as it is, and several as one.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func (p *parser) file(file string, data []byte) {
	folder, name := path.Split(file)
	host, isJSON := strings.CutSuffix(name, ".json")
	switch {
	case folder == ownersFolder+"/" && isJSON && secret.ValidateName(host) == nil:
		p.owner(file, host, data)
	case folder == publicFolder+"/":
		p.public(file, name, data)
	case folder == revokedFolder+"/" && isJSON:
		p.revoked(file, data)
	default:
		p.fail(file, "", errStray)
	}
}

func (p *parser) owner(file, host string, data []byte) {
	owner, err := secret.DecodeOwner(data)
	if err != nil {
		p.fail(file, host, err)
		return
	}
	p.entry.Owners[host] = owner
	if owner.Gen != p.entry.Meta.Gen {
		return // decisions and checks say so; its parts are those of another value
	}
	encrypted := p.entry.Meta.Encrypted()
	for _, part := range encrypted {
		if _, ok := owner.Parts[part]; !ok {
			p.fail(file, host, fmt.Errorf("it lacks the part %q", part))
		}
	}
	for part := range owner.Parts {
		if !slices.Contains(encrypted, part) {
			p.fail(file, host, fmt.Errorf("it has a part %q that meta.json does not have", part))
		}
	}
}

func (p *parser) public(file, part string, data []byte) {
	declared, ok := p.entry.Meta.Parts[part]
	if !ok || declared.Encrypted {
		if p.entry.Meta.Gen != "" { // else meta.json could not be read, and has been named
			p.fail(file, "", errStray)
		}
		return
	}
	value, err := decodePublic(data, declared.Encoding)
	if err == nil {
		err = p.checkPublic(part, value, declared.Commit)
	}
	if err != nil && secret.HasMergeMarkers(data) {
		err = secret.ErrMergeMarkers
	}
	if err != nil {
		p.fail(file, "", err)
		return
	}
	p.entry.Public[part] = value
}

func (p *parser) checkPublic(part string, value []byte, commit string) error {
	if len(value) > secret.MaxPublic {
		return fmt.Errorf("it has %d bytes, and a public part has at most %d", len(value), secret.MaxPublic)
	}
	meta := p.entry.Meta
	c := seal.Context{Fleet: p.fleet, ID: p.entry.ID, Part: part, Gen: meta.Gen, Seq: meta.Seq}
	// A copy, since what is committed to may be wiped.
	if seal.Commit(c, nil, secret.NewPlain(bytes.Clone(value))) != commit {
		return errors.New("it is not the value that meta.json commits to: one of the two was edited, or they are of different generations")
	}
	return nil
}

func (p *parser) revoked(file string, data []byte) {
	former, err := secret.DecodeRevoked(data)
	switch {
	case err != nil:
		p.fail(file, "", err)
	case revokedPath(former) != file:
		p.fail(file, "", errors.New("its name does not say what is in it"))
	default:
		p.entry.Revoked = append(p.entry.Revoked, former)
	}
}
