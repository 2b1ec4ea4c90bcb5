package nar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Restore unpacks the NAR that r holds to dest, which must not exist. Files get the modes 0444 and 0555, as in a
// store; directories stay writable for their owner. Nothing is ever written outside of dest. When it fails, dest is removed.
func Restore(r io.Reader, dest string) error {
	if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("nar: restore to %q: %w", dest, os.ErrExist))
	}
	parent, err := os.OpenRoot(filepath.Dir(dest))
	if err != nil {
		return fmt.Errorf("nar: restore: %w", err)
	}
	defer parent.Close()
	base := filepath.Base(dest)
	s := &restorer{root: parent, base: base}
	if err := Parse(r, s); err != nil {
		err = fmt.Errorf("restore %q: %w", dest, err)
		if s.begun {
			err = errors.Join(err, parent.RemoveAll(base))
		}
		return err
	}
	return nil
}

type restorer struct {
	root *os.Root
	base string
	// begun says that what is at base is ours.
	begun bool
}

func (s *restorer) at(path string) string {
	if path == "" {
		return s.base
	}
	return s.base + "/" + path
}

func (s *restorer) Directory(path string) error { return s.made(s.root.Mkdir(s.at(path), 0o755)) }

func (s *restorer) File(path string, executable bool, _ uint64, contents io.Reader) error {
	mode := os.FileMode(0o444)
	if executable {
		mode = 0o555
	}
	file, err := s.root.OpenFile(s.at(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if s.made(err) != nil {
		return err
	}
	_, err = io.Copy(file, contents)
	return errors.Join(err, file.Chmod(mode), file.Close())
}

func (s *restorer) Symlink(path, target string) error {
	return s.made(s.root.Symlink(target, s.at(path)))
}

func (s *restorer) made(err error) error {
	s.begun = s.begun || err == nil
	return err
}
