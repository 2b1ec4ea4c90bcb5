package install

import (
	"context"

	"fleet/secretsgen/secret"
)

// Check is the preflight of a switch: it decrypts and verifies all secrets of both phases and renders all templates, in memory, and changes
// nothing. Owners are not looked up, since the switch may make them. Failures are in the report; the error says that the manifest is none,
// or that ctx ended.
func Check(ctx context.Context, m *Manifest, _ Options) (Report, error) {
	if err := m.Validate(); err != nil {
		return Report{}, err
	}
	report := Report{Host: m.Host, Total: len(m.Secrets) + len(m.Templates), Failed: []Failure{}}
	secrets := make([]*Secret, len(m.Secrets))
	for i := range m.Secrets {
		secrets[i] = &m.Secrets[i]
	}
	all := m.openAll(ctx, secrets)
	defer wipe(all)
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	for _, s := range secrets {
		if err := all[s.ID].err; err != nil {
			report.fail(Failure{ID: s.ID}, err)
		}
	}
	slots := m.slots()
	for i := range m.Templates {
		t := &m.Templates[i]
		r, err := t.prepare(slots)
		if err == nil {
			var plain secret.Plain
			plain, err = r.render(valueFrom(all))
			plain.Wipe()
		}
		if err != nil {
			report.fail(Failure{Template: t.Name}, err)
		}
	}
	report.sort()
	return report, nil
}
