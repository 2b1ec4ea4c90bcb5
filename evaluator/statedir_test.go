package evaluator_test

import (
	"errors"
	"path/filepath"
	"testing"

	"fleet/evaluator"
)

func TestLogsHaveAPlaceWithoutHOME(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", "")
	if dir, err := evaluator.DefaultStateDir(); err != nil || !filepath.IsAbs(dir) {
		t.Errorf("got %q, %v", dir, err)
	}
}

func TestAStateFolderThatCannotBeMadeHasARemedy(t *testing.T) {
	_, err := evaluator.NewNix(evaluator.NixOptions{StateDir: "/dev/null/fleet"})
	if !errors.As(err, new(*evaluator.StateDirError)) || hint(err) == "" {
		t.Errorf("got %v", err)
	}
}
