package nar

import (
	"bufio"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// spill is a file without a name, in the folder for temporary files, that takes the structure of a NAR which is too large for memory.
type spill struct {
	file *os.File
	out  *bufio.Writer
	size int
}

const spillBuffer = 256 << 10

// newSpill makes a spill that begins with data.
func newSpill(data []byte) (*spill, error) {
	file, err := os.CreateTemp("", "fleet-nar-")
	if err != nil {
		return nil, fmt.Errorf("make room for its structure: %w", err)
	}
	s := &spill{file: file, out: bufio.NewWriterSize(file, spillBuffer)}
	if err := os.Remove(file.Name()); err != nil {
		s.close()
		return nil, fmt.Errorf("make room for its structure: %w", err)
	}
	if _, err := s.write(data); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *spill) write(data []byte) (int, error) {
	if len(data) > maxSpill-s.size {
		return 0, fmt.Errorf("its structure has more than %d bytes", maxSpill)
	}
	n, err := s.out.Write(data)
	s.size += n
	if err != nil {
		return n, fmt.Errorf("make room for its structure: %w", err)
	}
	return n, nil
}

// bytes returns what was written, as memory that the kernel may take back as long as nobody reads it. Unmap it with [unix.Munmap].
func (s *spill) bytes() ([]byte, error) {
	if err := s.out.Flush(); err != nil {
		return nil, fmt.Errorf("make room for its structure: %w", err)
	}
	data, err := unix.Mmap(int(s.file.Fd()), 0, s.size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("read its structure: %w", err)
	}
	return data, nil
}

// close closes the file. What bytes has returned stays.
func (s *spill) close() { _ = s.file.Close() } // it has no name, so nothing is lost
