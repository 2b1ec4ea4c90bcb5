package push

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// randomName returns prefix and 128 random bits in hexadecimal, which no program prints by chance.
func randomName(prefix string) string {
	var bits [16]byte
	// crypto/rand.Read never fails: it ends the program instead.
	_, _ = rand.Read(bits[:])
	return prefix + hex.EncodeToString(bits[:])
}

// compact takes comments, blank lines and indentation out of a script of ours, because sudo writes it to the host's log.
func compact(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}
