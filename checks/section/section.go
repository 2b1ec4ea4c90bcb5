// Package section keeps what a test has measured in a document, between two marks of it.
package section

import (
	"fmt"
	"os"
	"strings"
)

// Replace replaces what stands between the marks <!-- name --> and <!-- end of name --> of a document, each on a line of its own.
func Replace(path, name, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no section %q", path, name)
	}
	return os.WriteFile(path, []byte(before+begin+text+end+after), 0o644)
}
