package push

import (
	"strings"
	"sync"

	"fleet/closure/run"
)

// maxShown bounds what of a host's output goes into an error, in bytes.
const maxShown = 2 << 10

// excerpt returns the first or, with fromEnd, the last bytes of a host's output for an error message, on one line.
func excerpt(s string, fromEnd bool) string {
	plain := strings.Join(strings.Fields(run.StripEscapes(s)), " ")
	if len(plain) <= maxShown {
		return plain
	}
	if fromEnd {
		return "…" + strings.ToValidUTF8(plain[len(plain)-maxShown:], "")
	}
	return strings.ToValidUTF8(plain[:maxShown], "") + "…"
}

// oneLine is excerpt for what another side calls a message.
func oneLine(s string) string { return excerpt(s, false) }

// tail keeps the last bytes that were written to it. The zero value keeps nothing.
type tail struct {
	max  int
	data []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.max; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// lockedTail is a tail for several goroutines.
type lockedTail struct {
	mu   sync.Mutex
	tail tail
}

func (t *lockedTail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tail.Write(p)
}

func (t *lockedTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.tail.data)
}
