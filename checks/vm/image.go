//go:build vm

package vm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// linux is the unpacked kernel package, see checks/setup.
const linux = "../../bin/vm/linux"

const rootUUID = "0f1ee700-0000-4000-8000-000000000001"

// The systems of a machine. Each is a toplevel in the store; those after the second are broken in a way that only a boot shows.
type kind struct {
	name string
	// params are on the kernel's command line, beside what all have. fault is what its init does before anything else.
	params, fault string
	// noInit has no init; badInitrd and badKernel are not what they are called.
	noInit, badInitrd, badKernel bool
}

func kinds() []kind {
	return []kind{
		{name: "old"},
		{name: "new"},
		{name: "panics", fault: "echo c >/proc/sysrq-trigger; sleep 100"},
		{name: "init-missing", noInit: true},
		{name: "root-missing", params: "root=/dev/vdz"},
		{name: "initrd-damaged", badInitrd: true},
		{name: "kernel-damaged", badKernel: true},
	}
}

// storeName is a store path. Its hash is made up: of the alphabet of hashes it has no "e".
func storeName(name string) string {
	hash := fnv.New128a()
	hash.Write([]byte(name)) // never fails
	return "/nix/store/" + strings.ReplaceAll(hex.EncodeToString(hash.Sum(nil)), "e", "z") + "-" + name
}

// toplevel is the store path of a system.
func toplevel(name string) string { return storeName("nixos-system-" + name) }

// image builds the disks of a kind of machine, once, into dir.
type image struct {
	dir string
	// efi says that the machine has EFI and systemd-boot; else it has a BIOS and GRUB.
	efi    bool
	helper string
	guest  string
}

func (m image) build() error {
	tree := filepath.Join(m.dir, "tree")
	if err := m.root(tree); err != nil {
		return err
	}
	if m.efi {
		if err := m.esp(tree); err != nil {
			return err
		}
		return run("mke2fs", "-q", "-F", "-t", "ext4", "-U", rootUUID, "-d", tree, filepath.Join(m.dir, "root.img"), "96M")
	}
	return m.grubDisk(tree)
}

func (m image) rootDevice() string {
	if m.efi {
		return "/dev/vdb"
	}
	return "/dev/vda1"
}

func (m image) kernel() (string, error) {
	found, err := filepath.Glob(filepath.Join(linux, "boot", "vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("there is no kernel in %s: run checks/setup vm", linux)
	}
	return found[0], nil
}

// root makes the tree of the root file system.
func (m image) root(tree string) error {
	for _, dir := range []string{"bin", "proc", "sys", "dev", "run", "tmp", "root", "boot", "etc", "modules", "nix/store", "nix/var/nix/profiles/system-profiles", "nix/var/fleet"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	modules := []string{"fat", "vfat", "nls_cp437", "nls_ascii", "efivarfs"}
	if !m.efi {
		modules = nil
	}
	if err := copyModules(filepath.Join(tree, "modules"), modules); err != nil {
		return err
	}
	if err := copyFile("/bin/busybox", filepath.Join(tree, "bin", "busybox"), 0o755); err != nil {
		return err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for name, program := range map[string]string{"fleet-helper": m.helper, "guest": m.guest} {
		if err := copyFile(program, filepath.Join(tree, "bin", name), 0o755); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(tree, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n", 0o644); err != nil {
		return err
	}
	for _, k := range kinds() {
		if err := m.system(tree, k); err != nil {
			return err
		}
	}
	profiles := filepath.Join(tree, "nix/var/nix/profiles")
	if err := os.Symlink(toplevel("old"), filepath.Join(profiles, "system-1-link")); err != nil {
		return err
	}
	return os.Symlink("system-1-link", filepath.Join(profiles, "system"))
}

// system makes a toplevel, with what it refers to.
func (m image) system(tree string, k kind) error {
	kernel, err := m.kernel()
	if err != nil {
		return err
	}
	image, err := os.ReadFile(kernel)
	if err != nil {
		return err
	}
	initrd, err := stage1()
	if err != nil {
		return err
	}
	kernelName, initrdName := storeName("linux"), storeName("initrd-linux")
	if k.badKernel {
		kernelName, image = storeName("linux-damaged"), image[:len(image)/2]
	}
	if k.badInitrd {
		initrdName, initrd = storeName("initrd-damaged"), bytes.Repeat([]byte("this is no initrd "), 1000)
	}
	top := toplevel(k.name)
	files := map[string]string{
		kernelName + "/bzImage": string(image), initrdName + "/initrd": string(initrd),
		top + "/nixos-version": "26.05", top + "/boot.json": "{}", top + "/init-interface-version": "systemd 2",
		// The last root= and init= count.
		top + "/kernel-params": strings.TrimSpace("console=ttyS0 quiet panic=1 nokaslr mitigations=off root=" + m.rootDevice() + " " + k.params),
	}
	loader := "grub"
	if m.efi {
		loader = "systemd_boot"
	}
	fill := strings.NewReplacer("@system@", top, "@loader@", loader, "@fault@", k.fault, "@uuid@", rootUUID, "@header@", "/etc/grub.cfg.head")
	for to, from := range map[string]string{"/bin/switch-to-configuration": "switch-to-configuration", "/init": "init", "/etc/grub.cfg.head": "grub.cfg"} {
		text, err := os.ReadFile(filepath.Join("testdata", from))
		if err != nil {
			return err
		}
		if to != "/etc/grub.cfg.head" {
			to = top + to
		}
		files[to] = fill.Replace(string(text))
	}
	if k.noInit {
		delete(files, top+"/init")
	}
	for name, text := range files {
		if err := write(filepath.Join(tree, name), text, 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"kernel": kernelName + "/bzImage", "initrd": initrdName + "/initrd"} {
		if err := os.Symlink(target, filepath.Join(tree, top, name)); err != nil {
			return err
		}
	}
	return nil
}

// stage1 is an initrd: a cpio archive in the form "newc".
func stage1() ([]byte, error) {
	dir, err := os.MkdirTemp("", "modules")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := copyModules(dir, []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"}); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	inode := 0
	add := func(name string, mode int, content []byte) {
		inode++
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&out)
		out.Write(content)
		pad(&out)
	}
	for _, name := range []string{"bin", "modules"} {
		add(name, 0o040755, nil)
	}
	files := map[string]string{"init": "testdata/stage1", "bin/busybox": "/bin/busybox"}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		files["modules/"+name.Name()] = filepath.Join(dir, name.Name())
	}
	for name, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		add(name, 0o100755, content)
	}
	add("TRAILER!!!", 0, nil)
	return out.Bytes(), nil
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}

// copyModules copies modules of the kernel, and the order in which they are to be loaded.
func copyModules(dir string, names []string) error {
	for _, name := range names {
		found := ""
		err := filepath.WalkDir(filepath.Join(linux, "lib", "modules"), func(path string, _ fs.DirEntry, err error) error {
			if filepath.Base(path) == name+".ko" {
				found = path
			}
			return err
		})
		if err != nil || found == "" {
			return fmt.Errorf("the kernel has no module %s: %w", name, err)
		}
		if err := copyFile(found, filepath.Join(dir, name+".ko"), 0o644); err != nil {
			return err
		}
	}
	order := ""
	for _, name := range names {
		order += name + ".ko\n"
	}
	return write(filepath.Join(dir, "order"), order, 0o644)
}

// esp makes the EFI partition, a whole disk, with systemd-boot and an entry for the old system.
func (m image) esp(tree string) error {
	esp := filepath.Join(m.dir, "esp")
	name := func(path string) string {
		return strings.ReplaceAll(strings.TrimPrefix(path, "/nix/store/"), "/", "-") + ".efi"
	}
	linux, initrd := storeName("linux")+"/bzImage", storeName("initrd-linux")+"/initrd"
	for _, path := range []string{linux, initrd} {
		if err := copyFile(filepath.Join(tree, path), filepath.Join(esp, "EFI/nixos", name(path)), 0o644); err != nil {
			return err
		}
	}
	params, err := os.ReadFile(filepath.Join(tree, toplevel("old"), "kernel-params"))
	if err != nil {
		return err
	}
	if err := copyFile("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", filepath.Join(esp, "EFI/BOOT/BOOTX64.EFI"), 0o644); err != nil {
		return err
	}
	entry := "title NixOS\nsort-key nixos\nversion Generation 1 NixOS 26.05\nlinux /EFI/nixos/" + name(linux) + "\ninitrd /EFI/nixos/" + name(initrd) +
		"\noptions init=" + toplevel("old") + "/init " + string(params) + "\n"
	if err := write(filepath.Join(esp, "loader/entries/nixos-generation-1.conf"), entry, 0o644); err != nil {
		return err
	}
	if err := write(filepath.Join(esp, "loader/loader.conf"), "timeout 0\ndefault nixos-generation-1.conf\n", 0o644); err != nil {
		return err
	}
	disk := filepath.Join(m.dir, "esp.img")
	if err := truncate(disk, 64<<20); err != nil {
		return err
	}
	if err := run("mkfs.vfat", "-F", "32", "-n", "ESP", disk); err != nil {
		return err
	}
	if err := run("mcopy", "-s", "-i", disk, filepath.Join(esp, "EFI"), filepath.Join(esp, "loader"), "::/"); err != nil {
		return err
	}
	return copyFile("/usr/share/OVMF/OVMF_VARS_4M.fd", filepath.Join(m.dir, "vars.img"), 0o644)
}

// The disk of a machine with a BIOS: a partition table, GRUB before the first partition, and that partition.
const (
	sector         = 512
	partitionStart = 2048
	grubDiskSize   = 128 << 20
)

func (m image) grubDisk(tree string) error {
	if err := m.grubFiles(tree); err != nil {
		return err
	}
	disk := filepath.Join(m.dir, "disk.img")
	if err := truncate(disk, grubDiskSize); err != nil {
		return err
	}
	size := grubDiskSize/1024 - partitionStart/2
	if err := run("mke2fs", "-q", "-F", "-t", "ext4", "-U", rootUUID, "-d", tree, "-E", fmt.Sprintf("offset=%d", partitionStart*sector), disk, fmt.Sprintf("%dk", size)); err != nil {
		return err
	}
	core := filepath.Join(m.dir, "core.img")
	modules := []string{"biosdisk", "part_msdos", "ext2", "normal", "linux", "search", "search_fs_uuid", "loadenv", "test", "echo", "boot", "minicmd"}
	if err := run(append([]string{"grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core}, modules...)...); err != nil {
		return err
	}
	boot, err := os.ReadFile("/usr/lib/grub/i386-pc/boot.img")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	if len(text) > (partitionStart-1)*sector {
		return errors.New("GRUB does not fit before the partition")
	}
	// One partition of Linux, active; the geometry is not used.
	mbr := append(slices.Clone(boot[:446]), make([]byte, 66)...)
	mbr[446], mbr[450] = 0x80, 0x83
	binary.LittleEndian.PutUint32(mbr[454:], partitionStart)
	binary.LittleEndian.PutUint32(mbr[458:], grubDiskSize/sector-partitionStart)
	mbr[510], mbr[511] = 0x55, 0xaa
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(mbr, text...), 0)
	return errors.Join(err, f.Close())
}

// grubFiles writes what the old system's own program would have written.
func (m image) grubFiles(tree string) error {
	head, err := os.ReadFile(filepath.Join(tree, "etc/grub.cfg.head"))
	if err != nil {
		return err
	}
	params, err := os.ReadFile(filepath.Join(tree, toplevel("old"), "kernel-params"))
	if err != nil {
		return err
	}
	item := func(title string) string {
		return "menuentry \"" + title + "\" {\n  linux ($drive1)" + storeName("linux") + "/bzImage init=" + toplevel("old") + "/init " + string(params) +
			"\n  initrd ($drive1)" + storeName("initrd-linux") + "/initrd\n}\n"
	}
	config := string(head) + item("NixOS - Default") + "submenu \"NixOS - All configurations\" {\n" + item("NixOS - Configuration 1 (2026-05-01 - 26.05)") + "}\n"
	if err := write(filepath.Join(tree, "boot/grub/grub.cfg"), config, 0o644); err != nil {
		return err
	}
	return run("grub-editenv", filepath.Join(tree, "boot/grub/grubenv"), "create")
}

func truncate(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func write(path, text string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), mode)
}

func copyFile(from, to string, mode fs.FileMode) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return write(to, string(text), mode)
}

func run(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}
