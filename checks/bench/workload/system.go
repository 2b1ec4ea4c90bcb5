package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// source is a Debian package as recipes use it.
type source struct {
	debianPackage
	// patched packages get other bytes, and another version.
	patched bool
}

// sources opens package files, in their order.
func sources(ctx context.Context, files []string) ([]source, error) {
	var all []source
	for _, file := range files {
		p, err := openPackage(ctx, file)
		if err != nil {
			return nil, err
		}
		all = append(all, source{debianPackage: p})
	}
	return all, nil
}

// patch marks the packages of a patch release: one in eight, chosen by the seed.
func patch(all []source) []source {
	all = slices.Clone(all)
	r := random("which packages a patch release changes")
	for _, i := range r.Perm(len(all))[:(len(all)+7)/8] {
		all[i].patched = true
	}
	return all
}

// system makes the recipes of a system: packages, its own configuration, and what holds them together, last.
func system(ctx context.Context, all []source) []*recipe {
	var recipes []*recipe
	byName := map[string]*recipe{}
	for _, s := range all {
		r := packageRecipe(ctx, s, byName)
		byName[s.name] = r
		recipes = append(recipes, r)
	}
	packages := slices.Clone(recipes)
	tiny := configuration("system", tinyPaths, packages)
	etc := links("etc", tiny, func(i int) string { return fmt.Sprintf("etc/%04d-%s", i, tiny[i].name) })
	environment := environmentRecipe(packages)
	top := &recipe{name: "nixos-system-bench-26.05", content: "top", refs: []*recipe{etc, environment}}
	top.tree = func(_ string, refs []string) (*node, error) {
		root := &node{children: map[string]*node{}}
		root.add("etc", &node{target: refs[0] + "/etc"})
		// Not sw, where NixOS has it: the planted programs do not run, and the hosts' own look there first.
		root.add("environment", &node{target: refs[1]})
		root.add("nixos-version", &node{content: []byte("26.05.bench\n")})
		return root, nil
	}
	recipes = append(recipes, tiny...)
	return append(recipes, etc, environment, top)
}

func packageRecipe(ctx context.Context, s source, known map[string]*recipe) *recipe {
	r := &recipe{name: s.name + "-" + s.version, content: filepath.Base(s.file)}
	if s.patched {
		r.name += ".1"
		r.content += " patched"
	}
	for _, name := range s.depends {
		if ref := known[name]; ref != nil && !slices.Contains(r.refs, ref) {
			r.refs = append(r.refs, ref)
		}
	}
	r.tree = func(self string, refs []string) (*node, error) {
		root, err := s.tree(ctx)
		if err != nil {
			return nil, err
		}
		if s.patched {
			root.patch(random("patch of " + s.name))
		}
		root.plant(self, refs)
		return root, nil
	}
	return r
}

// links makes a path of symlinks to others, each below the name that at gives it.
func links(name string, to []*recipe, at func(int) string) *recipe {
	r := &recipe{name: name, content: "links", refs: to}
	r.tree = func(_ string, refs []string) (*node, error) {
		root := &node{children: map[string]*node{}}
		for i, ref := range refs {
			root.add(at(i), &node{target: ref})
		}
		return root, nil
	}
	return r
}

// environmentRecipe makes what Nix calls system-path: a symlink to each of the packages' programs.
func environmentRecipe(packages []*recipe) *recipe {
	r := &recipe{name: "system-path", content: "environment", refs: packages}
	r.tree = func(_ string, refs []string) (*node, error) {
		root := &node{children: map[string]*node{}}
		for i, p := range packages {
			tree, err := p.tree(p.path, nil)
			if err != nil {
				return nil, err
			}
			for _, dir := range []string{"bin", "sbin", "lib"} {
				sub := tree.children[dir]
				if sub == nil {
					continue
				}
				for name := range sub.children {
					root.add(path.Join(dir, name), &node{target: refs[i] + "/" + dir + "/" + name})
				}
			}
		}
		return root, nil
	}
	return r
}

// random is a source of numbers that follows from what they are for alone.
func random(purpose string) *rand.Rand {
	var seed [32]byte
	copy(seed[:], purpose)
	for i, b := range []byte(purpose) {
		seed[i%32] ^= b * byte(i)
	}
	return rand.New(rand.NewChaCha8(seed))
}

// patchEvery is how far apart a recompiled file's other addresses are, in bytes.
const patchEvery = 4096

// patch changes the tree as a patch release does: in one file of four some instructions came in, and what refers to what lies
// behind them has changed here and there. At least one file changes.
func (n *node) patch(r *rand.Rand) {
	var files []*node
	_ = n.walk("", func(_ string, n *node) error { // the visitor does not fail
		if len(n.content) > elfHead {
			files = append(files, n)
		}
		return nil
	})
	for i, file := range files {
		if i > 0 && r.IntN(4) > 0 {
			continue
		}
		inserted := make([]byte, 48)
		for i := range inserted {
			inserted[i] = byte(r.Uint32())
		}
		at := elfHead + r.IntN(len(file.content)-elfHead)
		file.content = slices.Concat(file.content[:at], inserted, file.content[at:])
		for i := at + len(inserted); i < len(file.content); i += 1 + r.IntN(2*patchEvery) {
			file.content[i] += 48
		}
	}
}

// configuration makes tiny paths, as the modules of a system do: most are one text file that refers to a package and sometimes to another tiny path.
func configuration(purpose string, count int, packages []*recipe) []*recipe {
	var all []*recipe
	for i := range count {
		r := random(fmt.Sprintf("%s %d", purpose, i))
		word := words[r.IntN(len(words))] + "-" + words[r.IntN(len(words))]
		t := &recipe{content: fmt.Sprintf("%s %d", purpose, i)}
		for range r.IntN(3) {
			if len(packages) > 0 {
				t.refs = append(t.refs, packages[r.IntN(len(packages))])
			}
		}
		if len(all) > 0 && r.IntN(3) == 0 {
			t.refs = append(t.refs, all[r.IntN(len(all))])
		}
		kind := r.IntN(3)
		t.name = [...]string{"unit-" + word + ".service", word + ".conf", word + "-start"}[kind]
		t.tree = func(_ string, refs []string) (*node, error) { return tinyTree(kind, word, refs), nil }
		all = append(all, t)
	}
	return all
}

func tinyTree(kind int, word string, refs []string) *node {
	r := random(fmt.Sprint(word, kind, len(refs)))
	var b strings.Builder
	if kind == 2 {
		b.WriteString("#!/bin/sh\nset -eu\n")
	} else {
		fmt.Fprintf(&b, "[Unit]\nDescription=%s\nAfter=network.target\n\n[Service]\n", word)
	}
	for range 5 + r.IntN(40) {
		fmt.Fprintf(&b, "%s-%s=%d\n", words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(100000))
	}
	for _, ref := range refs {
		fmt.Fprintf(&b, "ExecStart=%s/bin/%s --config %s\n", ref, words[r.IntN(len(words))], words[r.IntN(len(words))])
	}
	file := &node{content: []byte(b.String()), executable: kind == 2}
	root := &node{children: map[string]*node{}}
	switch kind {
	case 0:
		root.add(word+".service", file)
	case 1:
		return file
	default:
		root.add("bin/"+word+"-start", file)
	}
	return root
}

var words = strings.Fields(`acme audit backup boot borg cache cert chrony clamav cloud cron cups dbus dhcp disk dns docker dovecot exporter fail2ban fetch firewall
fonts gateway getty gitea grafana hardware haproxy home host ingress init journal kernel keepalived keys kmod kubelet ldap libvirt locale login loki mail maria
metrics minio modules monitor mosquitto mount mysql network nginx node nscd ntp oom password pipewire podman polkit postfix postgres power prometheus proxy rabbit redis registry resolve
restic root rsync samba scrub sendmail session shadow smart snmp sound sshd storage sudo swap sysctl syslog systemd tailscale timer tmpfiles tor trim udev unbound update user vault vector
wireguard xserver zabbix zfs zram`)
