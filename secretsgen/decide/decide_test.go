package decide_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/decide"
	"fleet/secretsgen/secret"
)

func TestRow1NoValueIsMadeOrAskedFor(t *testing.T) {
	in := shared("a", "b")
	in.Entry = nil
	check(t, in, want{rules: rules(decide.RuleMissing), regenerate: true, wrap: []string{"a", "b"}, why: "new value: it has no value yet"})
	in = manual(shared("a"))
	in.Entry = nil
	check(t, in, want{rules: rules(decide.RuleMissing), human: "fleet secrets set shared/db"})
}

func TestRow1PartsAreAsDeclared(t *testing.T) {
	for name, c := range map[string]struct {
		change func(parts map[string]plan.SecretPart)
		why    string
	}{
		"missing":   {func(p map[string]plan.SecretPart) { p["cert"] = plan.SecretPart{Type: plan.TypeX509} }, `its part "cert" is missing`},
		"encrypted": {func(p map[string]plan.SecretPart) { p["public"] = plan.SecretPart{Encrypted: true} }, `"public" is public, and is declared as encrypted`},
		"public":    {func(p map[string]plan.SecretPart) { p["secret"] = plan.SecretPart{Type: plan.TypeText} }, `"secret" is encrypted, and is declared as public`},
	} {
		t.Run(name, func(t *testing.T) {
			in := shared("a", "b")
			c.change(in.Spec.Parts)
			check(t, in, want{rules: rules(decide.RuleMissing), regenerate: true, wrap: []string{"a", "b"}, why: c.why})
			in = manual(shared("a", "b"))
			c.change(in.Spec.Parts)
			check(t, in, want{rules: rules(decide.RuleMissing), human: "fleet secrets set shared/db", why: c.why})
		})
	}
	t.Run("a part less", func(t *testing.T) {
		in := shared("a")
		delete(in.Spec.Parts, "public")
		check(t, in, want{rules: rules(decide.RuleUnchanged), notice: `"public" that is not declared any more`})
	})
	t.Run("no declared parts", func(t *testing.T) {
		in := shared("a")
		in.Spec.Parts = nil
		check(t, in, want{rules: rules(decide.RuleUnchanged), why: "up to date"})
	})
}

func TestRow2ExpiredValuesAreRenewed(t *testing.T) {
	at := now()
	in := shared("a", "b")
	in.Entry.Meta.ExpiresAt = &at
	check(t, in, want{rules: rules(decide.RuleExpired), regenerate: true, wrap: []string{"a", "b"}, why: "it expired on 2026-11-01 12:00:00 UTC"})
	in.Now = at.Add(-time.Nanosecond)
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
	in.Now = time.Time{}
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
	in = manual(shared("a"))
	in.Entry.Meta.ExpiresAt = &at
	check(t, in, want{rules: rules(decide.RuleExpired), human: "fleet secrets set shared/db"})
}

func TestRow4OtherArgumentsMakeANewValue(t *testing.T) {
	in := shared("a")
	in.Spec.Generator.Data = json.RawMessage(`{"size": 64, "symbols": false}`)
	check(t, in, want{rules: rules(decide.RuleData), regenerate: true, wrap: []string{"a"}, why: "other arguments (size, symbols)"})
	in.Spec.Generator.Data = json.RawMessage("{\n \"size\": 32 }")
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
}

func TestRow4NullIsNoData(t *testing.T) {
	for _, data := range []string{"", "null", " null\n"} {
		in := shared("a")
		in.Entry.Meta.GenerationData = nil
		in.Spec.Generator.Data = json.RawMessage(data)
		check(t, in, want{rules: rules(decide.RuleUnchanged)})
		in = shared("a")
		in.Spec.Generator.Data = json.RawMessage(data)
		check(t, in, want{rules: rules(decide.RuleData), regenerate: true, wrap: []string{"a"}})
	}
}

func TestRow4AGeneratorThatIsGoneLeavesTheValueToAPerson(t *testing.T) {
	in := shared("a")
	in.Spec.Generator = nil
	check(t, in, want{rules: rules(decide.RuleData), human: "its generator is gone: fleet secrets accept shared/db"})
}

func TestAValueThatAPersonSetIsNotReplacedForItsGeneratorsArguments(t *testing.T) {
	in := shared("a")
	in.Entry.Meta.Origin = secret.Set
	in.Spec.Generator.Data = json.RawMessage(`{"size":64}`)
	in.Spec.Generator.Dependencies = map[string]string{"ca": "shared/ca"}
	check(t, in, want{rules: rules(decide.RuleUnchanged), notice: "was set by a person and stays"})
	in.Entry.Meta.ExpiresAt = new(time.Time)
	check(t, in, want{rules: rules(decide.RuleExpired), regenerate: true, wrap: []string{"a"}, waits: []string{"shared/ca"}})
}

func TestRow5ANewValueOfADependencyMakesANewValue(t *testing.T) {
	in := shared("a")
	in.Spec.Generator.Dependencies = map[string]string{"ca": "shared/ca", "again": "shared/ca"}
	in.Entry.Meta.Deps = map[string]secret.Gen{"shared/ca": genA}
	in.Deps["shared/ca"] = genA
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
	in.Deps["shared/ca"] = genB
	check(t, in, want{rules: rules(decide.RuleDependency), regenerate: true, wrap: []string{"a"}, why: "shared/ca, which it was made from, has another value"})
	in.Spec.OnDependencyChange = "keep"
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
}

func TestRow5ADependencyMoreOrWithoutAValue(t *testing.T) {
	in := shared("a")
	in.Spec.Generator.Dependencies = map[string]string{"ca": "shared/ca"}
	in.Deps["shared/ca"] = genA
	check(t, in, want{rules: rules(decide.RuleDependency), regenerate: true, wrap: []string{"a"}, why: "made from shared/ca now"})
	delete(in.Deps, "shared/ca")
	check(t, in, want{rules: rules(decide.RuleDependency), regenerate: true, wrap: []string{"a"}, waits: []string{"shared/ca"}, why: "has no value"})
	in.Entry = nil
	check(t, in, want{rules: rules(decide.RuleMissing), regenerate: true, wrap: []string{"a"}, waits: []string{"shared/ca"}})
}

func TestRow6OwnersMayAskForANewValue(t *testing.T) {
	in := shared("a", "b")
	delete(in.Entry.Owners, "b")
	in.Spec.RegenerateOnOwnerAdded = true
	check(t, in, want{rules: rules(decide.RuleOwners), regenerate: true, wrap: []string{"a", "b"}, why: "owners were added (b)"})

	in = shared("a")
	in.Entry.Owners["gone"] = copyFor("gone")
	in.Spec.RegenerateOnOwnerRemoved = true
	check(t, in, want{rules: rules(decide.RuleOwners), regenerate: true, wrap: []string{"a"}, why: "owners were removed (gone)"})
}

func TestRow6AddedAndRemovedAreLookedAtEachForItself(t *testing.T) {
	base := func() decide.Input {
		in := shared("a", "b")
		delete(in.Entry.Owners, "b")
		in.Entry.Owners["gone"] = copyFor("gone")
		return in
	}
	for _, c := range []struct{ added, removed, regenerate bool }{{true, false, true}, {false, true, true}, {true, true, true}, {false, false, false}} {
		in := base()
		in.Spec.RegenerateOnOwnerAdded, in.Spec.RegenerateOnOwnerRemoved = c.added, c.removed
		if c.regenerate {
			check(t, in, want{rules: rules(decide.RuleOwners), regenerate: true, wrap: []string{"a", "b"}, why: "new value: owners were"})
		} else {
			check(t, in, want{rules: rules(decide.RuleAdded, decide.RuleRemoved), wrap: []string{"b"}, sources: []string{"a"}, remove: []string{"gone"}, notice: "gone knows the value"})
		}
	}
}

func TestRow6AKeylessOwnerIsNotAddedAgainAndAgain(t *testing.T) {
	in := shared("a", "b")
	delete(in.Entry.Owners, "b")
	in.Hosts["b"] = decide.Host{}
	in.Spec.RegenerateOnOwnerAdded = true
	check(t, in, want{rules: rules(decide.RuleUnchanged), pending: []string{"b"}, why: "waits for a host key of b"})
}

func TestRow6AManualValueStaysWithItsOwnersUntilItIsGivenAnew(t *testing.T) {
	in := manual(shared("a", "b"))
	delete(in.Entry.Owners, "b")
	in.Entry.Owners["gone"] = copyFor("gone")
	in.Spec.RegenerateOnOwnerAdded, in.Spec.RegenerateOnOwnerRemoved = true, true
	check(t, in, want{rules: rules(decide.RuleOwners), human: "fleet secrets set shared/db"})
	in.Spec.RegenerateOnOwnerAdded = false
	check(t, in, want{rules: rules(decide.RuleOwners, decide.RuleAdded), wrap: []string{"b"}, sources: []string{"a", "gone"}[:1], human: "fleet secrets set shared/db"})
}

func TestRow7NewOwnersGetACopyFromAnOwner(t *testing.T) {
	in := shared("a", "b", "c", "d")
	delete(in.Entry.Owners, "b")
	delete(in.Entry.Owners, "d")
	check(t, in, want{rules: rules(decide.RuleAdded), wrap: []string{"b", "d"}, sources: []string{"a", "c"}, why: "new copy for b, d: a new owner"})
	check(t, manual(in), want{rules: rules(decide.RuleAdded), wrap: []string{"b", "d"}, sources: []string{"a", "c"}})
}

func TestRow7AFormerOwnerOfTheFleetCanStillMakeTheCopy(t *testing.T) {
	in := shared("b")
	in.Entry.Owners = map[string]secret.Owner{"old": copyFor("old")}
	in.Hosts["old"] = decide.Host{Key: key("old")}
	check(t, in, want{rules: rules(decide.RuleAdded, decide.RuleRemoved), wrap: []string{"b"}, sources: []string{"old"}, remove: []string{"old"}, notice: "old knows the value"})
}

func TestRow7WithoutAnyOwnerAPersonDecides(t *testing.T) {
	in := shared("b")
	in.Entry.Owners = map[string]secret.Owner{"gone": copyFor("gone")}
	check(t, in, want{rules: rules(decide.RuleAdded, decide.RuleRemoved), human: "fleet secrets regenerate shared/db", why: "no host can make a copy for b"})
	in.Entry.Owners = map[string]secret.Owner{}
	check(t, in, want{rules: rules(decide.RuleAdded), human: "restore shared/db from git", why: "no host can make a copy for b"})
}

func TestRow8FormerOwnersLoseTheirCopies(t *testing.T) {
	in := shared("a")
	in.Entry.Owners["x"], in.Entry.Owners["y"] = copyFor("x"), copyFor("y")
	check(t, in, want{rules: rules(decide.RuleRemoved), remove: []string{"x", "y"}, notice: "x, y knows the value"})
}

func TestRow8TheLastCopyThatCanBeOpenedStays(t *testing.T) {
	in := shared("b")
	in.Entry.Owners = map[string]secret.Owner{"old": copyFor("old")}
	in.Hosts = map[string]decide.Host{"old": {Key: key("old")}, "b": {}}
	check(t, in, want{rules: rules(decide.RuleRemoved), pending: []string{"b"}, why: "the copy of old stays"})
}

func TestNoOwnerAtAllRemovesNothing(t *testing.T) {
	in := shared()
	in.Entry.Owners["a"] = copyFor("a")
	check(t, in, want{rules: rules(decide.RuleRemoved), prune: true, human: "fleet secrets prune"})
	in.Entry = nil
	check(t, in, want{rules: rules(decide.RuleUnchanged), notice: "no host owns it"})
}

func TestRow9AnotherKeyGetsACopyFromAnotherOwner(t *testing.T) {
	in := shared("a", "b")
	in.Hosts["b"] = decide.Host{Key: key("b2")}
	check(t, in, want{rules: rules(decide.RuleKey), wrap: []string{"b"}, sources: []string{"a"}, why: "new copy for b: it has another key now"})
	in.Hosts["b"] = decide.Host{Key: key("b2"), Others: []string{key("b")}}
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
}

func TestRow9ALostKeyOfTheOnlyOwner(t *testing.T) {
	in := shared("a")
	in.Hosts["a"] = decide.Host{Key: key("a2")}
	check(t, in, want{rules: rules(decide.RuleKey), regenerate: true, wrap: []string{"a"}, why: "no host can open the old one any more"})
	check(t, manual(in), want{rules: rules(decide.RuleKey), human: "enter it again with fleet secrets set shared/db"})
	in = shared("a", "b")
	in.Hosts["a"], in.Hosts["b"] = decide.Host{Key: key("a2")}, decide.Host{Key: key("b2")}
	check(t, in, want{rules: rules(decide.RuleKey), regenerate: true, wrap: []string{"a", "b"}})
}

func TestRow9WhatAKeylessHostCanOpenIsNotReplaced(t *testing.T) {
	in := shared("a", "b")
	in.Hosts["a"], in.Hosts["b"] = decide.Host{Key: key("a2")}, decide.Host{}
	check(t, in, want{rules: rules(decide.RuleKey), human: "fleet secrets host-key scan b", notice: "no key is pinned for b"})
}

func TestRow9DamagedAndOlderCopiesAreReplaced(t *testing.T) {
	in := shared("a", "b", "c")
	older := copyFor("b")
	older.Gen = genB
	in.Entry.Owners["b"] = older
	delete(in.Entry.Owners, "c")
	in = broken(in, "owners/c.json", "c", errors.New("its checksum is wrong"))
	check(t, in, want{rules: rules(decide.RuleKey), wrap: []string{"b", "c"}, sources: []string{"a"}, why: "damaged or of another generation"})
	in = shared("a")
	in.Entry.Owners["a"] = older
	check(t, in, want{rules: rules(decide.RuleKey), human: "restore shared/db from git"})
}

func TestRow10AnotherScript(t *testing.T) {
	in, other := shared("a"), "other"
	in.Spec.Generator.Seed = &other
	check(t, in, want{rules: rules(decide.RuleSeed), notice: "fleet secrets regenerate shared/db", why: "the value is kept"})
	in.Spec.OnGeneratorChange = "regenerate"
	check(t, in, want{rules: rules(decide.RuleSeed), regenerate: true, wrap: []string{"a"}, why: "the script of its generator changed"})
}

func TestRow11NothingDeclaresIt(t *testing.T) {
	in := shared("a")
	in.Spec = nil
	check(t, in, want{rules: rules(decide.RuleUndeclared), prune: true, notice: "fleet secrets prune"})
	in.Entry = nil
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
}

func TestRow12NothingToDo(t *testing.T) {
	check(t, shared("a", "b"), want{rules: rules(decide.RuleUnchanged), why: "up to date"})
	check(t, manual(shared("a")), want{rules: rules(decide.RuleUnchanged), why: "up to date"})
}

func TestExpiredAndOwnersChangedIsOneNewValue(t *testing.T) {
	in := shared("a", "b")
	delete(in.Entry.Owners, "b")
	in.Entry.Owners["gone"] = copyFor("gone")
	in.Entry.Meta.ExpiresAt = new(time.Time)
	check(t, in, want{rules: rules(decide.RuleExpired), regenerate: true, wrap: []string{"a", "b"}})
}

func TestAnExpiredManualValueStillFollowsItsOwners(t *testing.T) {
	in := manual(shared("a", "b"))
	delete(in.Entry.Owners, "b")
	in.Entry.Owners["gone"] = copyFor("gone")
	in.Entry.Meta.ExpiresAt = new(time.Time)
	check(t, in, want{rules: rules(decide.RuleExpired, decide.RuleAdded, decide.RuleRemoved), wrap: []string{"b"}, sources: []string{"a"}, remove: []string{"gone"},
		human: "fleet secrets set", notice: "gone knows the value"})
}

func TestAllRulesAboutCopiesApplyTogether(t *testing.T) {
	in := shared("a", "b", "c", "keyless")
	delete(in.Entry.Owners, "b")
	delete(in.Entry.Owners, "keyless")
	in.Hosts["c"], in.Hosts["keyless"] = decide.Host{Key: key("c2")}, decide.Host{}
	in.Entry.Owners["gone"] = copyFor("gone")
	check(t, in, want{rules: rules(decide.RuleAdded, decide.RuleRemoved, decide.RuleKey), wrap: []string{"b", "c"}, sources: []string{"a"}, remove: []string{"gone"},
		pending: []string{"keyless"}, notice: "gone knows the value"})
}

func TestAHostsOwnSecretBelongsToIt(t *testing.T) {
	in := shared("web")
	in.ID = secret.ID{Scope: secret.OfHost("web"), Name: "db"}
	in.Owners, in.Spec.Owners = nil, []string{}
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
	in.Owners = []string{"other"}
	check(t, in, want{rules: rules(decide.RuleUnchanged)})
}

func TestAllKeylessIsPending(t *testing.T) {
	in := shared("a", "b")
	in.Entry = nil
	in.Hosts = map[string]decide.Host{"a": {}}
	check(t, in, want{rules: rules(decide.RuleMissing), pending: []string{"a", "b"}, why: "waits for a host key of a, b"})
}

func TestPublicPartsAloneNeedNobodyToMakeACopy(t *testing.T) {
	in := shared("a", "b")
	delete(in.Spec.Parts, "secret")
	delete(in.Entry.Meta.Parts, "secret")
	in.Entry.Owners = map[string]secret.Owner{"gone": copyFor("gone")}
	check(t, in, want{rules: rules(decide.RuleAdded, decide.RuleRemoved), wrap: []string{"a", "b"}, remove: []string{"gone"}, notice: "gone knows"})
}

func TestABrokenStateIsLeftToAPerson(t *testing.T) {
	in := broken(shared("a"), "fleet-state/default/secrets/shared/db/meta.json", "", secret.ErrMergeMarkers)
	check(t, in, want{rules: rules(decide.RuleMissing), human: "fleet secrets resolve --ours shared/db"})
	in = broken(shared("a", "b"), "fleet-state/default/secrets/shared/db/owners/b.json", "b", secret.ErrMergeMarkers)
	check(t, in, want{rules: rules(decide.RuleMissing), human: "fleet secrets resolve --ours shared/db"})
	in = broken(shared("a"), "fleet-state/default/secrets/shared/db/meta.json", "", errors.New("unexpected end"))
	check(t, in, want{rules: rules(decide.RuleMissing), human: "git checkout HEAD -- fleet-state/default/secrets/shared/db,"})
	in.ForceRegenerate = true
	check(t, in, want{rules: rules(decide.RuleForced), regenerate: true, wrap: []string{"a"}})
}

func TestForcedMakesANewValue(t *testing.T) {
	in := shared("a", "b")
	in.ForceRegenerate = true
	check(t, in, want{rules: rules(decide.RuleForced), regenerate: true, wrap: []string{"a", "b"}, why: "it was asked for"})
	check(t, manual(in), want{rules: rules(decide.RuleForced), human: "fleet secrets set shared/db"})
}
