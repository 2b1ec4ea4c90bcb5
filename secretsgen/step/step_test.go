package step_test

import (
	"strings"
	"testing"

	"fleet/secretsgen/step"
)

func TestAGeneratorsValueComesOutSealed(t *testing.T) {
	o := newOwner(t)
	for name, sandbox := range map[string]string{"strict": step.SandboxStrict, "network": step.SandboxNetwork, "none": step.SandboxNone} {
		t.Run(name, func(t *testing.T) {
			req := request(t, o, `
				echo "made in $PWD by $(id -un) at $HOME"
				printf 'hunter2-and-more' | encrypt > $out/secret
				echo for everybody > $out/public
				echo 2031-02-03T04:05:06.789012345Z > $out/expires_at
			`)
			req.Sandbox = sandbox
			opt := options(t)
			var printed []string
			opt.Reporter = func(line string) { printed = append(printed, line) }
			result, err := step.Run(t.Context(), req, opt)
			if err != nil {
				t.Fatal(err)
			}
			if got := value(t, req, result, o, "secret"); got != "hunter2-and-more" {
				t.Errorf("the secret is %q", got)
			}
			if p := result.Parts["public"]; p.Encrypted || string(p.Public) != "for everybody\n" {
				t.Errorf("the public part is %+v", p)
			}
			if result.ExpiresAt == nil || result.ExpiresAt.Year() != 2031 {
				t.Errorf("expires at %v", result.ExpiresAt)
			}
			if text := strings.Join(printed, "\n"); !strings.HasPrefix(text, "made in /") {
				t.Errorf("printed %q", text)
			}
			t.Log(printed)
		})
	}
}
