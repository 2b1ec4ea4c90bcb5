package install

import "fleet/secretsgen/secret"

// Report says what an installer could not install.
type Report struct {
	Failed []Failure `json:"failed"`
}

// Failure is one secret, or one template, that could not be installed.
type Failure struct {
	// ID is the secret's; zero for a template.
	ID secret.ID `json:"id,omitzero"`
	// Template is the template's name; empty for a secret.
	Template string `json:"template,omitempty"`
	Reason   string `json:"reason"`
}
