package deploy

import (
	"encoding/hex"
	"errors"
	"fmt"

	"fleet/secretsgen/public"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// checkResult holds what a host says that its generator made against what it was asked for. What is encrypted cannot be looked into; that it is
// for its owners alone can be seen.
func checkResult(request step.Request, result step.Result) error {
	fail := func(err error) error {
		return fmt.Errorf("generate %s: the host's answer cannot be used: %w", request.ID, err)
	}
	if len(result.Parts) == 0 || len(result.Parts) > step.MaxParts {
		return fail(fmt.Errorf("it has %d parts", len(result.Parts)))
	}
	encrypted := 0
	for name, part := range result.Parts {
		if err := checkPart(request, name, part); err != nil {
			return fail(fmt.Errorf("part %.60q: %w", name, err))
		}
		if part.Encrypted {
			encrypted++
		}
	}
	if request.Parts != nil && len(result.Parts) != len(request.Parts) {
		return fail(fmt.Errorf("it has %d parts, and %d are declared", len(result.Parts), len(request.Parts)))
	}
	if encrypted > 0 || len(result.Sealed) > 0 {
		if err := sameHosts(request.Owners, result.Sealed); err != nil {
			return fail(err)
		}
	}
	for owner, sealed := range result.Sealed {
		recipient, err := seal.ParseRecipient(request.Owners[owner])
		if err != nil {
			return fail(err)
		}
		if len(sealed) != encrypted {
			return fail(fmt.Errorf("owner %q gets %d of %d parts", owner, len(sealed), encrypted))
		}
		for name, part := range sealed {
			if !result.Parts[name].Encrypted {
				return fail(fmt.Errorf("part %.60q is sealed, and is no encrypted part", name))
			}
			if err := checkSealed(part, recipient); err != nil {
				return fail(fmt.Errorf("part %q for %q: %w", name, owner, err))
			}
		}
	}
	return nil
}

func checkPart(request step.Request, name string, part step.ResultPart) error {
	if err := secret.ValidatePart(name); err != nil {
		return err
	}
	if sum, err := hex.DecodeString(part.Commit); err != nil || len(sum) != 32 {
		return errors.New("its commitment is none")
	}
	declared, known := request.Parts[name]
	switch {
	case request.Parts != nil && !known:
		return errors.New("it is not declared")
	case known && declared.Encrypted != part.Encrypted:
		return errors.New("encrypted and public are mixed up")
	case part.Encrypted && len(part.Public) > 0:
		return errors.New("it is encrypted, and its value is shown")
	case part.Encrypted:
		return nil
	case seal.Commit(request.Context(name), nil, secret.NewPlain(part.Public)) != part.Commit:
		return errors.New("its commitment is one to another value")
	}
	return public.Validate(declared.Type, declared.Pattern, part.Public)
}

func sameHosts[V any](want map[string]string, got map[string]V) error {
	for host := range want {
		if _, ok := got[host]; !ok {
			return fmt.Errorf("nothing is sealed to %q", host)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("it is sealed to %d hosts, not to %d", len(got), len(want))
	}
	return nil
}

// checkRewrapped does for one part what checkResult does for a value.
func checkRewrapped(to map[string]string, sealed map[string]secret.SealedPart) error {
	if err := sameHosts(to, sealed); err != nil {
		return err
	}
	for host, part := range sealed {
		recipient, err := seal.ParseRecipient(to[host])
		if err != nil {
			return err
		}
		if err := checkSealed(part, recipient); err != nil {
			return fmt.Errorf("for %q: %w", host, err)
		}
	}
	return nil
}

func checkSealed(part secret.SealedPart, recipient seal.Recipient) error {
	if secret.Checksum(part.Armor) != part.SHA256 {
		return errors.New("its checksum is wrong")
	}
	header, err := seal.Inspect(part.Armor)
	if err != nil {
		return err
	}
	if !header.IsFor(recipient) {
		return fmt.Errorf("it is not sealed to %s alone", recipient.Fingerprint)
	}
	return nil
}
