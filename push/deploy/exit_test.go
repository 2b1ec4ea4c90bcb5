package deploy

import (
	"testing"
)

func TestTheExitCodeIsTheFirstCauseInTheOrderOfTheTable(t *testing.T) {
	for name, test := range map[string]struct {
		outcomes []Outcome
		want     ExitCode
	}{
		"no host at all":                             {nil, 0},
		"every kind of success":                      {[]Outcome{OutcomeUnchanged, OutcomeBuilt, OutcomePushed, OutcomeDryActivated, OutcomeTested, OutcomeStaged, OutcomeSwitched}, 0},
		"one failed among successes":                 {[]Outcome{OutcomeSwitched, OutcomeFailed, OutcomeUnchanged}, 3},
		"all rolled back":                            {[]Outcome{OutcomeRolledBack, OutcomeRolledBack}, 4},
		"rolled back and switched":                   {[]Outcome{OutcomeRolledBack, OutcomeSwitched}, 4},
		"rolled back, but another is not known safe": {[]Outcome{OutcomeRolledBack, OutcomeFailed}, 3},
		"cancelled by fail-fast":                     {[]Outcome{OutcomeCancelled, OutcomeSwitched}, 3},
		"the budget comes before failures":           {[]Outcome{OutcomeFailed, OutcomeStopped, OutcomeRolledBack}, 7},
		"secrets come before the budget":             {[]Outcome{OutcomeStopped, OutcomeSecrets, OutcomeFailed}, 5},
		"a lock comes before secrets":                {[]Outcome{OutcomeSecrets, OutcomeLocked, OutcomeStopped, OutcomeFailed}, 6},
		"an interruption comes first":                {[]Outcome{OutcomeLocked, OutcomeInterrupted, OutcomeFailed}, 130},
		"detached is an interruption":                {[]Outcome{OutcomeSwitched, OutcomeDetached}, 130},
		"declined is another error":                  {[]Outcome{OutcomeDeclined, OutcomeUnchanged}, 1},
		"declined after a failure":                   {[]Outcome{OutcomeDeclined, OutcomeFailed}, 3},
		"declined and rolled back":                   {[]Outcome{OutcomeDeclined, OutcomeRolledBack}, 4},
		"an outcome that nobody knows":               {[]Outcome{"new-one"}, 3},
		"no outcome":                                 {[]Outcome{""}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Report{}
			for _, o := range test.outcomes {
				r.Hosts = append(r.Hosts, HostReport{Outcome: o})
			}
			if got := r.ExitCode(); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestEveryExitCodeIsExplained(t *testing.T) {
	for _, code := range ExitCodes() {
		if code.Summary() == "unknown" || code.Remedy() == "" {
			t.Errorf("%d has no text", code)
		}
	}
}
