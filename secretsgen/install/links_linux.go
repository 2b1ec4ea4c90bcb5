package install

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	renderedLink   = "secrets-rendered"
	credstore      = "credstore"
	parentMode     = 0o755
	credstoreMode  = 0o700
	freshSuffix    = ".fleet-new"
	maxLinkParents = 64
)

// links makes and removes what leads into the generation in use. One that fails is a failure of its secret or template, and takes no
// other along.
func (in *installer) links(root *os.Root, earlier []record, now record) error {
	err := in.linkRendered(root, now)
	in.opt.observe("linked rendered templates")
	err = errors.Join(err, in.linkCredentials(root))
	in.linkTemplates(earlier, now)
	in.opt.observe("linked templates")
	return err
}

// linkRendered makes /run/secrets-rendered, which follows the generation by itself.
func (in *installer) linkRendered(root *os.Root, now record) error {
	if in.opt.Phase != PhaseMain {
		return nil
	}
	target := path.Join(in.opt.Phase.folder(), renderedFolder)
	is, err := root.Readlink(renderedLink)
	switch {
	case err == nil && is == target && len(now.Templates) == 0:
		err = root.Remove(renderedLink)
	case len(now.Templates) == 0:
		err = nil
	default:
		err = setLink(root, renderedLink, target, func(string) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("install secrets: link %q: %w", in.opt.below(renderedLink), err)
	}
	return nil
}

// linkCredentials makes the links for LoadCredential and ImportCredential, and removes those of this phase that are not declared any more.
func (in *installer) linkCredentials(root *os.Root) error {
	prefix := "../" + in.opt.Phase.folder() + "/"
	dir, err := in.openCredstore(root)
	for _, name := range slices.Sorted(maps.Keys(in.credentials)) {
		failed := err
		if err == nil {
			failed = setLink(dir, name, prefix+in.credentials[name], isBelow(prefix))
		}
		if failed != nil {
			in.failCredential(name, failed)
		}
		in.opt.observe("linked credential " + name)
	}
	if err != nil {
		return nil // every credential has said so, or there are none
	}
	defer dir.Close()
	entries, err := fs.ReadDir(dir.FS(), ".")
	for _, e := range entries {
		// Also what an installer that was killed has left of a link.
		target, notLink := dir.Readlink(e.Name())
		if _, wanted := in.credentials[e.Name()]; notLink == nil && !wanted && isBelow(prefix)(target) {
			err = errors.Join(err, dir.Remove(e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("install secrets: remove links of old credentials: %w", err)
	}
	return nil
}

// openCredstore opens the folder, and makes it where something is to be put into it; an error where there is none.
func (in *installer) openCredstore(root *os.Root) (*os.Root, error) {
	dir, err := root.OpenRoot(credstore)
	if !errors.Is(err, fs.ErrNotExist) || len(in.credentials) == 0 {
		return dir, err
	}
	if err := root.Mkdir(credstore, credstoreMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return root.OpenRoot(credstore)
}

func (in *installer) failCredential(name string, err error) {
	f := Failure{}
	for _, s := range in.secrets {
		if _, ok := s.Credentials[name]; ok {
			f.ID = s.ID
		}
	}
	in.report.fail(f, fmt.Errorf("link credential %q: %w", in.opt.below(credstore, name), err))
}

// linkTemplates makes the links at the paths of templates, and removes those that are not declared any more.
func (in *installer) linkTemplates(earlier []record, now record) {
	wanted := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(now.Templates)) {
		at := now.Templates[name].Path
		if at == "" {
			continue
		}
		wanted[at] = true
		if err := in.linkTemplate(at, name); err != nil {
			in.report.fail(Failure{Template: name}, fmt.Errorf("link %q: %w", at, err))
		}
	}
	for _, t := range in.templates {
		wanted[t.Path] = true // one that could not be rendered is still declared
	}
	for _, r := range earlier {
		for _, name := range slices.Sorted(maps.Keys(r.Templates)) {
			at := r.Templates[name].Path
			if at == "" || wanted[at] {
				continue
			}
			if err := in.unlinkTemplate(at); err != nil {
				in.report.fail(Failure{Template: name}, fmt.Errorf("remove link %q: %w", at, err))
			}
		}
	}
}

// renderedPath is where a template of this phase is found.
func (in *installer) renderedPath(name string) string {
	if in.opt.Phase == PhaseUsers {
		return in.opt.below(in.opt.Phase.folder(), renderedFolder, name)
	}
	return in.opt.below(renderedLink, name)
}

// isOurs says whether the target of a link is a rendered template.
func (in *installer) isOurs(target string) bool {
	return path.Dir(target) == path.Dir(in.renderedPath("x"))
}

func (in *installer) linkTemplate(at, name string) error {
	dir, err := in.openParent(at, true)
	if err != nil {
		return err
	}
	defer dir.Close()
	return setLink(dir, path.Base(at), in.renderedPath(name), in.isOurs)
}

func (in *installer) unlinkTemplate(at string) error {
	dir, err := in.openParent(at, false)
	if err != nil {
		return nil // where no link can be made, none was
	}
	defer dir.Close()
	if err := removeFresh(dir, path.Base(at)); err != nil {
		return err
	}
	target, err := dir.Readlink(path.Base(at))
	if err != nil || !in.isOurs(target) {
		return nil // it is gone, or somebody else's by now
	}
	return dir.Remove(path.Base(at))
}

// openParent opens the folder of a path, one step at a time. It follows no links: a user may have made one in a folder of theirs.
func (in *installer) openParent(at string, create bool) (*os.Root, error) {
	dir, err := os.OpenRoot(in.opt.Links)
	if err != nil {
		return nil, err
	}
	parents := strings.Split(strings.Trim(path.Dir(at), "/"), "/")
	if path.Dir(at) == "/" {
		parents = nil
	}
	if len(parents) > maxLinkParents {
		dir.Close()
		return nil, fmt.Errorf("it is more than %d folders deep", maxLinkParents)
	}
	for _, name := range parents {
		next, err := step(dir, name, create)
		dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

func step(dir *os.Root, name string, create bool) (*os.Root, error) {
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err := dir.Mkdir(name, parentMode); err != nil {
			return nil, err
		}
		if err := dir.Chmod(name, parentMode); err != nil {
			return nil, err
		}
		info, err = dir.Lstat(name)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%q on the way is no folder; links are not followed there, name the folder itself", name)
	}
	return dir.OpenRoot(name)
}

func isBelow(prefix string) func(string) bool {
	return func(target string) bool { return strings.HasPrefix(target, prefix) }
}

// setLink makes a link, or changes one that is ours, by a rename. Anything else of that name stays, and is an error.
func setLink(dir *os.Root, name, target string, ours func(target string) bool) error {
	if err := removeFresh(dir, name); err != nil {
		return err
	}
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir.Symlink(target, name)
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink == 0:
		return errors.New("something else is there; remove it, or choose another name")
	}
	is, err := dir.Readlink(name)
	switch {
	case err != nil:
		return err
	case is == target:
		return nil
	case !ours(is):
		return fmt.Errorf("a link to %.200q is there; remove it, or choose another name", is)
	}
	if err := dir.Symlink(target, freshLink(name)); err != nil {
		return err
	}
	return dir.Rename(freshLink(name), name)
}

// freshLink is the name of a link before it takes the place of the one that is there.
func freshLink(name string) string { return "." + name + freshSuffix }

// removeFresh removes what an installer that was killed has left of a link.
func removeFresh(dir *os.Root, name string) error {
	if err := dir.Remove(freshLink(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
