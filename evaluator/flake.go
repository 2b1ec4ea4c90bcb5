package evaluator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FindFlake returns the nearest folder at or above dir that has a flake.nix, absolute and free of symbolic links. Where
// there is none the error is a [*NoFlakeError].
func FindFlake(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find flake: %w", err)
	}
	given := start
	start, err = filepath.EvalSymlinks(start)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &NoFlakeError{Dir: given, Missing: true}
	case err != nil:
		return "", fmt.Errorf("find flake: %w", err)
	}
	for at := start; ; at = filepath.Dir(at) {
		info, err := os.Stat(filepath.Join(at, "flake.nix"))
		switch {
		case err == nil && info.Mode().IsRegular():
			return at, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return "", fmt.Errorf("find flake: %w", err)
		case at == filepath.Dir(at):
			return "", &NoFlakeError{Dir: start}
		}
	}
}
