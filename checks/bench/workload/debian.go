package workload

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// archive fetches packages of one Debian suite, whatever suite the machine itself has.
type archive struct {
	suite string
	dir   string
}

// fetch returns the files of packages, in their order, and leaves out what the suite does not have. What was fetched once is kept, so that
// the closures stay what they are while the suite moves on.
func (a *archive) fetch(ctx context.Context, packages []string, say func(string)) ([]string, error) {
	list := sha256.Sum256([]byte(strings.Join(packages, "\n")))
	dir := filepath.Join(a.dir, a.suite+"-"+hex.EncodeToString(list[:6]))
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		say(fmt.Sprintf("fetching %d packages of %s", len(packages), a.suite))
		if err := a.download(ctx, packages, dir); err != nil {
			return nil, fmt.Errorf("fetch packages of %s: %w", a.suite, err)
		}
	}
	var files []string
	for _, name := range packages {
		found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

// download fills dir, as a whole or not at all.
func (a *archive) download(ctx context.Context, packages []string, dir string) error {
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	for _, sub := range []string{"apt/lists/partial", "apt/cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(tmp, sub), 0o755); err != nil {
			return err
		}
	}
	uri, err := repository(ctx)
	if err != nil {
		return err
	}
	source := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + uri + " " + a.suite + " main\n"
	for name, content := range map[string]string{"sources.list": source, "status": ""} {
		if err := os.WriteFile(filepath.Join(tmp, "apt", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	apt := filepath.Join(tmp, "apt")
	options := []string{
		"-qq", "-o", "Dir::Etc::sourcelist=" + apt + "/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + apt + "/lists",
		"-o", "Dir::State::status=" + apt + "/status", "-o", "Dir::Cache=" + apt + "/cache", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none",
	}
	if _, err := output(ctx, tmp, "apt-get", append(options, "update")...); err != nil {
		return err
	}
	known, err := output(ctx, tmp, "apt-cache", append(options[1:], "pkgnames")...)
	if err != nil {
		return err
	}
	names := strings.Fields(string(known))
	slices.Sort(names)
	wanted := slices.DeleteFunc(slices.Clone(packages), func(name string) bool {
		_, there := slices.BinarySearch(names, name)
		return !there
	})
	if _, err := output(ctx, tmp, "apt-get", slices.Concat(options, []string{"download"}, wanted)...); err != nil {
		return err
	}
	if err := os.RemoveAll(apt); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// repository is where the machine's own apt takes Debian's packages from.
func repository(ctx context.Context) (string, error) {
	out, err := output(ctx, "/", "apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(SUITE)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) == 5 && f[1] == "Debian" && f[2] == "main" && !strings.Contains(f[4], "-") {
			return f[0], nil
		}
	}
	return "", errors.New("apt knows no Debian repository: run apt-get update")
}

// debianPackage is one package file.
type debianPackage struct {
	file, name, version string
	depends             []string
}

func openPackage(ctx context.Context, file string) (debianPackage, error) {
	p := debianPackage{file: file}
	out, err := output(ctx, "/", "dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Pre-Depends}, ${Depends}\n", file)
	if err != nil {
		return p, err
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 3 {
		return p, fmt.Errorf("package %q does not say what it is", file)
	}
	p.name, p.version, p.depends = lines[0], upstream(lines[1]), names(lines[2])
	return p, nil
}

// upstream takes epoch and revision off a version, and what a store path's name may not hold.
func upstream(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.LastIndexByte(version, '-'); i > 0 {
		version = version[:i]
	}
	return strings.ReplaceAll(version, "~", "-")
}

// names lists the packages that a relationship field names, the first of each choice.
func names(field string) []string {
	var found []string
	for _, item := range strings.FieldsFunc(field, func(r rune) bool { return r == ',' }) {
		if f := strings.FieldsFunc(item, func(r rune) bool { return strings.ContainsRune(" |(:", r) }); len(f) > 0 {
			found = append(found, f[0])
		}
	}
	return found
}

// left are folders that Nix packages do not have, or have in outputs of their own.
var left = [...]string{"share/doc/", "share/man/", "share/locale/", "share/info/", "share/lintian/", "share/bug/"}

// tree reads the package's files, as a Nix package would have them: without /usr in front.
func (p debianPackage) tree(ctx context.Context) (*node, error) {
	data, err := output(ctx, "/", "dpkg-deb", "--fsys-tarfile", p.file)
	if err != nil {
		return nil, err
	}
	root := &node{children: map[string]*node{}}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return root, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", p.file, err)
		}
		name := strings.TrimPrefix(path.Clean("/" + h.Name)[1:], "usr/")
		if slices.ContainsFunc(left[:], func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		n := &node{}
		switch h.Typeflag {
		case tar.TypeReg:
			n.executable = h.Mode&0o111 != 0
			if n.content, err = io.ReadAll(r); err != nil {
				return nil, fmt.Errorf("read %q: %w", p.file, err)
			}
		case tar.TypeSymlink:
			n.target = h.Linkname
		case tar.TypeLink:
			n.target = "/usr/" + strings.TrimPrefix(path.Clean("/" + h.Linkname)[1:], "usr/")
		default:
			continue // folders come by what is in them
		}
		root.add(name, n)
	}
}

// output runs a program in a folder and returns what it prints.
func output(ctx context.Context, dir string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}
