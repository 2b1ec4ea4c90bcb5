package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/push/deploy"
	"fleet/secretsgen"
	"fleet/secretsgen/state"
)

func TestAStatusIsATableAndThenWhatToDo(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	soon, later, past := now.Add(30*time.Hour), now.Add(90*24*time.Hour), now.Add(-24*time.Hour)
	list := ids(t, "shared/ca", "shared/token", "host/a/db", "host/a/old", "host/b/key", "host/b/pin", "host/b/cert", "host/b/bad")
	status := &secretsgen.Status{Fleet: "default",
		Secrets: []secretsgen.SecretStatus{
			{ID: list[0], Action: secretsgen.ActionNone, Rules: []int{12}, Declared: []string{"a", "b", "c", "d"}, ExpiresAt: &later},
			{ID: list[1], Action: secretsgen.ActionNone, Rules: []int{1}, Declared: []string{"a", "b"}, NeedsHuman: "shared/token has no value, and no generator makes one: fleet secrets set shared/token", Hint: "fleet secrets set shared/token"},
			{ID: list[2], Action: secretsgen.ActionRegenerate, Rules: []int{2, 7}, Why: "new value: it has expired", Declared: []string{"a"}, ExpiresAt: &past},
			{ID: list[3], Action: secretsgen.ActionNone, Rules: []int{11}, Why: "nothing declares it any more", Owners: []string{"a"}, Notices: []string{"the state has it"}},
			{ID: list[4], Action: secretsgen.ActionNone, Rules: []int{10}, Declared: []string{"b"}, Notices: []string{"the script changed: fleet secrets accept host/b/key keeps it"}},
			{ID: list[5], Action: secretsgen.ActionNone, Rules: []int{1}, Declared: []string{"b"}, Pending: []string{"b"}},
			{ID: list[6], Action: secretsgen.ActionNone, Rules: []int{12}, Declared: []string{"b"}, ExpiresAt: &soon},
			{ID: list[7], Action: secretsgen.ActionNone, Rules: []int{1}, Declared: []string{"b"}, Broken: "read secret: merge\nmarkers", Hint: "fleet secrets resolve --ours host/b/bad"},
		},
		Hosts: []secretsgen.HostProblem{
			{Host: "b", Kind: secretsgen.KindKeyless, Message: "no key"}, {Host: "c", Kind: secretsgen.KindKeyless, Message: "no key"},
			{Host: "d", Kind: secretsgen.KindUnaccepted, Message: "nobody has accepted\x1b[31m its key", Hint: "fleet secrets host-key accept d SHA256:x"},
		},
	}
	const want = `SECRET       OWNERS         STATE       RULE  WHY
shared/ca    a b and 2 more  ok          -     expires 2027-01-30, in 90 days
shared/token  a b            needs you   1     it has no value, and no generator makes one: nix run .#secrets -- set shared/token
host/a/db    a              regenerate  2 7   new value: it has expired
host/a/old   a              undeclared  11    nothing declares it any more
host/b/key   b              ok          10    -
host/b/pin   b              pending     1     waits for the keys of b
host/b/cert  b              ok          -     expires 2026-11-02 18:00 UTC
host/b/bad   b              broken      1     read secret: merge

host/b/key: the script changed: nix run .#secrets -- accept host/b/key keeps it

d: nobody has accepted its key
  hint: nix run .#secrets -- host-key accept d SHA256:x

no key is pinned for b, c: their secrets wait

to do:
  nix run .#secrets -- host-key scan b c
  nix run .#secrets -- sync
  nix run .#secrets -- set shared/token
  nix run .#secrets -- resolve --ours host/b/bad
  nix run .#secrets -- prune
`
	var b strings.Builder
	if err := writeSecretsStatus(&b, &globals{fleet: "default", appSource: "/nix/store/x"}, status, now); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(squeeze(want), squeeze(b.String())); diff != "" {
		t.Error(diff)
	}
	if code := statusExit(status); code != deploy.ExitSecrets {
		t.Errorf("exit code %d", code)
	}
}

// squeeze makes the columns' spaces one each: their width is the table's own business.
func squeeze(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		lines[i] = line[:indent] + strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(lines, "\n")
}

func TestAReportSaysWhatWasDoneAndWhatWasNot(t *testing.T) {
	list := ids(t, "shared/ca", "shared/token", "host/a/db", "host/a/key", "host/b/old")
	report := &secretsgen.Report{Unchanged: 7, Secrets: []secretsgen.Outcome{
		{ID: list[0], Action: secretsgen.ActionGenerate, Done: true, Via: "hsm", Why: "new value: it has no value yet", Rules: []int{1}},
		{ID: list[1], Action: secretsgen.ActionWrap, Done: true, Via: "a", Wrapped: []string{"b"}, Why: "new copy for b", Rules: []int{7}},
		{ID: list[2], Action: secretsgen.ActionRegenerate, Error: "the generator failed\nits last words", Hint: "look at it", Rules: []int{2}},
		{ID: list[3], Action: secretsgen.ActionNone, NeedsHuman: "its value is asked from a person", Hint: "fleet secrets set host/a/key", Rules: []int{1}},
		{ID: list[4], Action: secretsgen.ActionNone, Why: "nothing declares it", Notices: []string{"x"}, Rules: []int{11}},
	}}
	const want = `SECRET RESULT BY WHY
shared/ca generated hsm new value: it has no value yet
shared/token encrypted for b a new copy for b
host/a/db failed - see below
host/a/key needs you - its value is asked from a person
host/b/old undeclared - nothing declares it

host/a/db: the generator failed
its last words
  hint: look at it

2 changed, 1 failed, 1 waiting for you, 7 unchanged

to do:
  fleet secrets set host/a/key
  fleet secrets prune
`
	var b strings.Builder
	if err := writeSecretsReport(&b, &globals{fleet: "default"}, report); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, squeeze(b.String())); diff != "" {
		t.Error(diff)
	}
}

func TestExitCodesOfSecrets(t *testing.T) {
	problem := func(kind string) []secretsgen.HostProblem {
		return []secretsgen.HostProblem{{Host: "a", Kind: kind}}
	}
	id := ids(t, "shared/a")[0]
	for name, test := range map[string]struct {
		status *secretsgen.Status
		want   deploy.ExitCode
	}{
		"nothing":                {&secretsgen.Status{}, deploy.ExitOK},
		"a notice":               {&secretsgen.Status{Secrets: []secretsgen.SecretStatus{{ID: id, Action: secretsgen.ActionNone, Notices: []string{"x"}}}}, deploy.ExitOK},
		"a keyless host":         {&secretsgen.Status{Hosts: problem(secretsgen.KindKeyless)}, deploy.ExitOK},
		"an unaccepted key":      {&secretsgen.Status{Hosts: problem(secretsgen.KindUnaccepted)}, deploy.ExitSecrets},
		"a cloned key":           {&secretsgen.Status{Hosts: problem(secretsgen.KindSharedKey)}, deploy.ExitSecrets},
		"a host that fails":      {&secretsgen.Status{Hosts: problem(secretsgen.KindSpecs)}, deploy.ExitHostsFailed},
		"something to be done":   {&secretsgen.Status{Secrets: []secretsgen.SecretStatus{{ID: id, Action: secretsgen.ActionWrap}}}, deploy.ExitSecrets},
		"something for a person": {&secretsgen.Status{Secrets: []secretsgen.SecretStatus{{ID: id, Action: secretsgen.ActionNone, NeedsHuman: "x"}}, Hosts: problem(secretsgen.KindSpecs)}, deploy.ExitSecrets},
	} {
		if got := statusExit(test.status); got != test.want {
			t.Errorf("status with %s: %d, want %d", name, got, test.want)
		}
		report := &secretsgen.Report{Hosts: test.status.Hosts}
		for _, s := range test.status.Secrets {
			report.Secrets = append(report.Secrets, secretsgen.Outcome{ID: s.ID, Action: s.Action, NeedsHuman: s.NeedsHuman, Done: true})
		}
		want := test.want
		if name == "something to be done" {
			want = deploy.ExitOK // a report has done it
		}
		if got := reportExit(report); got != want {
			t.Errorf("report with %s: %d, want %d", name, got, want)
		}
	}
	if code := verifyExit(&secretsgen.Verification{Wrong: []secretsgen.WrongPart{{}}, Unreachable: problem("")}); code != deploy.ExitSecrets {
		t.Errorf("wrong parts: %d", code)
	}
	if code := verifyExit(&secretsgen.Verification{Unreachable: problem("")}); code != deploy.ExitHostsFailed {
		t.Errorf("unreachable hosts: %d", code)
	}
}

func TestHintsAreSpelledAsThePersonTypesThem(t *testing.T) {
	for want, g := range map[string]globals{
		"run: fleet secrets sync":                 {fleet: "default"},
		"run: fleet --fleet staging secrets sync": {fleet: "staging"},
		"run: nix run .#secrets -- sync":          {fleet: "default", appSource: "/nix/store/x"},
		"run: nix run .#secrets-staging -- sync":  {fleet: "staging", appSource: "/nix/store/x"},
	} {
		if got := g.spell("run: fleet secrets sync"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestChangesInWords(t *testing.T) {
	at := time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)
	for want, change := range map[string]state.Change{
		"made; for a, b; expires 2027-01-02":           {Gen: "1", OwnersAdded: []string{"a", "b"}, ExpiresAt: &at},
		"removed":                                      {OldGen: "1", Removed: true, OwnersRemoved: []string{"a"}},
		"new value; does not expire any more":          {OldGen: "1", Gen: "2", OldExpiresAt: &at},
		"for c; no longer for a; encrypted anew for b": {OldGen: "1", Gen: "1", OwnersAdded: []string{"c"}, OwnersRemoved: []string{"a"}, OwnersRewrapped: []string{"b"}, OldExpiresAt: &at, ExpiresAt: &at},
		"metadata": {OldGen: "1", Gen: "1"},
	} {
		if got := changeText(change); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAValueForATerminalIsText(t *testing.T) {
	for value, want := range map[string]bool{
		"a password": true, "two\nlines\twith a tab\n": true, "größe": true, "": true,
		"\x1b[31mred": false, "a\x00b": false, "\xff\xfe": false, "a\rb": false, "\u009b31m": false,
	} {
		if got := isText([]byte(value)); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}
