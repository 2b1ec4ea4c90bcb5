package deploy

import (
	"context"
	"errors"
	"testing"
)

func TestAHostThatWasNotReachedIsTriedAgainOnceItWasForgotten(t *testing.T) {
	dials := 0
	away := errors.New("away")
	s := newSessions(func(context.Context, string) (Session, error) { dials++; return nil, away }, 1)
	try := func(forget bool, want int) {
		t.Helper()
		if _, err := s.get(t.Context(), "db"); !errors.Is(err, away) {
			t.Errorf("%v", err)
		}
		s.giveBack("db")
		if forget {
			s.forget("db")
		}
		if dials != want {
			t.Errorf("%d dials, want %d", dials, want)
		}
	}
	try(false, 1)
	try(true, 1)
	try(false, 2)
	if _, err := s.get(t.Context(), "db"); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	s.forget("db") // somebody still has it
	try(false, 2)
}
