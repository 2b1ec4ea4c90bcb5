package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"
)

// streams are the three standard streams of a process, and the goroutines that copy them.
type streams struct {
	// failed receives the first error of a reader or writer of the caller.
	failed chan error
	// drained is closed when all output that we copy has ended.
	drained chan struct{}

	tail    tail
	inherit []*os.File
	readers []*pipeReader
	stdin   *os.File
	copies  []func()
	feed    func()
}

func (s *streams) connect(cmd Cmd, p *Process) error {
	s.failed = make(chan error, 1)
	s.drained = make(chan struct{})
	if cmd.PipeStdin && cmd.Stdin != nil || cmd.PipeStdout && cmd.Stdout != nil || cmd.PipeStderr && cmd.Stderr != nil {
		return errors.New("a stream is both given and asked for as a pipe")
	}
	if err := s.connectStdin(cmd, p); err != nil {
		return err
	}
	if err := s.connectStdout(cmd, p); err != nil {
		return err
	}
	if cmd.Stderr != nil && sameWriter(cmd.Stderr, cmd.Stdout) {
		if _, direct := cmd.Stdout.(*os.File); !direct {
			p.cmd.Stderr = p.cmd.Stdout
			return nil
		}
	}
	reader, err := s.outputPipe(&p.cmd.Stderr)
	if err != nil {
		return err
	}
	if cmd.PipeStderr {
		reader.tail = &s.tail
		p.Stderr = reader
		return nil
	}
	s.copyTo(reader, writers(&s.tail, cmd.Stderr))
	return nil
}

func (s *streams) connectStdin(cmd Cmd, p *Process) error {
	if file, ok := cmd.Stdin.(*os.File); ok {
		p.cmd.Stdin = file
		return nil
	}
	if cmd.Stdin == nil && !cmd.PipeStdin {
		return nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	s.inherit = append(s.inherit, read)
	s.stdin = write
	p.cmd.Stdin = read
	if cmd.PipeStdin {
		p.Stdin = write
		return nil
	}
	s.feed = func() {
		_, err := io.Copy(write, cmd.Stdin)
		if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
			s.fail(fmt.Errorf("read standard input: %w", err))
		}
		_ = write.Close()
	}
	return nil
}

func (s *streams) connectStdout(cmd Cmd, p *Process) error {
	if file, ok := cmd.Stdout.(*os.File); ok {
		p.cmd.Stdout = file
		return nil
	}
	if cmd.Stdout == nil && !cmd.PipeStdout {
		return nil
	}
	reader, err := s.outputPipe(&p.cmd.Stdout)
	if err != nil {
		return err
	}
	if cmd.PipeStdout {
		p.Stdout = reader
		return nil
	}
	if cmd.Stderr != nil && sameWriter(cmd.Stderr, cmd.Stdout) {
		s.copyTo(reader, writers(&s.tail, cmd.Stdout))
		return nil
	}
	s.copyTo(reader, cmd.Stdout)
	return nil
}

func (s *streams) outputPipe(end *io.Writer) (*pipeReader, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	*end = write
	s.inherit = append(s.inherit, write)
	reader := &pipeReader{file: read}
	s.readers = append(s.readers, reader)
	return reader, nil
}

func (s *streams) copyTo(reader *pipeReader, w io.Writer) {
	s.copies = append(s.copies, func() {
		defer reader.Close()
		if _, err := io.Copy(w, reader); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.fail(fmt.Errorf("copy output: %w", err))
		}
	})
}

func (s *streams) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// begin starts the copying, once the process has its ends of the pipes.
func (s *streams) begin() {
	for _, file := range s.inherit {
		_ = file.Close()
	}
	s.inherit = nil
	if s.feed != nil {
		go s.feed()
	}
	var group sync.WaitGroup
	for _, copyOne := range s.copies {
		group.Go(copyOne)
	}
	go func() {
		group.Wait()
		close(s.drained)
	}()
}

// finish makes all reading end within the time given.
func (s *streams) finish(limit time.Duration) {
	for _, reader := range s.readers {
		reader.endBy(time.Now().Add(limit))
	}
	if s.feed != nil {
		_ = s.stdin.Close()
	}
	<-s.drained
}

func (s *streams) closeAll() {
	for _, file := range s.inherit {
		_ = file.Close()
	}
	for _, reader := range s.readers {
		_ = reader.Close()
	}
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
}

func writers(t *tail, w io.Writer) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(t, w)
}

// sameWriter compares writers, whose types need not be comparable.
func sameWriter(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}
