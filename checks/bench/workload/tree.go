package workload

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strings"

	"fleet/closure/nar"
)

// node is a file, a symlink or a folder of a store path.
type node struct {
	// children are what a folder has; nil where it is none.
	children map[string]*node
	// target is where a symlink leads; empty where it is none.
	target     string
	content    []byte
	executable bool
}

// add puts a node at a name below a folder. What is there already stays, and so does a file where a folder is wanted.
func (n *node) add(name string, leaf *node) {
	dir := n
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.children[part]
		if next == nil {
			next = &node{children: map[string]*node{}}
			dir.children[part] = next
		}
		if dir = next; dir.children == nil {
			return
		}
	}
	if last := parts[len(parts)-1]; dir.children[last] == nil {
		dir.children[last] = leaf
	}
}

// walk visits the node and all below it, in the order of a NAR.
func (n *node) walk(name string, visit func(name string, n *node) error) error {
	if err := visit(name, n); err != nil {
		return err
	}
	for _, child := range slices.Sorted(maps.Keys(n.children)) {
		if err := n.children[child].walk(path.Join(name, child), visit); err != nil {
			return err
		}
	}
	return nil
}

// write writes the tree as a NAR.
func (n *node) write(w *nar.Writer) error {
	err := n.walk("", func(name string, n *node) error {
		switch {
		case n.children != nil:
			return w.Directory(name)
		case n.target != "":
			return w.Symlink(name, n.target)
		default:
			return w.File(name, n.executable, uint64(len(n.content)), bytes.NewReader(n.content))
		}
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// elfHead is how much of an ELF file comes before what the linker wrote about other libraries.
const elfHead = 4096

// plant puts store paths into the tree, where Nix has them: instead of /usr, in the first line of scripts, and in what says where an executable finds
// its libraries. Trees that differ in hashes alone keep their sizes.
func (n *node) plant(self string, refs []string) {
	_ = n.walk("", func(_ string, n *node) error { // the visitor does not fail
		switch {
		case n.children != nil:
		case n.target != "":
			n.target = strings.ReplaceAll(n.target, "/usr/", self+"/")
		default:
			n.content = plantFile(n.content, self, refs)
		}
		return nil
	})
}

func plantFile(content []byte, self string, refs []string) []byte {
	if bytes.HasPrefix(content, []byte("#!/")) {
		line, rest, _ := bytes.Cut(content, []byte("\n"))
		content = slices.Concat([]byte(interpreter(string(line), self, refs)+"\n"), rest)
	}
	content = bytes.ReplaceAll(content, []byte("/usr/"), []byte(self+"/"))
	if bytes.HasPrefix(content, []byte("\x7fELF")) && len(content) > elfHead {
		runpath := self + "/lib"
		for _, ref := range refs {
			runpath += ":" + ref + "/lib"
		}
		content = slices.Concat(content[:elfHead], []byte(runpath+"\x00"), content[elfHead:])
	}
	return content
}

// interpreter makes the first line of a script call what the package refers to.
func interpreter(line, self string, refs []string) string {
	command := strings.TrimSpace(strings.TrimPrefix(line, "#!"))
	program, args, _ := strings.Cut(command, " ")
	name := path.Base(program)
	for _, ref := range refs {
		if strings.Contains(ref, "-"+name+"-") {
			self = ref
		}
	}
	return strings.TrimSpace("#!" + self + "/bin/" + name + " " + args)
}
