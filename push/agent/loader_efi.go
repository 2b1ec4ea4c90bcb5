package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

const (
	// loaderVendor is the vendor of systemd-boot's firmware variables (systemd.io/BOOT_LOADER_INTERFACE).
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	// maxVariable bounds one variable, in bytes.
	maxVariable = 4 << 10
	// efiAttributes are those of a variable that survives a reboot and is seen by the loader and by the running system.
	efiAttributes = 7
	// immutable is the flag of ioctl_iflags(2).
	immutable = 0x10
	// featureOneShot is the bit of LoaderFeatures that says that LoaderEntryOneShot is heeded.
	featureOneShot = 1 << 3
)

func (h *Host) efiFile(name string) string {
	return filepath.Join(h.EFIVars, name+"-"+loaderVendor)
}

// efiVariable reads a variable's value; nil where there is none, or no EFI. In efivarfs four bytes of attributes come first.
func (h *Host) efiVariable(name string) ([]byte, error) {
	raw, err := readBounded(h.efiFile(name), maxVariable)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the firmware's variable %s: %w", name, err)
	case len(raw) < 4:
		return nil, nil // the kernel shows an empty file where a variable was being deleted
	}
	return raw[4:], nil
}

// efiText reads a variable of UTF-16 up to its NUL.
func (h *Host) efiText(name string) (string, error) {
	raw, err := h.efiVariable(name)
	var units []uint16
	for i := 0; i+1 < len(raw); i += 2 {
		unit := uint16(raw[i]) | uint16(raw[i+1])<<8
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units)), err
}

// setEFIText writes a variable that survives a reboot; an empty text deletes it. The firmware has it when this returns.
func (h *Host) setEFIText(name, text string) error {
	if err := h.writeEFI(name, text); err != nil {
		return fmt.Errorf("write the firmware's variable %s: %w", name, err)
	}
	return nil
}

func (h *Host) writeEFI(name, text string) error {
	path := h.efiFile(name)
	if err := makeMutable(path); err != nil {
		return err
	}
	if text == "" {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	value := []byte{efiAttributes, 0, 0, 0}
	for _, unit := range append(utf16.Encode([]rune(text)), 0) {
		value = append(value, byte(unit), byte(unit>>8))
	}
	// efivarfs takes a variable whole, in one write, and makes the file immutable once it is there.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOCTTY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	n, err := f.Write(value)
	if err == nil && n != len(value) {
		err = io.ErrShortWrite
	}
	return errors.Join(err, f.Close())
}

// makeMutable takes off the flag that efivarfs protects variables with; a file that is not there, or a file system without flags, has none.
func makeMutable(path string) error {
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}
