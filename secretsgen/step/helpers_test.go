package step_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func overwrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// noProcess fails while there is a process with this word in its arguments.
func noProcess(t testing.TB, word string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found := processes(word)
		if len(found) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("processes are left: %s", strings.Join(found, "; "))
		}
	}
}

// processes lists what runs with this word in its arguments, but for this test.
func processes(word string) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err == nil && bytes.Contains(args, []byte(word)) {
			found = append(found, file+" "+strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " ")))
		}
	}
	return found
}
