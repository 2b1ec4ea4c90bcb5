package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/evaluator"
	"fleet/push"
	"fleet/push/proto"
	"fleet/secretsgen/install"
	"fleet/secretsgen/secret"
)

// maker is a [Secrets] that makes all that it is asked for, but what is in fail.
type maker struct {
	mu sync.Mutex
	// calls are the needs of each call, as "host: ids".
	calls [][]string
	fail  *EnsureError
	err   error
	hook  func(ctx context.Context) error
}

func (m *maker) Ensure(ctx context.Context, needs []Need) (evaluator.Snapshot, error) {
	m.mu.Lock()
	var call []string
	for _, n := range needs {
		call = append(call, n.Host+": "+strings.Join(n.ids(), " "))
	}
	m.calls = append(m.calls, call)
	round := len(m.calls)
	m.mu.Unlock()
	if m.hook != nil {
		if err := m.hook(ctx); err != nil {
			return evaluator.Snapshot{}, err
		}
	}
	if m.err != nil {
		return evaluator.Snapshot{}, m.err
	}
	snapshot := evaluator.Snapshot{Ref: fmt.Sprint("after ", round)}
	if m.fail != nil {
		return snapshot, m.fail
	}
	return snapshot, nil
}

func (m *maker) Uncommitted() Uncommitted {
	return Uncommitted{Dir: "/flake", Files: []string{"fleet-state/default/secrets/shared/ca/meta.json"}}
}

func TestMissingSecretsAreMadeOnceForAllHostsThatMissAny(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.missing = map[string]map[string][]string{"": {"a": {"shared/ca", "host/a/db"}, "b": {"shared/ca"}}}
	m := &maker{}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
	if report.ExitCode() != 0 {
		t.Fatal(report.Err())
	}
	if diff := cmp.Diff([][]string{{"a: host/a/db shared/ca", "b: shared/ca"}}, m.calls); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([][]string{{"a", "b", "c"}, {"a", "b"}}, w.batches); diff != "" {
		t.Errorf("evaluated (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(m.Uncommitted(), report.Uncommitted); diff != "" {
		t.Error(diff)
	}
}

func TestAHostThatMissesNothingWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("fine", "lacking", "slow")
		w.missing = map[string]map[string][]string{"": {"lacking": {"shared/ca"}, "slow": {"shared/ca"}}}
		ended := map[string]time.Duration{}
		began := time.Now()
		w.hook = func(_ context.Context, host, what string) error {
			switch {
			case host == "slow" && what == "connect":
				time.Sleep(time.Minute)
			case what == "attach":
				ended[host] = time.Since(began).Round(time.Minute)
			}
			return nil
		}
		m := &maker{hook: func(context.Context) error { time.Sleep(time.Hour); return nil }}
		report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
		if report.ExitCode() != 0 || len(m.calls) != 1 {
			t.Fatalf("%v, %d rounds", report.Err(), len(m.calls))
		}
		if diff := cmp.Diff(map[string]time.Duration{"fine": 0, "lacking": 61 * time.Minute, "slow": 61 * time.Minute}, ended); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAHostThatFailsHoldsUpNoRound(t *testing.T) {
	w := newWorld("a", "down", "unevaluated", "builder")
	w.missing = map[string]map[string][]string{"": {"a": {"shared/ca"}}}
	w.hosts["down"].connect = errors.New("refused")
	w.evalErr["unevaluated"] = errors.New("attribute missing")
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = &maker{} })
	want := map[string]Outcome{"a": OutcomeSwitched, "down": OutcomeFailed, "unevaluated": OutcomeFailed, "builder": OutcomeSwitched}
	if diff := cmp.Diff(want, outcomes(report)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutTheMeansToMakeSecretsHostsThatMissAnyAreLeftOut(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.missing = map[string]map[string][]string{"": {"a": {"shared/ca", "host/a/db"}}}
	w.public = map[string]map[string][]evaluator.PublicRef{"": {"b": {{ID: "host/peer/wireguard", Part: "public"}}}}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.NoSecrets = "there is no terminal" })
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeSecrets, "b": OutcomeSecrets, "c": OutcomeSwitched}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	if report.ExitCode() != ExitSecrets || w.did("a build") || len(w.batches) != 1 {
		t.Errorf("exit %d, log %v", report.ExitCode(), w.log)
	}
	text := report.Err().Error()
	for _, want := range []string{"shared/ca", "host/a/db", "public of host/peer/wireguard", "there is no terminal"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
	var missing *MissingSecretsError
	if !errors.As(report.Err(), &missing) || !strings.Contains(missing.Hint(), "fleet secrets sync") {
		t.Errorf("hint of %v", report.Err())
	}
	report = w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.Action = ActionBuild })
	if report.ExitCode() != ExitSecrets {
		t.Errorf("a build: exit %d", report.ExitCode())
	}
}

func TestPublicPartsOfOthersTakeFurtherRounds(t *testing.T) {
	w := newWorld("a", "b")
	key := []evaluator.PublicRef{{ID: "host/peer/wireguard", Part: "public"}}
	w.missing = map[string]map[string][]string{"": {"a": {"host/a/wireguard"}}}
	w.public = map[string]map[string][]evaluator.PublicRef{"after 1": {"a": key, "b": key}, "": {"b": key}}
	m := &maker{}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
	// b asks again for what it has asked for, which leads to nothing.
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeSecrets}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	want := [][]string{{"a: host/a/wireguard", "b: host/peer/wireguard"}, {"a: host/peer/wireguard"}}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Error(diff)
	}
}

func TestNeedsThatNeverEndAreGivenUp(t *testing.T) {
	w := newWorld("a")
	w.missing = map[string]map[string][]string{"": {"a": {"shared/s0"}}}
	for i := 1; i < 100; i++ {
		w.missing[fmt.Sprint("after ", i)] = map[string][]string{"a": {fmt.Sprint("shared/s", i)}}
	}
	m := &maker{}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
	if report.ExitCode() != ExitSecrets || len(m.calls) != maxRounds {
		t.Errorf("exit %d after %d rounds", report.ExitCode(), len(m.calls))
	}
}

// mend is an error with a remedy.
type mend struct{ error }

func (mend) Hint() string { return "fleet secrets set shared/token" }

func TestWhatCouldNotBeMadeStopsOnlyWhoNeedsIt(t *testing.T) {
	w := newWorld("a", "b", "keyless")
	w.missing = map[string]map[string][]string{
		"":        {"a": {"shared/ca"}, "b": {"shared/ca", "shared/token"}, "keyless": {"shared/ca"}},
		"after 1": {"b": {"shared/token"}, "keyless": {"shared/ca"}},
	}
	m := &maker{fail: &EnsureError{
		Failed: map[string]error{"shared/token": mend{errors.New("a person has to give it")}},
		Hosts:  map[string]error{"keyless": errors.New("no key is pinned")},
	}}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeSwitched, "b": OutcomeSecrets, "keyless": OutcomeSecrets}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	var missing *MissingSecretsError
	if !errors.As(report.Hosts[1].Err, &missing) {
		t.Fatal(report.Hosts[1].Err)
	}
	if text := missing.Error(); !strings.Contains(text, "shared/token (a person has to give it)") || strings.Contains(text, "shared/ca") || missing.Hint() != "fleet secrets set shared/token" {
		t.Errorf("got %q, hint %q", text, missing.Hint())
	}
	if text := report.Hosts[2].Err.Error(); !strings.Contains(text, "no key is pinned") {
		t.Errorf("got %q", text)
	}
}

func TestAnErrorAboutAllSecretsStopsAllWhoNeedAny(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.missing = map[string]map[string][]string{"": {"a": {"shared/ca"}, "b": {"shared/ca"}}}
	m := &maker{err: mend{errors.New("the state is locked by alice")}}
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Secrets = m })
	if diff := cmp.Diff(map[string]Outcome{"a": OutcomeSecrets, "b": OutcomeSecrets, "c": OutcomeSwitched}, outcomes(report)); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(report.Err().Error(), "locked by alice"); n != 2 {
		t.Errorf("%v", report.Err())
	}
}

func TestAnInterruptionWhileSecretsAreMadeLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b")
		w.missing = map[string]map[string][]string{"": {"a": {"shared/ca"}}}
		ctx, cancel := context.WithCancel(t.Context())
		m := &maker{hook: func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}}
		report := w.run(ctx, t, func(d *Deployer, r *Request) {
			d.Secrets = m
			r.Action = ActionPush
		})
		if got := outcomes(report)["a"]; got != OutcomeInterrupted || report.ExitCode() != ExitInterrupted {
			t.Errorf("got %q, exit %d", got, report.ExitCode())
		}
		if len(report.Uncommitted.Files) == 0 {
			t.Error("what was made is not named")
		}
	})
}

func TestFailFastCountsMissingSecretsAsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "late")
		w.missing = map[string]map[string][]string{"": {"a": {"shared/ca"}}}
		w.hook = func(ctx context.Context, host, what string) error {
			if host == "late" && what == "build" {
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		}
		report := w.run(t.Context(), t, func(_ *Deployer, r *Request) { r.FailFast = true })
		if diff := cmp.Diff(map[string]Outcome{"a": OutcomeSecrets, "late": OutcomeCancelled}, outcomes(report)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAHostThatCannotReadItsSecretsIsNotActivated(t *testing.T) {
	db := secret.ID{Scope: secret.Shared, Name: "db"}
	for action, want := range map[Action]struct {
		outcome Outcome
		begun   bool
	}{
		ActionPush: {OutcomePushed, false}, ActionDryActivate: {OutcomeSecrets, true}, ActionTest: {OutcomeSecrets, false},
		ActionBoot: {OutcomeSecrets, false}, ActionSwitch: {OutcomeSecrets, false},
	} {
		t.Run(string(action), func(t *testing.T) {
			w := newWorld("a", "b")
			dark := "dark"
			host := w.plan.Hosts["a"]
			host.Deploy.Specialisation = &dark
			w.plan.Hosts["a"] = host
			w.answer = func(host string, r push.SecretsRequest) error {
				if host != "a" || r.Method != proto.MethodSecretsPreflight {
					return nil
				}
				if got := r.Params.(proto.SecretsPreflightRequest); got.Toplevel != toplevel("a", 2) || got.Specialisation != "dark" {
					t.Errorf("it asks for %+v", got)
				}
				r.Result.(*install.Report).Failed = []install.Failure{
					{ID: db, Reason: "it is encrypted to \x1b[31manother\nkey"}, {Template: "app.conf", Reason: "no such placeholder"},
				}
				return nil
			}
			asked := 0
			report := w.run(t.Context(), t, func(_ *Deployer, r *Request) {
				r.Action = action
				r.Confirm = func(_ context.Context, changes []Change) (bool, error) { asked += len(changes); return true, nil }
			})
			if got := outcomes(report); got["a"] != want.outcome || !got["b"].Success() || w.did("a begin") != want.begun {
				t.Errorf("got %v, log %v", got, w.log)
			}
			if asked != 0 {
				t.Errorf("it asked about %d hosts, and one changes", asked)
			}
			if want.outcome == OutcomePushed {
				return
			}
			var unreadable *PreflightError
			if report.ExitCode() != ExitSecrets || !errors.As(report.Err(), &unreadable) {
				t.Fatalf("exit %d, %v", report.ExitCode(), report.Err())
			}
			for _, text := range []string{"shared/db: it is encrypted to another key", "template app.conf: no such placeholder"} {
				if !strings.Contains(unreadable.Error(), text) {
					t.Errorf("%q is missing in %q", text, unreadable)
				}
			}
			if !strings.Contains(unreadable.Hint(), "rekey --on a") {
				t.Errorf("hint %q", unreadable.Hint())
			}
		})
	}
}

func TestAPreflightThatFailsFailsTheHost(t *testing.T) {
	w := newWorld("a")
	w.answer = func(string, push.SecretsRequest) error {
		return &push.AgentError{Host: "a", Method: proto.MethodSecretsPreflight, Code: proto.CodeInternal, Message: "the manifest has format 2"}
	}
	report := w.run(t.Context(), t, nil)
	if report.ExitCode() != ExitHostsFailed || w.did("a begin") || !strings.Contains(report.Err().Error(), `check secrets on "a": the manifest has format 2`) {
		t.Errorf("exit %d, %v", report.ExitCode(), report.Err())
	}
}

func TestADeploymentAndItsSecretsShareSessions(t *testing.T) {
	w := newWorld("a", "b", "bystander")
	w.missing = map[string]map[string][]string{"": {"b": {"shared/ca"}}}
	hosts := NewHosts(HostsOptions{Plan: w.plan, Connector: w, Reporter: w})
	m := &maker{hook: func(ctx context.Context) error {
		for _, host := range []string{"a", "b", "bystander", "bystander"} {
			if _, err := hosts.Verify(ctx, host, nil); err != nil {
				return err
			}
			if key, err := hosts.Key(ctx, host); err != nil || key != "ssh-ed25519 session-"+host {
				return fmt.Errorf("key %q, %w", key, err)
			}
		}
		return nil
	}}
	report := w.run(t.Context(), t, func(d *Deployer, r *Request) {
		r.Hosts = []string{"a", "b"}
		d.Hosts, d.Secrets, d.Connector = hosts, m, nil
	})
	if report.ExitCode() != 0 {
		t.Fatal(report.Err())
	}
	connects := map[string]int{}
	for _, entry := range w.log {
		if host, ok := strings.CutSuffix(entry, " connect"); ok {
			connects[host]++
		}
	}
	if connects["b"] != 1 || connects["bystander"] != 1 || connects["a"] > 2 {
		t.Errorf("connections: %v", connects)
	}
	for name, h := range w.hosts {
		if h.closed != connects[name] {
			t.Errorf("%s: %d sessions, %d closed", name, connects[name], h.closed)
		}
	}
	if slices.Contains(w.log, "a handshake") {
		t.Error("a handshake was made for a key that a session knows")
	}
}
