package run

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeReader is our end of a pipe that a process writes to. After the process has ended it ends too, but
// not before what was written has been read.
type pipeReader struct {
	file *os.File
	tail *tail

	mu       sync.Mutex
	deadline bool
}

func (r *pipeReader) Read(data []byte) (int, error) {
	n, err := r.file.Read(data)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = r.readRest(data)
	}
	if r.tail != nil && n > 0 {
		_, _ = r.tail.Write(data[:n])
	}
	return n, err
}

// readRest reads what the pipe still holds, without waiting. A process outside of the group may keep
// the pipe open for ever; for us it is at its end.
func (r *pipeReader) readRest(data []byte) (int, error) {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, readErr := 0, error(nil)
	if err := raw.Control(func(fd uintptr) { n, readErr = syscall.Read(int(fd), data) }); err != nil {
		return 0, err
	}
	if readErr != nil || n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *pipeReader) Close() error { return r.file.Close() }

// endBy makes Read return what there is from then on.
func (r *pipeReader) endBy(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.deadline {
		r.deadline = true
		_ = r.file.SetReadDeadline(t)
	}
}
