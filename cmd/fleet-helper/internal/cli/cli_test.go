package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// tree is a small program: prog [--loud] {say [--twice] WORDS… | fail | group {leaf}}.
func tree(said *[]string, failure error) *Command {
	var loud bool
	return &Command{
		Name: "prog", Summary: "Test.", Help: "Text.",
		Flags: func(f *pflag.FlagSet) { f.BoolVar(&loud, "loud", false, "shout") },
		Sub: []*Command{
			{Name: "say", Args: "WORDS…", Summary: "Say.", Help: "Text.", New: func(f *pflag.FlagSet) RunFunc {
				twice := f.Bool("twice", false, "say it again")
				return func(_ context.Context, _ *Env, args []string) error {
					*said = append(*said, fmt.Sprint(loud, *twice, args))
					return nil
				}
			}},
			{Name: "fail", Summary: "Fail.", Help: "Text.", New: func(*pflag.FlagSet) RunFunc {
				return func(context.Context, *Env, []string) error { return failure }
			}},
			{Name: "group", Summary: "Group.", Help: "Text.", Hidden: true, Sub: []*Command{
				{Name: "leaf", Summary: "Leaf.", Help: "Text.", New: func(*pflag.FlagSet) RunFunc {
					return func(context.Context, *Env, []string) error { *said = append(*said, "leaf"); return nil }
				}},
			}},
		},
	}
}

func call(root *Command, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	env := &Env{Args: args, Stdout: &out, Stderr: &err}
	code = Main(context.Background(), env, root)
	return code, out.String(), err.String()
}

func TestFlagsBelongToTheCommandTheyStandBehind(t *testing.T) {
	for _, test := range []struct {
		args []string
		said string
		code int
	}{
		{[]string{"say", "a", "b"}, "false false [a b]", 0},
		{[]string{"--loud", "say", "a"}, "true false [a]", 0},
		{[]string{"say", "a", "--twice", "b"}, "false true [a b]", 0},
		{[]string{"say", "--", "--twice"}, "false false [--twice]", 0},
		{[]string{"group", "leaf"}, "leaf", 0},
		{[]string{"say", "--loud"}, "", 2},
		{[]string{"group"}, "", 2},
		{[]string{"group", "leaf", "more"}, "", 2},
		{nil, "", 2},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var said []string
			code, _, stderr := call(tree(&said, nil), test.args...)
			if code != test.code || strings.Join(said, "") != test.said {
				t.Errorf("code %d, said %q\n%s", code, said, stderr)
			}
		})
	}
}

func TestTwoRunsDoNotSeeEachOther(t *testing.T) {
	var said []string
	for range 2 {
		root := tree(&said, nil)
		call(root, "--loud", "say", "--twice")
	}
	call(tree(&said, nil), "say")
	if diff := cmp.Diff([]string{"true true []", "true true []", "false false []"}, said); diff != "" {
		t.Error(diff)
	}
}

type coded struct {
	code int
	hint string
}

func (e *coded) Error() string { return "it broke\x1b[31m" }
func (e *coded) ExitCode() int { return e.code }
func (e *coded) Hint() string  { return e.hint }

func TestAnErrorBecomesAMessageItsHintsAndACode(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		code   int
		stderr string
	}{
		"any error":                        {errors.New("boom"), 1, "prog: boom\n"},
		"with a hint":                      {WithHint(errors.New("boom"), "mend it"), 1, "prog: boom\n  hint: mend it\n"},
		"its own code":                     {fmt.Errorf("outside: %w", &coded{6, "wait"}), 6, "prog: outside: it broke\n  hint: wait\n"},
		"several hints":                    {errors.Join(WithHint(errors.New("a"), "x"), WithHint(errors.New("b"), "y"), WithHint(errors.New("c"), "x")), 1, "prog: a\nb\nc\n  hint: x\n  hint: y\n"},
		"all was said already":             {Status(3), 3, ""},
		"interrupted":                      {fmt.Errorf("read: %w", context.Canceled), 130, "prog: interrupted\n"},
		"usage":                            {Usagef("no %q", "x"), 2, "prog: no \"x\"\n  hint: run: prog fail --help\n"},
		"usage with the hint of its cause": {&UsageError{Err: WithHint(errors.New("bad"), "good")}, 2, "prog: bad\n  hint: good\n"},
		"success":                          {nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := call(tree(nil, test.err), "fail")
			if code != test.code || stdout != "" {
				t.Errorf("code %d, stdout %q", code, stdout)
			}
			if diff := cmp.Diff(test.stderr, stderr); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStatusOfSuccessIsNoError(t *testing.T) {
	if Status(0) != nil || WithHint(nil, "x") != nil {
		t.Error("success became an error")
	}
}

func TestHiddenCommandsRunButAreNotListed(t *testing.T) {
	_, help, _ := call(tree(nil, nil), "--help")
	if strings.Contains(help, "group") || strings.Contains(Reference(tree(nil, nil)), "leaf") {
		t.Errorf("the hidden group is listed:\n%s", help)
	}
	if !strings.Contains(help, "  say ") {
		t.Errorf("say is not listed:\n%s", help)
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"deploy", "status", "hosts"}
	for word, want := range map[string]string{"deplyo": "did you mean deploy?", "stat": "did you mean status?", "zzz": "", "": ""} {
		if got := DidYouMean(word, known, ""); got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
}

func FuzzDistance(f *testing.F) {
	f.Add("kitten", "sitting")
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a)+len(b) > 200 {
			return
		}
		if d := distance(a, b); d != distance(b, a) || d > max(len(a), len(b)) || (d == 0) != (a == b) {
			t.Errorf("distance(%q, %q) = %d", a, b, d)
		}
	})
}
