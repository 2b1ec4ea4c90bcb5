package evaluator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-jsonnet"
)

const (
	// maxImports and maxImported bound what an evaluation reads: files, and bytes of all together.
	maxImports  = 1000
	maxImported = 256 << 20
)

// importer reads imports from the given folders only. [os.Root] holds also against symbolic links that lead out of them.
type importer struct {
	dirs  []string
	roots []*os.Root
	// files holds each file once it was read, by the path that the interpreter knows it under.
	files map[string]imported
	bytes int64
}

type imported struct {
	contents jsonnet.Contents
	// root is the folder's number, dir the file's folder in it.
	root int
	dir  string
}

var _ jsonnet.Importer = (*importer)(nil)

func newImporter(dirs []string) (*importer, error) {
	i := &importer{dirs: dirs, files: map[string]imported{}}
	for _, dir := range dirs {
		root, err := os.OpenRoot(dir)
		if err != nil {
			i.close()
			return nil, fmt.Errorf("open folder of imports: %w", err)
		}
		i.roots = append(i.roots, root)
	}
	return i, nil
}

func (i *importer) close() {
	for _, root := range i.roots {
		_ = root.Close()
	}
}

// Import looks beside the importing file first, then in each folder.
func (i *importer) Import(from, name string) (jsonnet.Contents, string, error) {
	if path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") || !filepath.IsLocal(name) {
		return jsonnet.Contents{}, "", fmt.Errorf("import %q: only paths below the folders of imports are allowed, without \"..\"", name)
	}
	type place struct {
		root int
		file string
	}
	var places []place
	if importing, ok := i.files[from]; ok {
		places = append(places, place{importing.root, path.Join(importing.dir, name)})
	}
	for root := range i.roots {
		places = append(places, place{root, path.Clean(name)})
	}
	for _, p := range places {
		found := path.Join(i.dirs[p.root], p.file)
		if known, ok := i.files[found]; ok {
			return known.contents, found, nil
		}
		data, err := i.read(p.root, p.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return jsonnet.Contents{}, "", fmt.Errorf("import %q: %w", name, err)
		}
		file := imported{contents: jsonnet.MakeContentsRaw(data), root: p.root, dir: path.Dir(p.file)}
		i.files[found] = file
		return file.contents, found, nil
	}
	return jsonnet.Contents{}, "", fmt.Errorf("import %q: there is no such file in %s", name, strings.Join(i.dirs, ", "))
}

// read reads a regular file; opening does not wait for the other end of a pipe.
func (i *importer) read(root int, name string) ([]byte, error) {
	if len(i.files) >= maxImports {
		return nil, fmt.Errorf("more than %d files are imported", maxImports)
	}
	f, err := i.roots[root].OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	data, err := readLimited(f, maxImported-i.bytes)
	i.bytes += int64(len(data))
	return data, err
}
