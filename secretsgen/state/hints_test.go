package state

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"fleet/secretsgen/secret"
)

// TestACommandThatIsCopiedIsTheOneThatIsMeant: names of files come from whoever can send a merge request.
func TestACommandThatIsCopiedIsTheOneThatIsMeant(t *testing.T) {
	id := secret.ID{Scope: secret.Shared, Name: "x"}
	for _, name := range []string{"plain.json", "; echo pwned #", "$(echo pwned)", "`echo pwned`", "it's; echo pwned", "a b", "-rf", "\necho pwned"} {
		for _, err := range []error{errStray, errors.New("damaged")} {
			path := "fleet-state/default/secrets/shared/x/" + name
			hint := (&BrokenError{ID: id, Path: path, Err: err}).Hint()
			_, command, _ := strings.Cut(hint, "git ")
			command, _, _ = strings.Cut(command, ", or rm")
			command, _, _ = strings.Cut(command, ", where")
			out, runErr := exec.CommandContext(t.Context(), "sh", "-c", "git() { printf '%s\\n' \"$@\"; }; git "+command).CombinedOutput()
			words := string(out)
			if runErr != nil || strings.Contains("\n"+words, "\npwned") || errors.Is(err, errStray) && !strings.HasSuffix(words, path+"\n") {
				t.Errorf("%q: %q ran as %q, %v", name, command, words, runErr)
			}
		}
	}
}
