package step

import (
	"errors"
	"fmt"
	"path"

	"fleet/secretsgen/secret"
)

// validate checks what the code behind it relies on: a request may have come from another machine.
func (r Request) validate() error {
	if !path.IsAbs(r.Program) || path.Clean(r.Program) != r.Program {
		return fmt.Errorf("program %q is no clean absolute path", r.Program)
	}
	if err := errors.Join(r.ID.Validate(), r.Gen.Validate()); err != nil {
		return err
	}
	switch {
	case r.Seq == 0:
		return errors.New("seq is 0; it counts from 1")
	case r.Sandbox != SandboxStrict && r.Sandbox != SandboxNetwork && r.Sandbox != SandboxNone:
		return fmt.Errorf("sandbox %q is none of %q, %q and %q", r.Sandbox, SandboxStrict, SandboxNetwork, SandboxNone)
	case r.Timeout < 0:
		return fmt.Errorf("timeout %v is negative", r.Timeout)
	case len(r.Owners) == 0:
		return errors.New("there is no owner to seal the value to")
	case len(r.Parts) > MaxParts:
		return fmt.Errorf("it declares %d parts, more than %d", len(r.Parts), MaxParts)
	}
	for part := range r.Parts {
		if err := secret.ValidatePart(part); err != nil {
			return err
		}
	}
	for alias, d := range r.Dependencies {
		if err := d.validate(alias); err != nil {
			return fmt.Errorf("dependency %q: %w", alias, err)
		}
	}
	return nil
}

func (d Dependency) validate(alias string) error {
	err := errors.Join(secret.ValidateName(alias), d.ID.Validate(), d.Gen.Validate())
	for part := range d.Sealed {
		err = errors.Join(err, secret.ValidatePart(part))
	}
	for part := range d.Public {
		err = errors.Join(err, secret.ValidatePart(part))
	}
	return err
}
