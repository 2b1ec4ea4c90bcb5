package install

import (
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"

	"fleet/secretsgen/secret"
)

// ManifestError says what is wrong with a manifest as a whole. Nothing was changed.
type ManifestError struct {
	Host string
	// Problems has one line each.
	Problems []string
}

func (e *ManifestError) Error() string {
	return fmt.Sprintf("the secrets of host %q are declared wrongly: %s", e.Host, strings.Join(e.Problems, "; "))
}

// Hint says where it comes from.
func (e *ManifestError) Hint() string {
	return "change the host's options secrets.NAME or secretTemplates.NAME, and run: nix flake check"
}

// validation collects problems.
type validation struct {
	problems []string
	// names is what each name was taken by, so that none is taken twice.
	names map[string]string
}

func (v *validation) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

func (v *validation) check(what string, err error) {
	if err != nil {
		v.add("%s: %s", what, err)
	}
}

// take notes that what has a name of a kind, which only one may have.
func (v *validation) take(kind, name, what string) {
	key := kind + "\x00" + name
	if other, ok := v.names[key]; ok {
		v.add("%s and %s have the same %s %.200q", other, what, kind, name)
		return
	}
	v.names[key] = what
}

// Validate looks for all that would let files of two secrets, or files outside of the folders of secrets, be written. The error is a [*ManifestError].
func (m *Manifest) Validate() error {
	v := &validation{names: map[string]string{}}
	if m.Format != secret.Format {
		v.add("its format is %d, this program reads format %d", m.Format, secret.Format)
	}
	v.check("fleet", secret.ValidateName(m.Fleet))
	v.check("host", secret.ValidateName(m.Host))
	for _, file := range m.Identities {
		if !path.IsAbs(file) {
			v.add("identity file %.200q is no absolute path", file)
		}
	}
	for i := range m.Secrets {
		v.secret(m.Host, &m.Secrets[i])
	}
	for i := range m.Templates {
		v.template(&m.Templates[i])
	}
	if len(v.problems) > 0 {
		return &ManifestError{Host: m.Host, Problems: v.problems}
	}
	return nil
}

func (v *validation) secret(host string, s *Secret) {
	what := fmt.Sprintf("secret %.300q", s.ID.String())
	v.check(what, s.ID.Validate())
	v.check(what, s.Gen.Validate())
	if of, own := s.ID.Scope.Host(); own && of != host {
		v.add("%s belongs to another host", what)
	}
	if s.Seq == 0 {
		v.add("%s: seq is 0; it counts from 1", what)
	}
	if _, err := parseMode(s.Mode); err != nil {
		v.check(what, err)
	}
	if len(s.Parts) == 0 {
		v.add("%s has no parts", what)
	}
	v.take("name", s.ID.Name, what)
	for name, part := range s.Parts {
		v.check(what, secret.ValidatePart(name))
		if sum, err := hex.DecodeString(part.Commit); err != nil || len(sum) != 32 || hex.EncodeToString(sum) != part.Commit {
			v.add("%s part %.200q: commit %.80q is no SHA-256 in lower-case hexadecimal", what, name, part.Commit)
		}
		v.take("file of secret "+s.ID.Name, name, fmt.Sprintf("part %.200q", name))
		v.take("file of secret "+s.ID.Name, part.file(name), fmt.Sprintf("part %.200q", name))
	}
	for credential, part := range s.Credentials {
		v.check(what+" credential", secret.ValidateName(credential))
		v.take("credential", credential, what)
		if _, ok := s.Parts[part]; !ok {
			v.add("%s: credential %.200q is of a part %.200q that it does not have", what, credential, part)
		}
	}
}

func (v *validation) template(t *Template) {
	what := fmt.Sprintf("template %.200q", t.Name)
	v.check(what, secret.ValidateName(t.Name))
	v.take("name of template", t.Name, what)
	if _, err := parseMode(t.Mode); err != nil {
		v.check(what, err)
	}
	if t.Path == "" {
		return
	}
	v.take("path", t.Path, what)
	if !path.IsAbs(t.Path) || path.Clean(t.Path) != t.Path || t.Path == "/" || strings.ContainsRune(t.Path, 0) {
		v.add("%s: path %.200q is not absolute and clean", what, t.Path)
	}
}

// file is the name of a part's file that changes with its value.
func (p Part) file(name string) string { return p.Commit + "-" + name }

// parseMode reads the permission bits of a file, in octal; no other bits.
func parseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > 0o777 || len(text) < 3 || len(text) > 4 {
		return 0, fmt.Errorf("mode %.80q is none, such as \"0440\"", text)
	}
	return uint32(mode), nil
}
