package step

import (
	"fmt"
	"maps"
	"slices"

	"filippo.io/age"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// open decrypts the dependencies and holds each against its commitment.
func (r Request) open(identities []age.Identity) (map[string]map[string][]byte, error) {
	inputs := make(map[string]map[string][]byte, len(r.Dependencies))
	for _, alias := range slices.Sorted(maps.Keys(r.Dependencies)) {
		d := r.Dependencies[alias]
		parts := make(map[string][]byte, len(d.Sealed)+len(d.Public))
		maps.Copy(parts, d.Public)
		for _, part := range slices.Sorted(maps.Keys(d.Sealed)) {
			c := seal.Context{Fleet: r.Fleet, ID: d.ID, Part: part, Gen: d.Gen, Seq: d.Seq}
			opened, err := seal.Open(d.Sealed[part].Armor, c, d.Sealed[part].Commit, identities...)
			if err != nil {
				return nil, fmt.Errorf("read dependency %q: %w", alias, err)
			}
			parts[part] = opened.Value.Bytes()
		}
		inputs[alias] = parts
	}
	return inputs, nil
}

// wipe overwrites the opened dependencies.
func (j *job) wipe() {
	for _, alias := range slices.Sorted(maps.Keys(j.Inputs)) {
		for part := range j.Request.Dependencies[alias].Sealed {
			clear(j.Inputs[alias][part])
		}
	}
}

// privateInputs are the encrypted dependencies.
func (j *job) privateInputs() []secret.Plain {
	var values []secret.Plain
	for _, alias := range slices.Sorted(maps.Keys(j.Inputs)) {
		for part := range j.Request.Dependencies[alias].Sealed {
			values = append(values, secret.NewPlain(j.Inputs[alias][part]))
		}
	}
	return values
}
