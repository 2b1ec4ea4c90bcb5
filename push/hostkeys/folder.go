package hostkeys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// ReadFolder reads the pinned keys, as "type base64", of a fleet's state that stands alone, without its flake: folder is what fleet-state/<fleet> is
// there. Hosts whose files cannot be read are in broken, by name. No folder is no pins.
func ReadFolder(folder string) (keys map[string][]string, broken map[string]error, err error) {
	keys, broken = map[string][]string{}, map[string]error{}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return keys, broken, ignoreMissing(err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), "hosts")
	switch {
	case err != nil:
		return keys, broken, ignoreMissing(err)
	case len(entries) > maxFiles:
		return keys, broken, fmt.Errorf("read pinned host keys: more than %d files in %q", maxFiles, folder)
	}
	for _, entry := range entries {
		host, isJSON := strings.CutSuffix(entry.Name(), ".json")
		if !isJSON || !validName(host) {
			continue
		}
		f, err := readAlone(root, path.Join("hosts", entry.Name()))
		if err != nil {
			broken[host] = err
			continue
		}
		for _, pin := range f.Recipients {
			keys[host] = append(keys[host], pin.Key)
		}
	}
	return keys, broken, nil
}

func readAlone(root *os.Root, name string) (*file, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("it is no file of at most %d bytes", maxFile)
	}
	data, err := root.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parse(data)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("read pinned host keys: %w", err)
}
