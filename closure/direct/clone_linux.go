package direct

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"fleet/closure/storepath"
)

const (
	// minCloned is the smallest file that is compared, in bytes: below, it takes more time than writing.
	minCloned = 16 << 10
	// comparePiece is how much is compared at once, in bytes. A clone begins and ends between two pieces, or at the end of the file, so a piece is a multiple
	// of the blocks of any of the file systems.
	comparePiece = 64 << 10
	// compareBlock is what is written as a whole where it differs, in bytes. What is the same between two of them is kept from keptBlocks on: each part that is
	// written leaves the file in two more pieces on the disk.
	compareBlock = 4 << 10
	keptBlocks   = 4 * compareBlock
	// maxStrange is how much may differ, one piece after the other, until nothing more is expected of the base, in bytes.
	maxStrange = 256 << 10
)

// cloningFileSystems are those whose files were seen to share their contents as they should. Others can do it too, but were not tried.
var cloningFileSystems = []int64{unix.BTRFS_SUPER_MAGIC, unix.XFS_SUPER_MAGIC}

var errBaseChanged = errors.New("the file with which it shares contents was changed meanwhile")

// canClone says whether files in a folder may be able to share contents. An xfs that was made without that refuses later.
func canClone(dir int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(dir, &st) == nil && slices.Contains(cloningFileSystems, int64(st.Type))
}

// cloner lets new files share what they have in common with a file of another store path: from the first block on that is the same they are clones, and
// what differs is written over them.
//
// What is compared is the file that was cloned, which is in memory where a delta was made into a NAR by it; the clone would have to be read from the disk. The
// two are the same unless somebody writes to a file of the store, and then it was not changed last when all files of the store were.
//
// An xfs sets aside up to 128 KiB around what is written over a clone. It gives that back after a while, or when it has no other space.
type cloner struct {
	store int
	// refused is common to an import. It is set once the file system has refused, which is then not asked any more.
	refused *atomic.Bool
	// fresh and old are buffers.
	fresh, old []byte
}

// share writes the first bytes of contents, which has size bytes, to the empty file fd, as far as they are worth a comparison with the file at path in base, and
// leaves the file's offset behind them. That there is nothing to share is no error.
func (c *cloner) share(fd int, base storepath.Path, path string, size uint64, contents io.Reader) error {
	if base.IsZero() || size < minCloned || c.refused.Load() {
		return nil
	}
	source, err := openBeneath(c.store, strings.TrimSuffix(base.Base()+"/"+path, "/"))
	if err != nil {
		return nil
	}
	defer unix.Close(source)
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil || st.Size < minCloned || !unchanged(&st) {
		return nil
	}
	s := sharing{cloner: c, fd: fd, source: source, size: int64(size), sourceSize: st.Size}
	if err := s.write(contents); err != nil || !s.cloned {
		return err
	}
	if err := unix.Fstat(source, &st); err != nil || !unchanged(&st) {
		return errors.Join(err, errBaseChanged)
	}
	return nil
}

// unchanged says that it is a file that nobody has written to since it came into the store.
func unchanged(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mtim == unix.Timespec{Sec: storeTime}
}

// openBeneath opens a file in a folder for reading. It follows no symlink, leaves neither the folder nor its mount, and waits for nobody.
func openBeneath(dir int, name string) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	err = ignoringInterrupts(func() error {
		fd, err = unix.Openat2(dir, name, &how)
		return err
	})
	return fd, err
}

// sharing is the writing of one file.
type sharing struct {
	*cloner
	fd, source       int
	size, sourceSize int64
	// off is how much was written.
	off int64
	// cloned says that there is something from off on, which is that of the source.
	cloned bool
	// strange is how much was different before off, since something was the same.
	strange int64
}

// write ends where there is nothing more to compare, where the source cannot be read, and where it seems to have nothing to do with contents.
func (s *sharing) write(contents io.Reader) error {
	if s.old == nil {
		s.old, s.fresh = make([]byte, comparePiece), make([]byte, comparePiece)
	}
	for end := min(s.size, s.sourceSize); s.off < end && s.strange < maxStrange && !s.refused.Load(); {
		length := min(comparePiece, end-s.off)
		old, fresh := s.old[:length], s.fresh[:length]
		if !readAt(s.source, old, s.off) {
			break
		}
		if _, err := io.ReadFull(contents, fresh); err != nil {
			return err
		}
		if err := s.piece(old, fresh); err != nil {
			return err
		}
	}
	if err := s.cut(); err != nil {
		return err
	}
	_, err := unix.Seek(s.fd, s.off, io.SeekStart)
	return err
}

// piece writes fresh, where the source has old.
func (s *sharing) piece(old, fresh []byte) error {
	different := changes(old, fresh)
	same := len(different) != 1 || different[0] != [2]int{0, len(fresh)}
	if same && !s.cloned {
		s.clone()
	}
	if !s.cloned {
		different = [][2]int{{0, len(fresh)}}
	}
	for _, part := range different {
		if err := writeAt(s.fd, fresh[part[0]:part[1]], s.off+int64(part[0])); err != nil {
			return err
		}
	}
	s.off += int64(len(fresh))
	if s.strange += int64(len(fresh)); same {
		s.strange = 0
	}
	return nil
}

// cut takes away what was cloned and not compared. Cutting nothing could make a copy of the last block.
func (s *sharing) cut() error {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil || st.Size == s.off {
		return err
	}
	return unix.Ftruncate(s.fd, s.off)
}

// clone makes what the file has from off on that of the source, if that can be done.
func (s *sharing) clone() {
	length := (s.size-1)/comparePiece*comparePiece + comparePiece - s.off
	if s.off+length >= s.sourceSize {
		length = 0 // all that there is
	}
	request := unix.FileCloneRange{Src_fd: int64(s.source), Src_offset: uint64(s.off), Src_length: uint64(length), Dest_offset: uint64(s.off)}
	err := ignoringInterrupts(func() error { return unix.IoctlFileCloneRange(s.fd, &request) })
	s.cloned = err == nil
	s.refused.Store(err != nil)
}

// changes are the parts that are to be written, from and to.
func changes(old, fresh []byte) (parts [][2]int) {
	for at := 0; at < len(fresh); at += compareBlock {
		end := min(at+compareBlock, len(fresh))
		if bytes.Equal(old[at:end], fresh[at:end]) {
			continue
		}
		if last := len(parts) - 1; last >= 0 && at-parts[last][1] < keptBlocks {
			parts[last][1] = end
		} else {
			parts = append(parts, [2]int{at, end})
		}
	}
	return parts
}

// readAt fills data with what a file has at off, and says whether it could.
func readAt(fd int, data []byte, off int64) bool {
	for len(data) > 0 {
		n, err := unix.Pread(fd, data, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		data, off = data[n:], off+int64(n)
	}
	return true
}

func writeAt(fd int, data []byte, off int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}
