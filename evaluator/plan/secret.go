package plan

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Secret is what a fleet declares of one secret: in the plan for a shared one, in its host's record for another. It never depends on
// the state.
type Secret struct {
	// Owners are the hosts that can read it, sorted, tags expanded. Empty for a host's own secret, whose owner is the host.
	Owners []string `json:"owners"`
	// Generator is nil for a secret whose value a person gives.
	Generator *Generator `json:"generator"`
	// Parts are the declared parts; nil where what the generator makes is the list.
	Parts map[string]SecretPart `json:"parts"`
	// RegenerateOnOwnerAdded and RegenerateOnOwnerRemoved ask for a new value in place of another copy, or of one copy less.
	RegenerateOnOwnerAdded   bool `json:"regenerateOnOwnerAdded"`
	RegenerateOnOwnerRemoved bool `json:"regenerateOnOwnerRemoved"`
	// OnGeneratorChange says what a changed seed does: "regenerate" or "notice".
	OnGeneratorChange string `json:"onGeneratorChange"`
	// OnDependencyChange says what a new value of a dependency does: "regenerate" or "keep".
	OnDependencyChange string `json:"onDependencyChange"`
}

// SecretPart is a declared part.
type SecretPart struct {
	Encrypted bool `json:"encrypted"`
	// Type is what a public part has to be, one of [PartTypes]; empty for an encrypted part.
	Type string `json:"type"`
	// Pattern is what a part of type "regex" has to match whole, in RE2 syntax; empty for other types.
	Pattern string `json:"pattern"`
}

// The types of public parts.
const (
	// TypeText: one printable line, or PEM.
	TypeText = "text"
	// TypeX509: one or more PEM certificates.
	TypeX509 = "x509"
	// TypeSSHKey: one public key as in authorized_keys.
	TypeSSHKey = "ssh-key"
	// TypeWireGuardKey: 32 bytes in base64.
	TypeWireGuardKey = "wireguard-key"
	// TypeRegex: whatever Pattern matches.
	TypeRegex = "regex"
	// TypeBinary: any bytes.
	TypeBinary = "binary"
)

// PartTypes lists the types of public parts.
func PartTypes() []string {
	return []string{TypeText, TypeX509, TypeSSHKey, TypeWireGuardKey, TypeRegex, TypeBinary}
}

// Generator says how a secret's value is made.
type Generator struct {
	// Kind is "script", or "ask" for what is asked from a person.
	Kind string `json:"kind"`
	// On is the host that a script runs on; nil leaves it to the operator's machine, or, where it needs a dependency that only hosts can read,
	// to a host that owns that.
	On *string `json:"on"`
	// Sandbox is "strict", "network" (strict, with network) or "none".
	Sandbox string `json:"sandbox"`
	// Data is what the generator was called with, null for nothing: other data asks for a new value.
	Data json.RawMessage `json:"data"`
	// Seed identifies a hand-written script; nil for the generators of fleet.
	Seed *string `json:"seed"`
	// Dependencies are the ids of the secrets that the script reads, by the name that it has for them.
	Dependencies map[string]string `json:"dependencies"`
	// Ask is for the kind "ask".
	Ask *Ask `json:"ask"`
}

// Ask says what is asked from a person.
type Ask struct {
	// From is "terminal" (a line, not echoed), "file" (the name of a file) or "env" (an environment variable of the operator's).
	From string `json:"from"`
	// Prompt is what the person reads.
	Prompt string `json:"prompt"`
	// Variable is the variable's name, for "env".
	Variable string `json:"variable"`
}

// Specs is what a host declares in its own modules and what does not need its system.
type Specs struct {
	// Secrets are the host's own, by name. Those that it shares are in the plan.
	Secrets map[string]Secret `json:"secrets"`
	// Missing are the parts that the host needs and the state does not have for it, as ids of secrets, own and shared ones. While there
	// are any, the host's system does not evaluate.
	Missing []string `json:"missing"`
	// Health are checks that the host's own modules declare, by their names. One of the same name in the plan replaces it.
	Health map[string]HealthCheck `json:"health"`
}

// secret checks one declaration.
func (v *validation) secret(path, name string, s Secret) {
	v.check(path, name, checkSecretName)
	v.checkAll(path+".owners", s.Owners, checkName)
	v.oneOf(path+".onGeneratorChange", s.OnGeneratorChange, "regenerate", "notice")
	v.oneOf(path+".onDependencyChange", s.OnDependencyChange, "regenerate", "keep")
	for part, p := range s.Parts {
		at := join(path+".parts", part)
		v.check(at, part, checkSecretName)
		switch {
		case p.Encrypted && (p.Type != "" || p.Pattern != ""):
			v.add(at, "an encrypted part has no type")
		case !p.Encrypted:
			v.oneOf(at+".type", p.Type, PartTypes()...)
			if _, err := regexp.Compile(p.Pattern); err != nil || (p.Type == TypeRegex) != (p.Pattern != "") {
				v.add(at+".pattern", "%s is no regular expression, or does not belong to a part of type %s", quote(p.Pattern), quote(p.Type))
			}
		}
	}
	if s.Generator != nil {
		v.generator(path+".generator", *s.Generator)
	}
}

func (v *validation) generator(path string, g Generator) {
	v.oneOf(path+".kind", g.Kind, "script", "ask")
	v.oneOf(path+".sandbox", g.Sandbox, "strict", "network", "none")
	if g.On != nil {
		v.check(path+".on", *g.On, checkName)
	}
	if (g.Kind == "ask") != (g.Ask != nil) {
		v.add(path+".ask", "it belongs to the kind \"ask\" and to no other")
	} else if g.Ask != nil {
		v.oneOf(path+".ask.from", g.Ask.From, "terminal", "file", "env")
	}
	for alias, id := range g.Dependencies {
		v.check(join(path+".dependencies", alias), alias, checkSecretName)
		v.check(join(path+".dependencies", alias), id, checkSecretID)
	}
}

// maxSecretName is that of secret.ValidateName, which this package cannot import.
const maxSecretName = 128

// checkSecretName holds the names of secrets and parts against the rule of secret.ValidateName.
func checkSecretName(name string) string { return checkChars(name, ".-", maxSecretName) }

func checkSecretID(id string) string {
	rest, shared := strings.CutPrefix(id, "shared/")
	if !shared {
		host, name, ok := strings.Cut(strings.TrimPrefix(id, "host/"), "/")
		if !strings.HasPrefix(id, "host/") || !ok || checkName(host) != "" {
			return `it must be "shared/NAME" or "host/HOST/NAME"`
		}
		rest = name
	}
	return checkSecretName(rest)
}
