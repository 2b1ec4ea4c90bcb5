package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The folders of an operator's machine. Examples are locked to the product and the stand-ins there.
const (
	operatorSource  = "/src/fleet"
	operatorHelper  = "/src/helper"
	operatorNixpkgs = "/src/nixpkgs"
)

// Operator is a host that plays the operator's machine: the project's source, Nix, git, ssh with the lab's key.
type Operator struct {
	*Host
}

// UpOperator boots a host and makes an operator's machine of it.
func (l *Lab) UpOperator(ctx context.Context, name string, spec Spec, say func(string)) (*Operator, error) {
	h, err := l.Up(ctx, name, spec, say)
	if err != nil {
		return nil, err
	}
	o := &Operator{Host: h}
	if err := o.Put(ctx, l.Key(), "/root/.ssh/id_ed25519", 0o600); err != nil {
		return nil, err
	}
	if _, err := o.Sh(ctx, `git config --global user.name operator; git config --global user.email operator@localhost; git config --global init.defaultBranch main`); err != nil {
		return nil, err
	}
	return o, o.installSource(ctx)
}

// installSource copies what git knows of the project, and the binary that `make build` made.
func (o *Operator) installSource(ctx context.Context) error {
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = o.lab.repo
	files, err := list.Output()
	if err != nil {
		return fmt.Errorf("list the project's files: %w", err)
	}
	if err := o.unpack(ctx, o.lab.repo, existing(o.lab.repo, files), operatorSource); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.lab.repo, "bin/fleet-helper")); err != nil {
		return fmt.Errorf("the helper is not built: %w\nrun: make build", err)
	}
	if err := o.unpack(ctx, o.lab.repo, []byte("bin/fleet-helper\x00VERSION\x00"), operatorHelper); err != nil {
		return err
	}
	// The stand-in takes the binary from a folder beside its flake.nix, so it is copied and the folder filled.
	_, err = o.Sh(ctx, `rm -rf "$2"; cp -r "$1"/checks/offline/nixpkgs "$2"; rm -rf "$2"/helper-missing; cp -r "$3" "$2"/helper-missing`,
		operatorSource, operatorNixpkgs, operatorHelper)
	return err
}

// existing leaves out what git still knows but is deleted in the work tree.
func existing(root string, files []byte) []byte {
	var kept bytes.Buffer
	for _, name := range bytes.Split(files, []byte{0}) {
		if _, err := os.Lstat(filepath.Join(root, string(name))); len(name) > 0 && err == nil {
			kept.Write(append(name, 0))
		}
	}
	return kept.Bytes()
}

// unpack replaces a folder of the operator's by files below root; the list ends each name with NUL.
func (o *Operator) unpack(ctx context.Context, root string, files []byte, to string) error {
	pack := exec.CommandContext(ctx, "tar", "--create", "--null", "--files-from=-", "--owner=0", "--group=0")
	pack.Dir = root
	pack.Stdin = bytes.NewReader(files)
	archive, err := pack.Output()
	if err != nil {
		return fmt.Errorf("pack %s: %w", root, err)
	}
	cmd, err := o.Command(ctx, "sh", "-euc", `rm -rf "$1"; mkdir -p "$1"; tar --extract --directory="$1"`, "sh", to)
	if err != nil {
		return err
	}
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", to, err, out)
	}
	return nil
}

// Project copies an example of the project into a folder of the operator's, locks its inputs to the
// project's source and the offline stand-ins, and commits it, as a user's flake would be.
func (o *Operator) Project(ctx context.Context, example, dir string) error {
	_, err := o.Sh(ctx, `
rm -rf "$2"
mkdir -p "$(dirname "$2")"
cp -r "`+operatorSource+`/$1" "$2"
cd "$2"
git init --quiet
git add --all
nix flake lock --override-input fleet path:`+operatorSource+` \
  --override-input nixpkgs path:`+operatorNixpkgs+` \
  --override-input flake-parts path:`+operatorSource+`/checks/offline/flake-parts
git add --all
git commit --quiet --message "Example"`, example, dir)
	return err
}

// Trust tells the operator's ssh the keys and names of hosts, as if its owner had checked their fingerprints.
func (o *Operator) Trust(ctx context.Context, hosts ...*Host) error {
	var known, names strings.Builder
	for _, h := range hosts {
		key, err := h.HostKey()
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s,%s %s\n", h.Name, h.Spec.Address, key)
		fmt.Fprintf(&names, "%s %s\n", h.Spec.Address, h.Name)
	}
	_, err := o.Sh(ctx, `mkdir -p /root/.ssh; printf %s "$1" >/root/.ssh/known_hosts; printf %s "$2" >>/etc/hosts`, known.String(), names.String())
	return err
}
