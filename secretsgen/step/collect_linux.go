package step

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"fleet/secretsgen/public"
	"fleet/secretsgen/secret"
)

// maxFiles bounds the entries of $out: the parts, and the files that are none.
const maxFiles = MaxParts + 3

// collect reads $out. What could be read comes with an error too, so that it can be kept out of messages. Nothing runs in the folder any more,
// but what did run may have made anything of it: no link is followed and nothing but regular files is opened.
func (p *place) collect() (map[string]secret.Plain, error) {
	fd, err := unix.Openat(p.fd, "out", unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &problem{fmt.Sprintf("$out is no folder any more: %v", err), "write files into $out, and leave the folder itself alone"}
	}
	out := os.NewFile(uintptr(fd), "out")
	defer out.Close()
	names, err := out.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read $out: %w", err)
	}
	slices.Sort(names)
	files := make(map[string]secret.Plain, len(names))
	var failed error
	for _, name := range names {
		file, err := readOutput(fd, name)
		if file.Len() > 0 || err == nil {
			files[name] = file
		}
		if err != nil && failed == nil {
			failed = err
		}
	}
	if len(names) > maxFiles {
		failed = &problem{fmt.Sprintf("it left more than %d files in $out", maxFiles), "write each part to a file in $out, and everything else elsewhere, such as to $TMPDIR"}
	}
	return files, failed
}

// maxOutputFile is the largest value with the line that marks it.
const maxOutputFile = secret.MaxValue + len(markEncrypted)

// readOutput reads one file of $out. Of one that is too large it returns the beginning, and an error.
func readOutput(dir int, name string) (secret.Plain, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return secret.Plain{}, fmt.Errorf("look at $out/%.80q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return secret.Plain{}, &problem{fmt.Sprintf("$out/%.80s is %s", name, typeName(st.Mode)), "a part is a plain file: copy into it what it is to hold"}
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return secret.Plain{}, &problem{fmt.Sprintf("read $out/%.80s: %v", name, err), "let the generator's own user read what it leaves in $out"}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(maxOutputFile)+1))
	if err != nil {
		return secret.NewPlain(data), fmt.Errorf("read $out/%.80s: %w", name, err)
	}
	if _, value := Unmark(secret.NewPlain(data)); value.Len() > secret.MaxValue {
		return secret.NewPlain(data), &problem{
			fmt.Sprintf("the part %.80q has more than %d bytes", name, secret.MaxValue), "a secret is a key or a password; files that are larger belong elsewhere, encrypted with one",
		}
	}
	return secret.NewPlain(data), nil
}

func typeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFLNK:
		return "a link"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

// The bounds of the search for values beside $out.
const (
	maxMarkedFiles = 256
	maxMarkedSize  = 64 << 10
)

// marked finds values that the generator has put elsewhere in its folder: what `gh` wrote and what looks like a private key. They are on their way into
// a part, or would have been, and must not be shown either.
func (p *place) marked() []secret.Plain {
	var values []secret.Plain
	left := maxMarkedFiles
	p.findMarked(p.dir, &left, &values)
	return values
}

func (p *place) findMarked(dir string, left *int, values *[]secret.Plain) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxMarkedFiles)
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case *left == 0:
			return
		case entry.IsDir():
			if path != filepath.Join(p.dir, "deps") && path != filepath.Join(p.dir, "bin") {
				p.findMarked(path, left, values)
			}
		case entry.Type().IsRegular():
			*left--
			if value, ok := readMarked(path); ok {
				*values = append(*values, value)
			}
		}
	}
}

func readMarked(path string) (secret.Plain, bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return secret.Plain{}, false
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMarkedSize))
	if err != nil {
		return secret.Plain{}, false
	}
	kind, value := Unmark(secret.NewPlain(data))
	return secret.NewPlain(bytes.TrimSpace(value.Bytes())), kind == Encrypted || public.PrivateMarker(data) != ""
}
