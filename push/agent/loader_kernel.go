package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// A loader that cannot start a kernel does not come back by itself: systemd-boot leaves for the firmware's next choice, GRUB waits in its menu [both
// seen, checks/vm]. So what it is going to start is looked at before.

// intact says what is wrong with the files of an entry: one is missing, or is not what the system contains.
func (e loaderEntry) intact(b backend, toplevel string) error {
	if err := e.missing(); err != nil {
		return err
	}
	if s, ok := b.(systemdBoot); ok && (s.byFile() || s.name() == "lanzaboote") {
		return nil // the one has kernels for show, the other checks them itself, by their hashes
	}
	for _, name := range []string{"kernel", "initrd"} {
		source, err := filepath.EvalSymlinks(filepath.Join(toplevel, name))
		if err != nil {
			continue // it has none, as a container's system
		}
		if err := e.contains(source); err != nil {
			return err
		}
		if name == "kernel" {
			if err := checkKernel(source, isSystemdBoot(b)); err != nil {
				return err
			}
		}
	}
	return nil
}

// contains says whether one of the entry's files is the source or a copy of it. An initrd's copy may go on with secrets.
func (e loaderEntry) contains(source string) error {
	for _, places := range e.files {
		for _, place := range places {
			same, err := beginsWith(place, source)
			if err != nil {
				return err
			}
			if same {
				return nil
			}
		}
	}
	return fmt.Errorf("boot entry %q has no undamaged copy of %s", clip(e.id), source)
}

// beginsWith says whether a file has the contents of another one, and maybe more.
func beginsWith(path, source string) (bool, error) {
	if path == source {
		return true, nil
	}
	want, err := openRegular(source)
	if err != nil {
		return false, err
	}
	defer want.Close()
	have, err := openRegular(path)
	if err != nil {
		return false, nil // not this place, then
	}
	defer have.Close()
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(want, a)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return false, err
		}
		if m, haveErr := io.ReadFull(have, b[:n]); m < n {
			if errors.Is(haveErr, io.EOF) || errors.Is(haveErr, io.ErrUnexpectedEOF) {
				haveErr = nil
			}
			return false, haveErr
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		if err != nil {
			return true, nil
		}
	}
}

// checkKernel says what is wrong with a kernel's file, as far as its headers tell. The firmware starts EFI programs alone.
func checkKernel(path string, efi bool) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := kernelFits(f, info.Size(), efi); err != nil {
		return fmt.Errorf("%s cannot be booted: %w", path, err)
	}
	return nil
}

func kernelFits(r io.ReaderAt, size int64, efi bool) error {
	sections, err := peSections(r)
	switch {
	case err == nil:
		for name, s := range sections {
			if s.offset+int64(s.raw) > size {
				return fmt.Errorf("it is cut off in its section %q", clip(name))
			}
		}
	case efi:
		return fmt.Errorf("it is no EFI program: %w", err)
	}
	// The Linux/x86 boot protocol: at 0x1f1 the number of sectors before the kernel proper, at 0x1f4 the size of that in units of 16 bytes.
	const setupSectors, kernelSize, magic = 0x1f1, 0x1f4, 0x202
	head := make([]byte, magic+4)
	if _, err := r.ReadAt(head, 0); err != nil || string(head[magic:]) != "HdrS" {
		return nil // another architecture's
	}
	sectors := int64(head[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	if need := (sectors+1)*512 + 16*int64(binary.LittleEndian.Uint32(head[kernelSize:])); need > size {
		return fmt.Errorf("it has %d bytes, and should have %d", size, need)
	}
	return nil
}

// hasContent says whether a path is a regular file that is not empty: a power cut may leave a file without its content.
func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// missing says which file of the entry is not there.
func (e loaderEntry) missing() error {
	if len(e.files) == 0 {
		return fmt.Errorf("boot entry %q names no kernel", clip(e.id))
	}
	for _, places := range e.files {
		if !slices.ContainsFunc(places, hasContent) {
			return fmt.Errorf("boot entry %q needs %q, which is missing or empty", clip(e.id), clip(places[0]))
		}
	}
	return nil
}
