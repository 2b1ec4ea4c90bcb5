package secretsgen_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator/plan"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

func plain(text string) secret.Plain { return secret.NewPlain([]byte(text)) }

// set sets a value that has to be taken.
func (r *rig) set(id secret.ID, values map[string]secret.Plain) secretsgen.Outcome {
	r.t.Helper()
	report, err := r.engine.Set(r.t.Context(), id, values)
	if err != nil {
		r.t.Fatal(err)
	}
	return outcome(r.t, report, id)
}

func TestAPersonGivesAValue(t *testing.T) {
	r := newRig(t, "a", "b")
	r.engine.Hosts = nil
	r.declare(shared("x"), spec(owners("a", "b"), manual), "")
	if got := outcome(t, r.sync(), shared("x")); got.NeedsHuman == "" || !strings.Contains(got.NeedsHuman, "fleet secrets set shared/x") {
		t.Errorf("got %s", show(got))
	}
	value := plain("hunter2-and-more")
	got := r.set(shared("x"), map[string]secret.Plain{"secret": value})
	if !got.Done || got.Action != secretsgen.ActionSet || r.read(shared("x"), "a") != "hunter2-and-more" || r.read(shared("x"), "b") != "hunter2-and-more" {
		t.Errorf("got %s", show(got))
	}
	if !bytes.Equal(value.Bytes(), make([]byte, value.Len())) {
		t.Error("the value was not wiped")
	}
	r.nowhere("hunter2-and-more", got)
	if entry := r.entry(shared("x")); entry.Meta.Origin != secret.Set || entry.Meta.Seq != 1 {
		t.Errorf("got %+v", entry.Meta)
	}
	r.set(shared("x"), map[string]secret.Plain{"secret": plain("another")})
	if entry := r.entry(shared("x")); entry.Meta.Seq != 2 || r.read(shared("x"), "b") != "another" {
		t.Errorf("got %+v", entry.Meta)
	}
	before := r.snapshot()
	r.open()
	r.synced()
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatCannotBeSetIsNotSet(t *testing.T) {
	for name, test := range map[string]struct {
		id     secret.ID
		values map[string]secret.Plain
		want   string
	}{
		"nothing":              {shared("x"), nil, "no value was given"},
		"an empty value":       {shared("x"), map[string]secret.Plain{"secret": plain("")}, "the value is empty"},
		"an undeclared part":   {shared("x"), map[string]secret.Plain{"secret": plain("v"), "other": plain("v")}, `no part "other"; it has secret`},
		"a part that is none":  {shared("x"), map[string]secret.Plain{"../x": plain("v")}, "no valid name|may have letters"},
		"a part less":          {shared("y"), map[string]secret.Plain{"secret": plain("v")}, "give its part public too"},
		"a public part lines":  {shared("y"), map[string]secret.Plain{"secret": plain("v"), "public": plain("a\nb\n")}, "lines"},
		"a value of 2 MB":      {shared("x"), map[string]secret.Plain{"secret": plain(strings.Repeat("x", 2<<20))}, "more than"},
		"a secret that is new": {shared("z"), map[string]secret.Plain{"secret": plain("v")}, "neither declared nor in the state"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "a")
			r.declare(shared("x"), spec(owners("a"), manual), "")
			r.declare(shared("y"), spec(owners("a"), manual, withPublic), "")
			report, err := r.engine.Set(t.Context(), test.id, test.values)
			said := ""
			if err != nil {
				said = err.Error()
			} else {
				got := outcome(t, report, test.id)
				said = got.Error + got.NeedsHuman
				if got.Done {
					t.Error("it was set")
				}
			}
			found := false
			for want := range strings.SplitSeq(test.want, "|") {
				found = found || strings.Contains(said, want)
			}
			if !found || r.has(test.id) {
				t.Errorf("got %q", said)
			}
		})
	}
}

func TestPartsThatAreNotGivenStay(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(shared("x"), spec(owners("a", "b"), manual, withPublic, func(s *plan.Secret) { s.Parts["extra"] = plan.SecretPart{Encrypted: true} }), "")
	r.set(shared("x"), map[string]secret.Plain{"secret": plain("one"), "extra": plain("kept"), "public": plain("pub")})
	r.hosts["a"].down = true
	if got := r.set(shared("x"), map[string]secret.Plain{"secret": plain("two")}); !got.Done {
		t.Fatalf("got %s", show(got))
	}
	for part, want := range map[string]string{"secret": "two", "extra": "kept", "public": "pub"} {
		got, err := r.engine.Get(t.Context(), shared("x"), part)
		if err != nil || string(got.Bytes()) != want {
			t.Errorf("%s: %q, %v", part, got.Bytes(), err)
		}
	}
	r.hosts["b"].down = true
	before := r.snapshot()
	if got := r.set(shared("x"), map[string]secret.Plain{"secret": plain("three")}); got.Done || !strings.Contains(got.Error, "a: ") || !strings.Contains(got.Error, "b: ") {
		t.Errorf("got %s", show(got))
	}
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error(diff)
	}
	if got, err := r.engine.Get(t.Context(), shared("x"), "public"); err != nil || string(got.Bytes()) != "pub" {
		t.Errorf("a public part needs no host: %v", err)
	}
	if _, err := r.engine.Get(t.Context(), shared("x"), "nope"); err == nil || !strings.Contains(err.Error(), "it has extra, public, secret") {
		t.Errorf("got %v", err)
	}
	if _, err := r.engine.Get(t.Context(), shared("nope"), "secret"); err == nil {
		t.Error("what is not there was read")
	}
}

func TestEditOpensAndSets(t *testing.T) {
	r := newRig(t, "a")
	r.declare(shared("x"), spec(owners("a"), manual), "")
	edit := func(text string) func(context.Context, secret.Plain) (secret.Plain, error) {
		return func(_ context.Context, old secret.Plain) (secret.Plain, error) {
			return plain(string(old.Bytes()) + text), nil
		}
	}
	for _, text := range []string{"first", " second"} {
		report, err := r.engine.Edit(t.Context(), shared("x"), "secret", edit(text))
		if err != nil || !outcome(t, report, shared("x")).Done {
			t.Fatal(show(report), err)
		}
	}
	if got := r.read(shared("x"), "a"); got != "first second" {
		t.Errorf("got %q", got)
	}
	before := r.snapshot()
	if report, err := r.engine.Edit(t.Context(), shared("x"), "secret", edit("")); err != nil || len(report.Changed()) != 0 {
		t.Errorf("unchanged: %s, %v", show(report), err)
	}
	if _, err := r.engine.Edit(t.Context(), shared("x"), "secret", func(context.Context, secret.Plain) (secret.Plain, error) {
		return secret.Plain{}, errors.New("the editor ended with status 1")
	}); err == nil || !strings.Contains(err.Error(), "status 1") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error(diff)
	}
	_, err := r.engine.Edit(t.Context(), shared("x"), "secret", func(ctx context.Context, _ secret.Plain) (secret.Plain, error) {
		r.set(shared("x"), map[string]secret.Plain{"secret": plain("of another")})
		return plain("mine"), nil
	})
	var changed *secretsgen.ChangedError
	if !errors.As(err, &changed) || r.read(shared("x"), "a") != "of another" {
		t.Errorf("got %v", err)
	}
}

func TestAcceptKeepsTheValueOfAChangedDeclaration(t *testing.T) {
	r := newRig(t, "a")
	r.declare(shared("dep"), spec(owners("a")), only)
	r.declare(shared("x"), spec(owners("a"), data(`1`), from("d", "shared/dep")), only)
	r.synced()
	gen := r.entry(shared("x")).Meta.Gen
	seed := "new"
	r.declare(shared("x"), spec(owners("a"), data(`2`), from("d", "shared/dep"), func(s *plan.Secret) { s.Generator.Seed = &seed }), only)
	if _, err := r.engine.Regenerate(t.Context(), []secret.ID{}); err != nil {
		t.Fatal(err)
	}
	report, err := r.engine.Accept(t.Context(), []secret.ID{shared("x")})
	if err != nil || !outcome(t, report, shared("x")).Done {
		t.Fatal(show(report), err)
	}
	if meta := r.entry(shared("x")).Meta; meta.Gen != gen || string(meta.GenerationData) != "2" || meta.Seed != "new" || meta.Deps["shared/dep"] == "" {
		t.Errorf("got %+v", meta)
	}
	before := r.snapshot()
	r.open()
	if report, err := r.engine.Accept(t.Context(), []secret.ID{shared("x")}); err != nil || len(report.Changed()) != 0 {
		t.Errorf("again: %s, %v", show(report), err)
	}
	r.synced()
	if diff := cmp.Diff(before, r.snapshot()); diff != "" {
		t.Error(diff)
	}
}

// person answers what it is asked.
type person struct {
	answer string
	asked  []secretsgen.Question
}

func (p *person) Ask(_ context.Context, q secretsgen.Question) (secret.Plain, error) {
	p.asked = append(p.asked, q)
	return plain(p.answer), nil
}

func asked(fromWhere, variable string) func(*plan.Secret) {
	return func(s *plan.Secret) {
		s.Generator.Kind, s.Generator.Ask = "ask", &plan.Ask{From: fromWhere, Prompt: "the token", Variable: variable}
	}
}

func TestAValueThatIsAsked(t *testing.T) {
	r := newRig(t, "a", "b")
	r.engine.Programs = nil
	r.declare(shared("x"), spec(owners("a", "b"), asked("terminal", "")), "")
	if got := outcome(t, r.sync(), shared("x")); got.Done || !strings.Contains(got.NeedsHuman, "no terminal") || got.Hint == "" {
		t.Errorf("got %s", show(got))
	}
	p := &person{answer: "typed-by-a-person"}
	r.engine.Person = p
	r.synced()
	if r.read(shared("x"), "b") != "typed-by-a-person" || len(p.asked) != 1 || p.asked[0].Ask.Prompt != "the token" || p.asked[0].Part != "secret" {
		t.Errorf("asked %+v", p.asked)
	}
	r.nowhere("typed-by-a-person")
	r.synced()
	if len(p.asked) != 1 {
		t.Error("asked again")
	}
}

func TestAValueFromTheEnvironmentLeavesItBeforeAChildIsStarted(t *testing.T) {
	r := newRig(t, "a")
	t.Setenv("FLEET_TEST_TOKEN", "from-the-environment")
	r.engine.Variable = func(name string) (secret.Plain, bool) {
		value, ok := os.LookupEnv(name)
		_ = os.Unsetenv(name)
		return plain(value), ok
	}
	r.declare(shared("x"), spec(owners("a"), asked("env", "FLEET_TEST_TOKEN")), "")
	r.declare(shared("y"), spec(owners("a"), asked("env", "FLEET_TEST_ABSENT")), "")
	r.declare(own("a", "z"), spec(func(s *plan.Secret) { s.Generator.Sandbox = "none" }), `env | grep FLEET_TEST && exit 1; echo ok | encrypt > $out/secret`)
	report := r.sync()
	if !outcome(t, report, shared("x")).Done || !outcome(t, report, own("a", "z")).Done || r.read(shared("x"), "a") != "from-the-environment" {
		t.Errorf("got %s", show(report))
	}
	if got := outcome(t, report, shared("y")); got.Done || !strings.Contains(got.NeedsHuman, "FLEET_TEST_ABSENT, which is not set") {
		t.Errorf("got %s", show(got))
	}
	if _, there := os.LookupEnv("FLEET_TEST_TOKEN"); there {
		t.Error("the variable is still there")
	}
	r.nowhere("from-the-environment", report)
}

func TestRekeyDoesNothingElse(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.declare(shared("x"), spec(owners("a", "b")), only)
	r.declare(shared("y"), spec(owners("a")), only)
	r.synced()
	r.reinstall("b")
	r.accept("b")
	r.declare(shared("x"), spec(owners("a", "b", "c")), only)
	r.declare(shared("y"), spec(owners("a"), data("1")), only)
	r.declare(own("c", "z"), spec(), only)
	gen := r.entry(shared("y")).Meta.Gen
	report, err := r.engine.Rekey(t.Context(), secretsgen.Selection{})
	if err != nil || !slices.Equal(report.Changed(), []secret.ID{shared("x")}) || r.ownersOf(shared("x")) != "a b" || r.entry(shared("y")).Meta.Gen != gen || r.has(own("c", "z")) {
		t.Errorf("got %s, %v", show(report), err)
	}
	if r.read(shared("x"), "b") != r.read(shared("x"), "a") {
		t.Error("b cannot read it")
	}
}

func TestAConflictIsResolvedWithOneSide(t *testing.T) {
	r := newRig(t, "a")
	r.declare(shared("x"), spec(owners("a")), only)
	r.git("commit", "-q", "--allow-empty", "-m", "base")
	r.synced()
	r.git("add", ".")
	r.git("commit", "-q", "-m", "first")
	r.git("checkout", "-q", "-b", "other")
	regenerate := func() string {
		if _, err := r.engine.Regenerate(t.Context(), []secret.ID{shared("x")}); err != nil {
			t.Fatal(err)
		}
		r.git("add", ".")
		r.git("commit", "-q", "-m", "again")
		return r.read(shared("x"), "a")
	}
	theirs := regenerate()
	r.git("checkout", "-q", "-")
	regenerate()
	r.tryGit("merge", "-q", "other")
	r.open()
	if got := outcome(t, r.sync(), shared("x")); got.Done || !strings.Contains(got.NeedsHuman, "fleet secrets resolve") {
		t.Errorf("got %s", show(got))
	}
	ids, err := r.engine.Resolve(t.Context(), nil, state.Theirs)
	if err != nil || !slices.Equal(ids, []secret.ID{shared("x")}) || r.read(shared("x"), "a") != theirs {
		t.Errorf("resolved %v, %v", ids, err)
	}
	r.open()
	if report := r.synced(); len(report.Changed()) != 0 {
		t.Errorf("got %s", show(report))
	}
}

func TestAValueThatAnOwnerMadeUpIsNotShown(t *testing.T) {
	r := newRig(t, "a", "b")
	r.declare(shared("x"), spec(owners("a", "b"), manual, func(s *plan.Secret) { s.Parts["extra"] = plan.SecretPart{Encrypted: true} }), "")
	r.set(shared("x"), map[string]secret.Plain{"secret": plain("true"), "extra": plain("kept")})
	r.hosts["a"].lie = func(answer any) { answer.(*seal.Opened).Value = plain("made up") }
	if got, err := r.engine.Get(t.Context(), shared("x"), "secret"); err != nil || string(got.Bytes()) != "true" {
		t.Errorf("got %q, %v", got.Bytes(), err)
	}
	r.set(shared("x"), map[string]secret.Plain{"secret": plain("new")})
	if got, err := r.engine.Get(t.Context(), shared("x"), "extra"); err != nil || string(got.Bytes()) != "kept" {
		t.Errorf("got %q, %v", got.Bytes(), err)
	}
	r.hosts["b"].down = true
	var lie *secretsgen.LieError
	if got, err := r.engine.Get(t.Context(), shared("x"), "secret"); !errors.As(err, &lie) {
		t.Errorf("got %q, %v", got.Bytes(), err)
	}
}

func TestAFreshMachineThatHasNothingToDoIsNotAskedAboutKeys(t *testing.T) {
	r := newRig(t, "a")
	r.declare(own("a", "x"), spec(), only)
	r.synced()
	if err := r.trust.Store.Forget("a"); err != nil {
		t.Fatal(err)
	}
	r.open()
	status, err := r.engine.Status(t.Context(), secretsgen.Selection{})
	if err != nil || !status.Clean() {
		t.Errorf("got %s, %v", show(status), err)
	}
	r.synced()
}
