package push

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testPrompt = "prompt-5f3a"
	testMarker = "marker-77c1"
)

// said is one piece of output: "o:" from stdout, "e:" from stderr.
type said string

func feed(e *elevation, pieces []said) (requests []elevationRequest) {
	for _, piece := range pieces {
		text := []byte(strings.NewReplacer("PROMPT", testPrompt, "MARKER", testMarker).Replace(string(piece[2:])))
		r := e.Stdout
		if piece[0] == 'e' {
			r = e.Stderr
		}
		if got := r(text); got != (elevationRequest{}) {
			requests = append(requests, got)
		}
	}
	return requests
}

func TestElevationAsksOnlyWhereItsOwnPromptAppears(t *testing.T) {
	password := elevationRequest{Password: true}
	for rule, c := range map[string]struct {
		kind string
		pty  bool
		said []said
		want []elevationRequest
	}{
		"sudo's marker on stderr":        {kind: "sudo", said: []said{"e:PROMPT"}, want: []elevationRequest{password}},
		"marker cut in two":              {kind: "sudo", said: []said{"e:prompt-", "e:5f3a"}, want: []elevationRequest{password}},
		"marker after a lecture":         {kind: "sudo", said: []said{"e:We trust you.\n\nPROMPT"}, want: []elevationRequest{password}},
		"marker on stdout is not sudo's": {kind: "sudo", said: []said{"o:PROMPT"}},
		"another prompt is not ours":     {kind: "sudo", said: []said{"e:Password: "}},
		"a marker of another attempt":    {kind: "sudo", said: []said{"e:prompt-5f3b"}},
		"marker in a finished line":      {kind: "sudo", said: []said{"e:PROMPT\n"}},
		"sudo with a terminal":           {kind: "sudo", pty: true, said: []said{"o:PROMPT"}, want: []elevationRequest{password}},
		"no prompt after the start":      {kind: "sudo", said: []said{"o:MARKER started=yes\n", "e:PROMPT"}},
		"none never asks":                {kind: "none", said: []said{"e:PROMPT"}},
		"doas":                           {kind: "doas", pty: true, said: []said{"o:\rdoas (ann@web) password: "}, want: []elevationRequest{password}},
		"run0": {kind: "run0", pty: true, said: []said{"o:==== AUTHENTICATING FOR x ====\r\nAuthenticating as: Ann Other,,, (ann)\r\nPassword: "},
			want: []elevationRequest{{Password: true, As: "ann"}}},
		"run0 wants an administrator's": {kind: "run0", pty: true, said: []said{"o:Authenticating as: root\r\nPassword: "},
			want: []elevationRequest{{Password: true, As: "root"}}},
		"run0 in colour":                    {kind: "run0", pty: true, said: []said{"o:\x1b[0;1;31mPassword: \x1b[0m"}, want: []elevationRequest{password}},
		"a line that ends is no prompt":     {kind: "doas", pty: true, said: []said{"o:Your password: \r\n"}},
		"a word in passing is no prompt":    {kind: "doas", pty: true, said: []said{"o:the password expires soon"}},
		"an endless line is no prompt":      {kind: "doas", pty: true, said: []said{said("o:" + strings.Repeat("x", 300) + " password: ")}},
		"doas' prompt on stderr, no answer": {kind: "doas", pty: true, said: []said{"o:doas: Operation not permitted\r\n"}},
		"run0 offers several identities": {kind: "run0", pty: true, said: []said{
			"o:Multiple identities can be used for authentication:\r\n 1.  root\r\n 2.  Ann Other (ann)\r\nChoose identity to authenticate as (1-2): ", "o:2\r\nPassword: "},
			want: []elevationRequest{{Answer: "2\n"}, password}},
		"run0 offers others only": {kind: "run0", pty: true, said: []said{"o: 1.  root\r\n 2.  bob\r\nChoose identity to authenticate as (1-2): "},
			want: []elevationRequest{{Answer: "1\n"}}},
	} {
		t.Run(rule, func(t *testing.T) {
			e := newElevation(c.kind, "ann", testPrompt, testMarker, c.pty)
			if diff := cmp.Diff(c.want, feed(e, c.said)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestElevationSendsAPasswordOnce(t *testing.T) {
	e := newElevation("sudo", "ann", testPrompt, testMarker, false)
	got := feed(e, []said{"e:PROMPT", "e:\nSorry, try again.\n", "e:PROMPT"})
	if len(got) != 2 || !got[0].Password || !errors.Is(got[1].Err, errPassword) {
		t.Errorf("requests: %+v", got)
	}
}

func TestElevationReadsTheScript(t *testing.T) {
	for rule, c := range map[string]struct {
		pty  bool
		said []said
	}{
		"plain":                {said: []said{"o:Welcome\nMARKER started=yes\nMARKER helper=/x\nMARKER rea", "o:dy={\"version\":1}\n"}},
		"with a terminal":      {pty: true, said: []said{"o:PROMPT", "o:\r\nMARKER started=yes\r\nMARKER helper=/x\r\nMARKER ready={\"version\":1}\r\n"}},
		"behind escape codes":  {pty: true, said: []said{"o:\x1b]0;run0\x07\x1b[44mMARKER started=yes\r\nMARKER helper=/x\r\nMARKER ready={\"version\":1}\x1b[0m\r\n"}},
		"after an open prompt": {pty: true, said: []said{"o:Password: ", "o:MARKER started=yes\r\nMARKER helper=/x\r\nMARKER ready={\"version\":1}\r\n"}},
	} {
		t.Run(rule, func(t *testing.T) {
			e := newElevation("run0", "ann", testPrompt, testMarker, c.pty)
			for _, r := range feed(e, c.said) {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			want := map[string]string{"started": "yes", "helper": "/x"}
			if diff := cmp.Diff(want, e.Values); diff != "" || !e.Started || e.Ready != `{"version":1}` {
				t.Errorf("ready %q, values %s", e.Ready, diff)
			}
		})
	}
}

func TestElevationRefusesAHostThatLies(t *testing.T) {
	for rule, line := range map[string]string{
		"unknown key":    "MARKER shell=/bin/sh\n",
		"no value":       "MARKER ready\n",
		"twice":          "MARKER helper=/a\nMARKER helper=/b\n",
		"after ready":    "MARKER ready={}\nMARKER helper=/b\n",
		"endless line":   strings.Repeat("x", maxPartial+1),
		"endless answer": "MARKER ready=" + strings.Repeat("x", maxPartial) + "\n",
	} {
		t.Run(rule, func(t *testing.T) {
			e := newElevation("sudo", "ann", testPrompt, testMarker, false)
			got := feed(e, []said{said("o:" + line)})
			if len(got) != 1 || got[0].Err == nil {
				t.Errorf("requests: %+v", got)
			}
		})
	}
}

func TestElevationKnowsWhyItFailed(t *testing.T) {
	for said1, want := range map[said]error{
		"e:ann is not in the sudoers file.\n":                                     errRefused,
		"e:Sorry, user ann is not allowed to execute '/bin/sh' as root on web.\n": errRefused,
		"e:sudo: sorry, you must have a tty to run sudo\n":                        errNeedTTY,
		"e:\nsudo: 1 incorrect password attempt\n":                                errPassword,
		"e:Sorry, try again.\n":                                                   errPassword,
		"o:doas: Authentication failed\r\n":                                       errPassword,
		"o:doas: Operation not permitted\r\n":                                     errRefused,
		"o:doas: a tty is required\r\n":                                           errNeedTTY,
		"o:==== AUTHENTICATION FAILED ====\r\n":                                   errPassword,
		"o:Failed to start transient service unit: Access denied\r\n":             errRefused,
		"e:": errRefused,
		"e:sudo: account validation failure, is your account locked?\n":              errRefused,
		"o:Failed to start transient service unit: Interactive authentication req\n": errRefused,
	} {
		e := newElevation("sudo", "ann", testPrompt, testMarker, said1[0] == 'o')
		feed(e, []said{said1})
		if err := e.Ended(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", said1, err, want)
		}
	}
}

func TestElevationKeepsNoEchoOfThePassword(t *testing.T) {
	e := newElevation("doas", "ann", testPrompt, testMarker, true)
	feed(e, []said{"o:doas (ann@web) password: ", "o:hunter2"})
	if out := e.Output(); strings.Contains(out, "hunter2") {
		t.Errorf("output %q", out)
	}
	feed(e, []said{"o:\r\ndoas: Authentication failed\r\n"})
	if err := e.Ended(); strings.Contains(err.Error(), "hunter2") || !errors.Is(err, errPassword) {
		t.Errorf("error %q", err)
	}
}

func FuzzElevation(f *testing.F) {
	f.Add([]byte(testPrompt), []byte(testMarker+" ready={}\n"), true)
	f.Fuzz(func(t *testing.T, first, second []byte, pty bool) {
		e := newElevation("run0", "ann", testPrompt, testMarker, pty)
		asked := 0
		for _, r := range []elevationRequest{e.Stdout(first), e.Stderr(second), e.Stdout(second), e.Stderr(first)} {
			if r.Password {
				asked++
			}
		}
		if asked > 1 || len(e.seen.data) > keptOutput || len(e.Output()) > maxShown+8 {
			t.Errorf("asked %d times, kept %d bytes", asked, len(e.seen.data))
		}
		_ = e.Ended()
	})
}
