package plan_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
)

func fleet() *plan.Plan {
	p := &plan.Plan{Hosts: map[string]plan.Host{}}
	for name, tags := range map[string]string{
		"web-1": "web canary system/x86_64-linux",
		"web-2": "web system/x86_64-linux",
		"web-3": "web system/aarch64-linux",
		"db-1":  "db system/x86_64-linux",
		"db-2":  "db canary system/aarch64-linux",
	} {
		p.Hosts[name] = plan.Host{Tags: append(strings.Fields(tags), "all")}
	}
	return p
}

func TestSelect(t *testing.T) {
	const all = "db-1 db-2 web-1 web-2 web-3"
	for _, c := range []struct{ on, exclude, want string }{
		{"", "", all},
		{"web-1", "", "web-1"},
		{"web-1;db-1", "", "db-1 web-1"},
		{"web-*", "", "web-1 web-2 web-3"},
		{"*", "", all},
		{"web-?", "", "web-1 web-2 web-3"},
		{"web-[1-2]", "", "web-1 web-2"},
		{"web-[!1-2]", "", "web-3"},
		{"web-[^1]", "", "web-2 web-3"},
		{"[dw]*-1", "", "db-1 web-1"},
		{"@web", "", "web-1 web-2 web-3"},
		{"@system/*", "", all},
		{"@system/x86*", "", "db-1 web-1 web-2"},
		{"@*arch64*", "", "db-2 web-3"},
		{"@web & !@canary", "", "web-2 web-3"},
		{"@web&!@canary", "", "web-2 web-3"},
		{"web-1,db-1", "", "db-1 web-1"},
		{"web-1 | db-1", "", "db-1 web-1"},
		{"@canary | @web & @system/aarch64-linux", "", "db-2 web-1 web-3"},
		{"(@canary | @web) & @system/aarch64-linux", "", "db-2 web-3"},
		{"!@web", "", "db-1 db-2"},
		{"!(@web | db-1)", "", "db-2"},
		{"!!db-1", "", "db-1"},
		{"!web-1 & !web-2 & @web", "", "web-3"},
		{"\t( ( web-1 ) ) ", "", "web-1"},
		{"@web", "web-1", "web-2 web-3"},
		{"@web", "@canary;web-3", "web-2"},
		{"", "@web", "db-1 db-2"},
		{"@web", "@db", "web-1 web-2 web-3"},
		{"@web", "@db & @web", "web-1 web-2 web-3"},
		{"@web", "*", ""},
	} {
		t.Run(c.on+" without "+c.exclude, func(t *testing.T) {
			got, err := plan.Select(fleet(), split(c.on), split(c.exclude))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields(c.want), append([]string{}, got...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ";")
}

func TestSelectNamesWhatMatchesNothing(t *testing.T) {
	for _, c := range []struct{ on, exclude, want, hint string }{
		{"wbe-1", "", `"wbe-1" matches no host`, "did you mean web-1"},
		{"web-1 | wbe-2", "", `"wbe-2" in "web-1 | wbe-2"`, "did you mean web-2"},
		{"@wbe", "", `"@wbe" matches no host`, "did you mean @web?"},
		{"@web & !@cannary", "", `"@cannary" in`, "did you mean @canary"},
		{"canary", "", `"canary" matches no host`, "did you mean @canary"},
		{"@web-1", "", `"@web-1" matches no host`, "did you mean web-1"},
		{"mail-*", "", `"mail-*" matches no host`, "there are db-1, db-2, web-1"},
		{"@web & @db", "", `"@web & @db" matches no host, though its parts do`, ""},
		{"@web", "wbe-1", `"wbe-1" matches no host`, "did you mean web-1"},
		{"web-1;nothing", "", `"nothing" matches no host`, "there are"},
	} {
		t.Run(c.on+" without "+c.exclude, func(t *testing.T) {
			_, err := plan.Select(fleet(), split(c.on), split(c.exclude))
			var failed *plan.SelectError
			if !errors.As(err, &failed) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if !strings.Contains(failed.Hint(), c.hint) {
				t.Errorf("hint %q does not say %q", failed.Hint(), c.hint)
			}
		})
	}
}

func TestParseSelectorRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "at character 1: expected a host's name",
		"  ":                              "at character 3: expected a host's name",
		"a b":                             `expected , | or & before "b"`,
		"a &":                             "expected a host's name",
		"a | | b":                         `before "| b"`,
		"@":                               "expected a tag",
		"a@b":                             `expected , | or & before "@b"`,
		"(a":                              "expected )",
		"a)":                              `before ")"`,
		"!":                               "expected a host's name",
		"web-[1":                          "no closing bracket",
		"web-[]":                          "no closing bracket",
		"\xff":                            "not UTF-8",
		strings.Repeat("(", 99):           "nested",
		strings.Repeat("!", 99):           "nested",
		strings.Repeat("a,", 40000) + "a": "longer than",
	} {
		_, err := plan.ParseSelector(text)
		var syntax *plan.SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

func TestSelectFrom(t *testing.T) {
	got, err := plan.SelectFrom(strings.NewReader("web-1\r\n\n# a comment\n  @db & !db-1 \nlast"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"web-1", "@db & !db-1", "last"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, text := range map[string]string{"empty": "", "only comments": "# x\n", "endless": strings.Repeat("a\n", 1<<20)} {
		if _, err := plan.SelectFrom(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzSelector(f *testing.F) {
	for _, text := range []string{"@web & !(a-[1-3]|b*)", "[!]]", "[", "*****?", "((a))", "!@é"} {
		f.Add(text, "web-1")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		s, err := plan.ParseSelector(text)
		if err != nil {
			return
		}
		inverse, err := plan.ParseSelector("!(" + text + ")")
		if err != nil {
			if len(text) < 40 {
				t.Fatalf("%q parses, its inverse does not: %v", text, err)
			}
			return
		}
		tags := []string{name}
		if s.Match(name, tags) == inverse.Match(name, tags) {
			t.Errorf("%q and its inverse agree on %q", text, name)
		}
	})
}
