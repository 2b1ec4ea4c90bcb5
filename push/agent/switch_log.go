package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"fleet/closure/run"
)

// maxSwitchLog bounds a transaction's log, in bytes: it lies on a tmpfs.
const maxSwitchLog = 8 << 20

// switchWriter writes lines without escape codes to the transaction's log, up to a limit. Guard and worker each have one, on the same file.
type switchWriter struct {
	mu    sync.Mutex
	lines *run.LineWriter
	file  *os.File
	left  int64
}

func newSwitchWriter(file *os.File, limit int64) *switchWriter {
	w := &switchWriter{file: file, left: limit}
	w.lines = run.NewLineWriter(w.line)
	return w
}

// openLog opens a transaction's log to write to its end.
func (h *Host) openLog(txn string) (*switchWriter, error) {
	file, err := os.OpenFile(filepath.Join(h.txnDir(txn), switchLog), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	left := int64(maxSwitchLog)
	if info, err := file.Stat(); err == nil {
		left -= info.Size()
	}
	return newSwitchWriter(file, left), nil
}

func (w *switchWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines.Write(p)
}

func (w *switchWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.Flush()
}

func (w *switchWriter) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.Flush()
	w.line("fleet: " + fmt.Sprintf(format, args...))
}

// line is called with mu held. It never fails: an activation must not stop because its log cannot be written.
func (w *switchWriter) line(text string) {
	if w.left <= 0 {
		return
	}
	w.left -= int64(len(text)) + 1
	if w.left <= 0 {
		text = "fleet: the log is full, the rest of the output is dropped"
	}
	_, _ = w.file.WriteString(text + "\n")
}
