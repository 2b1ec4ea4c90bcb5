package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// GRUB's environment block (GRUB manual, "The GRUB environment block"): text of a fixed size, so that GRUB can write it without a file
// system, sector over sector.
const (
	envSize   = 1024
	envHeader = "# GRUB Environment Block\n"
	// nextEntry is the variable that grub-reboot sets, too.
	nextEntry = "next_entry"
)

// readEnv reads a block.
func readEnv(path string) (string, error) {
	text, err := readBounded(path, envSize)
	if err != nil {
		return "", err
	}
	if len(text) != envSize || !strings.HasPrefix(string(text), envHeader) {
		return "", fmt.Errorf("read %q: it is no environment block of GRUB: mend it with: grub-editenv %s create", path, path)
	}
	return string(text), nil
}

// envLines are a block's assignments, each with its end of line. A line's end may be escaped.
func envLines(env string) []string {
	env = strings.TrimPrefix(env, envHeader)
	var lines []string
	start := 0
	for i := 0; i < len(env); i++ {
		switch env[i] {
		case '\\':
			i++
		case '\n':
			lines = append(lines, env[start:i+1])
			start = i + 1
		}
	}
	return lines
}

// envValue is a variable's value, empty where it is not set.
func envValue(env, name string) string {
	for _, line := range envLines(env) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return unescapeEnv(strings.TrimSuffix(value, "\n"))
		}
	}
	return ""
}

func unescapeEnv(value string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		b.WriteByte(value[i])
	}
	return b.String()
}

// changeEnv returns the block with the variable set, or without it where value is empty. All else stays as it is.
func changeEnv(env, name, value string) (string, error) {
	var b strings.Builder
	b.WriteString(envHeader)
	for _, line := range envLines(env) {
		if !strings.HasPrefix(line, name+"=") {
			b.WriteString(line)
		}
	}
	if value != "" {
		b.WriteString(name + "=" + strings.NewReplacer(`\`, `\\`, "\n", "\\\n").Replace(value) + "\n")
	}
	if b.Len() > envSize {
		return "", errors.New("GRUB's environment block is full")
	}
	return b.String() + strings.Repeat("#", envSize-b.Len()), nil
}

// setEnv changes a block in place: GRUB reads the disk as it is, without the file system's journal, and a new file might not be there for it. The
// block lies within two sectors, and the second is filling in all blocks that are used in practice, so a torn write leaves the old or the new.
func setEnv(path, name, value string) error {
	env, err := readEnv(path)
	if errors.Is(err, fs.ErrNotExist) {
		if value == "" {
			return nil
		}
		empty, err := changeEnv(envHeader, name, "")
		if err != nil {
			return err
		}
		return createEnv(path, empty, name, value)
	}
	if err != nil {
		return err
	}
	changed, err := changeEnv(env, name, value)
	if err != nil || changed == env {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(changed), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// createEnv makes a block where there is none, and then sets the variable in it.
func createEnv(path, empty, name, value string) error {
	if err := writeAtomically(path, []byte(empty)); err != nil {
		return err
	}
	if err := syncFileSystem(filepath.Dir(path)); err != nil {
		return err
	}
	return setEnv(path, name, value)
}
