package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/push/deploy"
	"fleet/secretsgen/secret"
)

// ids parses ids for tests.
func ids(t *testing.T, texts ...string) []secret.ID {
	t.Helper()
	var list []secret.ID
	for _, text := range texts {
		id, err := secret.ParseID(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, id)
	}
	return list
}

func TestWordsNameSecrets(t *testing.T) {
	known := ids(t, "host/web-1/session", "shared/ca.pem", "host/web-2/session", "host/db-1/root", "shared/ca.key")
	for name, test := range map[string]struct {
		words []string
		every bool
		want  []string
	}{
		"no word means all, shared ones first": {nil, false, []string{"shared/ca.key", "shared/ca.pem", "host/db-1/root", "host/web-1/session", "host/web-2/session"}},
		"a name that is unique":                {[]string{"root"}, false, []string{"host/db-1/root"}},
		"an id":                                {[]string{"host/web-2/session"}, false, []string{"host/web-2/session"}},
		"a name of several, where all is fine": {[]string{"session"}, true, []string{"host/web-1/session", "host/web-2/session"}},
		"a pattern of names":                   {[]string{"ca.*"}, false, []string{"shared/ca.key", "shared/ca.pem"}},
		"a pattern of ids":                     {[]string{"host/web-*/*"}, false, []string{"host/web-1/session", "host/web-2/session"}},
		"a star is not a slash":                {[]string{"host/*/root"}, false, []string{"host/db-1/root"}},
		"twice is once":                        {[]string{"root", "host/db-1/root"}, false, []string{"host/db-1/root"}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := selectSecrets(known, test.words, test.every)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, id := range found {
				got = append(got, id.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWordsThatNameNoSecretSayWhatWasMeant(t *testing.T) {
	known := ids(t, "host/web-1/session", "host/web-2/session", "shared/ca.pem")
	for word, want := range map[string]struct{ text, hint string }{
		"sesion":             {`there is no secret "sesion"`, "did you mean session?"},
		"host/web-3/session": {`there is no secret "host/web-3/session"`, "did you mean host/web-1/session?"},
		"session":            {`2 secrets are called "session"`, "name one of: host/web-1/session, host/web-2/session"},
		"x*":                 {`no secret matches "x*"`, "fleet secrets status lists all secrets"},
		"[":                  {`it is no pattern`, "patterns have"},
		"../../etc/passwd":   {`there is no secret "../../etc/passwd"`, ""},
		"a\nb":               {`there is no secret "a\nb"`, ""},
		"":                   {`there is no secret ""`, ""},
		"größe":              {`there is no secret "größe"`, ""},
	} {
		t.Run(word, func(t *testing.T) {
			_, err := selectSecrets(known, []string{word}, false)
			if err == nil || !strings.Contains(err.Error(), want.text) || cli.ExitCode(err) != int(deploy.ExitUsage) {
				t.Fatalf("got %v", err)
			}
			if hints := cli.Hints(err); len(hints) == 0 || !strings.HasPrefix(hints[0], want.hint) {
				t.Errorf("got hints %q", hints)
			}
		})
	}
}

func TestAHostPicksBetweenSecretsOfOneName(t *testing.T) {
	known := ids(t, "host/web-1/session", "host/web-2/session", "shared/token")
	if id, err := oneSecret(known, "session", "web-2"); err != nil || id.String() != "host/web-2/session" {
		t.Errorf("got %v, %v", id, err)
	}
	if id, err := oneSecret(known, "token", "web-2"); err != nil || id.String() != "shared/token" {
		t.Errorf("got %v, %v", id, err)
	}
	if _, err := oneSecret(known, "session", "web-9"); err == nil {
		t.Error("a host without the secret picked one")
	}
	if _, err := oneSecret(known, "host/*/session", ""); err == nil || !strings.Contains(err.Error(), "no pattern") {
		t.Errorf("got %v", err)
	}
}
