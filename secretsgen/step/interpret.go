package step

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/public"
	"fleet/secretsgen/secret"
)

// The files of a generator's output that are no parts.
const (
	fileCreated = "created_at"
	fileExpires = "expires_at"
	fileMarker  = "marker"
)

// made is what a generator has made, checked against what it was to make.
type made struct {
	parts   map[string]madePart
	expires *time.Time
}

type madePart struct {
	encrypted bool
	value     secret.Plain
}

// problem is what is wrong with a generator's output, and what its author can do about it.
type problem struct{ text, remedy string }

func (p *problem) Error() string { return p.text }
func (p *problem) Hint() string  { return p.remedy }

// interpret decides what the files of $out are. Values share the files' bytes. Errors may hold what a file is called, and of expires_at
// what is in it, where that looks like a time.
func (r Request) interpret(files map[string]secret.Plain) (made, error) {
	m := made{parts: map[string]madePart{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var err error
		switch name {
		case fileMarker:
		case fileCreated:
			_, err = parseTime(name, files[name])
		case fileExpires:
			m.expires, err = parseTime(name, files[name])
		default:
			m.parts[name], err = r.part(name, files[name])
		}
		if err != nil {
			return made{}, err
		}
	}
	return m, r.complete(m)
}

// parseTime reads a time as RFC 3339 has it, with space around it.
func parseTime(name string, file secret.Plain) (*time.Time, error) {
	text := strings.TrimSpace(string(file.Bytes()))
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, &problem{fmt.Sprintf("$out/%s holds %s, which is no time", name, shownTime(text)), `write it as RFC 3339 has it: date --utc +%Y-%m-%dT%H:%M:%SZ`}
	}
	t = t.UTC()
	return &t, nil
}

// shownTime is what was to be a time, where it cannot be anything else.
func shownTime(text string) string {
	if strings.Trim(text, "0123456789-:+.TZ ") != "" {
		return fmt.Sprintf("a text of %d bytes", len(text))
	}
	return fmt.Sprintf("%.60q", text)
}

// part decides what one file is.
func (r Request) part(name string, file secret.Plain) (madePart, error) {
	if err := secret.ValidatePart(name); err != nil {
		return madePart{}, &problem{fmt.Sprintf("$out has a file that cannot be a part: %v", err), ""}
	}
	declared, isDeclared := r.Parts[name]
	if r.Parts != nil && !isDeclared {
		return madePart{}, &problem{
			fmt.Sprintf("it wrote the part %q, which is not declared", name),
			fmt.Sprintf("declare it in the secret's parts (declared: %s), or do not write it", listOf(r.Parts)),
		}
	}
	kind, value := Unmark(file)
	part := madePart{encrypted: kind == Encrypted, value: value}
	switch {
	case isDeclared && declared.Encrypted && kind == Public, isDeclared && !declared.Encrypted && kind == Encrypted:
		return madePart{}, &problem{
			fmt.Sprintf("it wrote the part %q as %s, which is declared as %s", name, kind, kindOf(declared.Encrypted)),
			"change the declaration, or what writes it: encrypt and `gh private` make encrypted parts, `gh public` public ones",
		}
	case isDeclared:
		part.encrypted = declared.Encrypted
	case kind == Raw:
		if marker := public.PrivateMarker(value.Bytes()); marker != "" || name == secret.PartSecret {
			return madePart{}, unprotected(name, marker)
		}
	}
	if part.encrypted {
		if value.Len() == 0 {
			return madePart{}, &problem{fmt.Sprintf("the part %q is empty", name), "what feeds it may have failed: begin the script with `set -o pipefail`"}
		}
		return part, nil
	}
	return part, checkPublic(name, declared, isDeclared, kind, value)
}

// unprotected is the error about a value that nothing said is to be encrypted.
func unprotected(name, marker string) error {
	what := ""
	if marker != "" {
		what = " and holds " + marker
	}
	return &problem{
		fmt.Sprintf("the part %q was written without encryption%s", name, what),
		fmt.Sprintf("pipe it through encrypt: … | encrypt > $out/%s, or declare the part as encrypted", name),
	}
}

// checkPublic holds a public part against its type. One that is not declared is text, or whatever `gh public` was told to write.
func checkPublic(name string, declared Part, isDeclared bool, kind Kind, value secret.Plain) error {
	typ := declared.Type
	err := public.Validate(typ, declared.Pattern, value.Bytes())
	if err != nil && !isDeclared && kind == Public {
		typ = plan.TypeBinary
		err = public.Validate(typ, "", value.Bytes())
	}
	if err == nil {
		return nil
	}
	if typ == "" {
		typ = plan.TypeText
	}
	return &problem{
		fmt.Sprintf("the public part %q is not what it should be (%s): %v", name, typ, err),
		fmt.Sprintf("mend the generator, or give the part another type: %s", strings.Join(plan.PartTypes(), ", ")),
	}
}

// complete says what is missing as a whole.
func (r Request) complete(m made) error {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
		if _, ok := m.parts[name]; !ok {
			missing = append(missing, name)
		}
	}
	switch {
	case len(m.parts) == 0:
		return &problem{"it left nothing in $out", "write each part to a file in there, such as $out/secret and $out/public"}
	case len(missing) > 0:
		return &problem{
			fmt.Sprintf("it did not write %s, which the secret declares", strings.Join(missing, ", ")),
			"write a file of that name to $out, or take it out of the secret's parts",
		}
	case len(m.parts) > MaxParts:
		return &problem{fmt.Sprintf("it wrote %d parts, more than %d", len(m.parts), MaxParts), ""}
	}
	return nil
}

func listOf(parts map[string]Part) string {
	return strings.Join(slices.Sorted(maps.Keys(parts)), ", ")
}

func kindOf(encrypted bool) Kind {
	if encrypted {
		return Encrypted
	}
	return Public
}

// String is for messages.
func (k Kind) String() string {
	switch k {
	case Encrypted:
		return "encrypted"
	case Public:
		return "public"
	}
	return "raw"
}

// private lists the values that must not be shown, whatever became of them: those in files, but for what is plainly meant for everybody.
func (r Request) private(files map[string]secret.Plain) []secret.Plain {
	var values []secret.Plain
	for _, name := range slices.Sorted(maps.Keys(files)) {
		kind, value := Unmark(files[name])
		declared, isDeclared := r.Parts[name]
		isPublic := kind == Public || kind == Raw && isDeclared && !declared.Encrypted || name == fileExpires || name == fileCreated ||
			kind == Raw && r.Parts == nil && name == secret.PartPublic
		if isPublic && public.PrivateMarker(value.Bytes()) == "" {
			continue
		}
		values = append(values, secret.NewPlain(bytes.TrimSpace(value.Bytes())))
	}
	return values
}
