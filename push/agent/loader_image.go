package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

const (
	// maxSections bounds the sections of an EFI image; PE allows 96.
	maxSections = 96
	// maxCommandLine bounds the command line in an image, in bytes.
	maxCommandLine = 64 << 10
)

// readImage reads a unified kernel image (uapi-group.org): an EFI program whose section .cmdline is the kernel's command line.
func readImage(path string) (bootEntry, error) {
	f, err := openRegular(path)
	if err != nil {
		return bootEntry{}, err
	}
	defer f.Close()
	entry, err := parseImage(strings.ToLower(filepath.Base(path)), f)
	entry.files = [][]string{{path}}
	return entry, err
}

// parseImage reads the headers and the small sections alone.
func parseImage(name string, r io.ReaderAt) (bootEntry, error) {
	var e bootEntry
	e.id, e.bad, e.counted = entryID(name)
	sections, err := peSections(r)
	if err != nil {
		return e, err
	}
	command, ok := sections[".cmdline"]
	if !ok || command.size > maxCommandLine {
		return e, errors.New("the image has no command line")
	}
	text := make([]byte, command.size)
	if _, err := r.ReadAt(text, command.offset); err != nil {
		return e, err
	}
	e.options = string(bytes.TrimRight(text, "\x00\n"))
	// Its images name the kernel by path and hash, where others contain it.
	_, kernel := sections[".linuxh"]
	_, initrd := sections[".initrdh"]
	e.lanzaboote = kernel || initrd
	// systemd-boot sorts images by what .osrel says. NixOS gives all of its systems one name, and a version that counts up with the
	// file's name, so the name's order is theirs.
	return e, nil
}

// peSection is where a section lies. Its size is what is used of raw, the room that it takes in the file.
type peSection struct {
	offset    int64
	size, raw uint32
}

// peSections reads an image's table of sections (Microsoft PE format, "COFF file header" and "Section table").
func peSections(r io.ReaderAt) (map[string]peSection, error) {
	const (
		dosHeader     = 64
		offsetOfCOFF  = 0x3c
		coffHeader    = 24
		sectionHeader = 40
	)
	dos := make([]byte, dosHeader)
	if _, err := r.ReadAt(dos, 0); err != nil {
		return nil, err
	}
	start := int64(binary.LittleEndian.Uint32(dos[offsetOfCOFF:]))
	coff := make([]byte, coffHeader)
	if _, err := r.ReadAt(coff, start); err != nil {
		return nil, err
	}
	count := int(binary.LittleEndian.Uint16(coff[6:]))
	if string(dos[:2]) != "MZ" || string(coff[:4]) != "PE\x00\x00" || count > maxSections {
		return nil, fmt.Errorf("not an EFI image (%d sections)", count)
	}
	table := make([]byte, count*sectionHeader)
	if _, err := r.ReadAt(table, start+coffHeader+int64(binary.LittleEndian.Uint16(coff[20:]))); err != nil {
		return nil, err
	}
	sections := make(map[string]peSection)
	for ; len(table) > 0; table = table[sectionHeader:] {
		name, _, _ := bytes.Cut(table[:8], []byte{0})
		used, raw := binary.LittleEndian.Uint32(table[8:]), binary.LittleEndian.Uint32(table[16:])
		sections[string(name)] = peSection{int64(binary.LittleEndian.Uint32(table[20:])), min(used, raw), raw}
	}
	return sections, nil
}
