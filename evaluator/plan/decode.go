package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// ErrVersion is what errors.Is finds in a [*VersionError].
var ErrVersion = errors.New("unknown plan format")

// VersionError says that a plan has a format that this program does not read.
type VersionError struct {
	// Got is the plan's format; 0 where it has none.
	Got int
	// Want is the format that this program reads.
	Want int
}

func (e *VersionError) Error() string {
	switch {
	case e.Got == 0:
		return fmt.Sprintf("decode plan: it has no formatVersion; this program reads format %d", e.Want)
	case e.Got > e.Want:
		return fmt.Sprintf("decode plan: it has format %d, newer than format %d, which this program reads", e.Got, e.Want)
	default:
		return fmt.Sprintf("decode plan: it has format %d, this program reads format %d", e.Got, e.Want)
	}
}

// Is makes errors.Is(err, ErrVersion) true.
func (e *VersionError) Is(target error) bool { return target == ErrVersion }

// Hint is the remedy.
func (e *VersionError) Hint() string {
	if e.Got == 0 {
		return "is this file a plan? `fleet plan --json --with-records` prints one"
	}
	return "use the fleet program of the flake that made the plan (nix run .#fleet), or bring both to one version: nix flake update fleet"
}

// Decode reads a plan. It is strict: another format version, an unknown, repeated or missing-typed field, anything
// after the plan, and whatever [Plan.Validate] refuses are errors. The version is looked at first, so that a newer plan
// is called newer and not broken.
func Decode(data []byte) (*Plan, error) {
	if err := checkVersion(data); err != nil {
		return nil, err
	}
	if err := checkShape(data, reflect.TypeFor[Plan]()); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	p := new(Plan)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	p.normalise()
	return p, nil
}

// DecodeRecord reads one host's record as the flake renders it, as strictly as [Decode].
func DecodeRecord(data []byte) (Record, error) {
	var r Record
	if err := checkShape(data, reflect.TypeFor[Record]()); err != nil {
		return r, fmt.Errorf("decode record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("decode record: %w", err)
	}
	v := new(validation)
	v.record("record", r)
	if err := v.err("record"); err != nil {
		return Record{}, err
	}
	normaliseRecord(&r)
	return r, nil
}

// Encode renders a plan so that equal plans give equal bytes: keys sorted, indented, a newline at the end.
func Encode(p *Plan) ([]byte, error) {
	stable := *p
	stable.Hosts = cloneMap(p.Hosts)
	stable.Records = cloneMap(p.Records)
	if len(stable.Records) == 0 {
		stable.Records = nil
	}
	stable.normalise()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(&stable); err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return buf.Bytes(), nil
}

// checkVersion reads formatVersion alone.
func checkVersion(data []byte) error {
	var head struct {
		FormatVersion *int `json:"formatVersion"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("decode plan: %w", locate(data, err))
	}
	if head.FormatVersion == nil {
		return &VersionError{Want: FormatVersion}
	}
	if *head.FormatVersion != FormatVersion {
		return &VersionError{Got: *head.FormatVersion, Want: FormatVersion}
	}
	return nil
}

// locate adds line and column to the JSON errors that know an offset.
func locate(data []byte, err error) error {
	var offset int64
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
	default:
		return err
	}
	offset = min(max(offset, 0), int64(len(data)))
	before := data[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n') - 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}

// normalise replaces absent lists and maps by empty ones, except where absence has a meaning.
func (p *Plan) normalise() {
	if p.Helpers == nil {
		p.Helpers = map[string]Helper{}
	}
	if p.Hosts == nil {
		p.Hosts = map[string]Host{}
	}
	p.Warnings = notNil(p.Warnings)
	p.SharedSecrets = normaliseSecrets(p.SharedSecrets)
	for name, h := range p.Hosts {
		h.Tags = notNil(h.Tags)
		h.Deploy.HostKeys = notNil(h.Deploy.HostKeys)
		normaliseDeploy(&h.Deploy)
		h.Network.InternalIPs = notNil(h.Network.InternalIPs)
		h.Network.ExternalIPs = notNil(h.Network.ExternalIPs)
		p.Hosts[name] = h
	}
	for name, r := range p.Records {
		normaliseRecord(&r)
		p.Records[name] = r
	}
}

func normaliseRecord(r *Record) {
	if r.Specs != nil {
		specs := *r.Specs
		specs.Secrets, specs.Missing = normaliseSecrets(specs.Secrets), notNil(specs.Missing)
		specs.Health = normaliseHealth(specs.Health)
		r.Specs = &specs
	}
	if r.System == nil {
		return
	}
	s := *r.System
	s.Specialisations = notNil(s.Specialisations)
	r.System = &s
}

func normaliseSecrets(secrets map[string]Secret) map[string]Secret {
	out := make(map[string]Secret, len(secrets))
	for name, s := range secrets {
		s.Owners = notNil(s.Owners)
		if s.Generator != nil {
			g := *s.Generator
			if g.Dependencies == nil {
				g.Dependencies = map[string]string{}
			}
			if len(g.Data) == 0 {
				g.Data = json.RawMessage("null")
			}
			s.Generator = &g
		}
		out[name] = s
	}
	return out
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func cloneMap[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
