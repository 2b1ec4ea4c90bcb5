package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fileOf is a system's kernel or initrd.
func fileOf(file, letter string) string {
	if file == "kernel" {
		return efiImage(".text", "kernel of "+letter, ".data", strings.Repeat("data", 100))
	}
	return file + " of " + letter
}

// bootHost is a host with systems in the store, generations, and a loader that NixOS' installers, as they are told here, have written.
type bootHost struct {
	*Host
	t *testing.T
	// install writes the loader's files for all generations, with a system as the default.
	install func(b *bootHost, toplevel string)
}

// toplevelOf makes a system in the store of the tests.
func toplevelOf(t *testing.T, letter string) string {
	t.Helper()
	top := system(letter)
	for _, file := range []string{"kernel", "initrd"} {
		dir := "/nix/store/" + strings.Repeat(letter, 32) + "-" + file
		write(t, filepath.Join(dir, file), fileOf(file, letter))
		if err := os.MkdirAll(top, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, file), filepath.Join(top, file)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	return top
}

func newBootHost(t *testing.T, install func(b *bootHost, toplevel string)) *bootHost {
	t.Helper()
	b := &bootHost{Host: testHost(t), t: t, install: install}
	b.mounted("ext4", "rw", "vda2")
	write(t, b.efiFile("LoaderInfo"), efiText("systemd-boot 257.9"))
	write(t, b.efiFile("LoaderFeatures"), "\x06\x00\x00\x00\xff\x01\x00\x00\x00\x00\x00\x00")
	for i, letter := range []string{"a", "b"} {
		b.link(fmt.Sprintf("system-%d-link", i+1), toplevelOf(t, letter))
	}
	b.link("system", "system-2-link")
	toplevelOf(t, "c")
	install(b, system("b"))
	return b
}

func (b *bootHost) link(name, target string) {
	b.t.Helper()
	path := filepath.Join(b.NixVar, "profiles", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := replaceLink(target, path); err != nil {
		b.t.Fatal(err)
	}
}

// mounted says what /boot is mounted from.
func (b *bootHost) mounted(kind, options, disk string) {
	b.t.Helper()
	base := filepath.Dir(b.Boot[0])
	b.Mounts, b.BlockDevices = filepath.Join(base, "mountinfo"), filepath.Join(base, "block")
	write(b.t, b.Mounts, "21 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"+
		"33 21 254:2 / "+b.Boot[0]+" "+options+",relatime shared:17 - "+kind+" /dev/vda2 rw\n")
	write(b.t, filepath.Join(base, "devices", disk, "size"), "1")
	if err := os.MkdirAll(b.BlockDevices, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := replaceLink(filepath.Join(base, "devices", disk), filepath.Join(b.BlockDevices, "254:2")); err != nil {
		b.t.Fatal(err)
	}
}

// efiText is a variable as efivarfs shows it.
func efiText(text string) string {
	raw := []byte{7, 0, 0, 0}
	for _, c := range []byte(text) {
		raw = append(raw, c, 0)
	}
	return string(append(raw, 0, 0))
}

// installed is one that an installer writes an entry for.
type installed struct {
	profile, number, toplevel string
}

func (b *bootHost) installed() []installed {
	b.t.Helper()
	var all []installed
	for _, dir := range []string{"", "system-profiles"} {
		names, err := filepath.Glob(filepath.Join(b.NixVar, "profiles", dir, "*-link"))
		if err != nil {
			b.t.Fatal(err)
		}
		for _, name := range names {
			stem := strings.TrimSuffix(filepath.Base(name), "-link")
			i := strings.LastIndexByte(stem, '-')
			top, err := filepath.EvalSymlinks(name)
			if err != nil {
				b.t.Fatal(err)
			}
			all = append(all, installed{stem[:i], stem[i+1:], top})
		}
	}
	return all
}

// copyKernels is what all installers do; copies of systems that are no generation any more go.
func (b *bootHost) copyKernels(dir, suffix string, gens []installed) {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.Boot[0], dir)); err != nil {
		b.t.Fatal(err)
	}
	for _, g := range gens {
		for _, file := range []string{"kernel", "initrd"} {
			source, err := os.ReadFile(filepath.Join(g.toplevel, file))
			if err != nil {
				b.t.Fatal(err)
			}
			text := string(source)
			if file == "initrd" {
				text += "secrets"
			}
			write(b.t, filepath.Join(b.Boot[0], dir, b.copyName(g.toplevel, file)+suffix), text)
		}
	}
}

func (b *bootHost) copyName(toplevel, file string) string {
	path, err := filepath.EvalSymlinks(filepath.Join(toplevel, file))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimPrefix(path, "/nix/store/"), "/", "-")
}

func (b *bootHost) entry(g installed, version string) string {
	return "title NixOS\nsort-key nixos\nversion Generation " + g.number + " " + version + "\nlinux /EFI/nixos/" + b.copyName(g.toplevel, "kernel") +
		".efi\ninitrd /EFI/nixos/" + b.copyName(g.toplevel, "initrd") + ".efi\noptions init=" + g.toplevel + "/init loglevel=4\nmachine-id 0123\n"
}

// byGeneration is systemd-boot as NixOS 26.05 installs it.
func byGeneration(b *bootHost, toplevel string) {
	gens := b.installed()
	b.copyKernels("EFI/nixos", ".efi", gens)
	b.entries(gens, toplevel, func(g installed, text string) (string, string) {
		name := "nixos-generation-" + g.number + ".conf"
		if g.profile != "system" {
			name = "nixos-" + g.profile + "-generation-" + g.number + ".conf"
		}
		return name, name
	}, "default ")
}

// byHash is systemd-boot as NixOS 26.11 installs it, with tries where boots are counted.
func byHash(tries string) func(*bootHost, string) {
	return func(b *bootHost, toplevel string) {
		gens := b.installed()
		b.copyKernels("EFI/nixos", ".efi", gens)
		config := "default "
		if tries != "" {
			config = "default nixos-*\npreferred "
		}
		b.entries(gens, toplevel, func(g installed, text string) (string, string) {
			stem := fmt.Sprintf("nixos-%x", sha256.Sum256([]byte(text)))
			if g.toplevel == toplevel {
				return stem + ".conf", stem + ".conf" // blessed long ago
			}
			return stem + tries + ".conf", stem + ".conf"
		}, config)
	}
}

func (b *bootHost) entries(gens []installed, toplevel string, name func(installed, string) (file, id string), config string) {
	b.t.Helper()
	dir := filepath.Join(b.Boot[0], "loader")
	if err := os.RemoveAll(filepath.Join(dir, "entries")); err != nil {
		b.t.Fatal(err)
	}
	for _, g := range gens {
		text := b.entry(g, "NixOS 26.05, Linux 6.18")
		file, id := name(g, text)
		write(b.t, filepath.Join(dir, "entries", file), text)
		if g.toplevel == toplevel {
			write(b.t, filepath.Join(dir, "loader.conf"), "timeout 5\n"+config+id+"\nconsole-mode keep\n")
		}
	}
}

// byStandIn is the loader of the testbed.
func byStandIn(b *bootHost, toplevel string) {
	byGeneration(b, toplevel)
	write(b.t, filepath.Join(b.Boot[0], "loader", "oneshot-by-file"), "")
}

// byGrub is GRUB as NixOS installs it, with /boot on a partition of its own.
func byGrub(b *bootHost, toplevel string) {
	gens := b.installed()
	b.copyKernels("kernels", "", gens)
	var text strings.Builder
	text.WriteString(strings.Replace(grubHead, "DEFAULT", "0", 1))
	item := func(title, top string) {
		fmt.Fprintf(&text, "menuentry %q --class nixos --unrestricted {\nsearch --set=drive1 --fs-uuid 0123\n  linux ($drive1)//kernels/%s init=%s/init loglevel=4\n  initrd ($drive1)//kernels/%s\n}\n\n",
			title, b.copyName(top, "kernel"), top, b.copyName(top, "initrd"))
	}
	item("NixOS - Default", toplevel)
	for _, profile := range []string{"system", "fleet"} {
		title := "NixOS - All configurations"
		if profile != "system" {
			title = "NixOS - Profile '" + profile + "'"
		}
		fmt.Fprintf(&text, "submenu %q --class submenu {\n", title)
		for _, g := range gens {
			if g.profile == profile {
				item("NixOS - Configuration "+g.number+" (2026-05-01 - 26.05)", g.toplevel)
			}
		}
		text.WriteString("}\n")
	}
	write(b.t, filepath.Join(b.Boot[0], "grub", "grub.cfg"), text.String())
	if _, err := os.Lstat(filepath.Join(b.Boot[0], "grub", "grubenv")); err != nil {
		write(b.t, filepath.Join(b.Boot[0], "grub", "grubenv"), envBlock("timeout_style=menu\n"))
	}
}

func byExtlinux(b *bootHost, toplevel string) {
	gens := b.installed()
	b.copyKernels("nixos", "", gens)
	text := "TIMEOUT 50\nDEFAULT nixos-default\n"
	for _, g := range append([]installed{{"", "default", toplevel}}, gens...) {
		text += "LABEL nixos-" + g.number + "\n  LINUX ../nixos/" + b.copyName(g.toplevel, "kernel") + "\n  INITRD ../nixos/" +
			b.copyName(g.toplevel, "initrd") + "\n  APPEND init=" + g.toplevel + "/init loglevel=4\n"
	}
	write(b.t, filepath.Join(b.Boot[0], "extlinux", "extlinux.conf"), text)
}

// staging stages c on a host that boots b.
func (b *bootHost) staging() Staging {
	return Staging{Old: system("b"), New: system("c"), Switch: func(_ context.Context, toplevel string) error {
		b.install(b, toplevel)
		return nil
	}}
}

func (b *bootHost) expect(oneShot string) {
	b.t.Helper()
	if got, err := b.Loader().OneShot(); got != oneShot || err != nil {
		b.t.Errorf("the next boot brings %q, %v, want %q", got, err, oneShot)
	}
	if got := b.BootDefault(); got.Err != nil || got.Toplevel.String() != system("b") {
		b.t.Errorf("the default is %+v", got)
	}
	if link, err := os.Readlink(filepath.Join(b.NixVar, "profiles", "system")); link != "system-2-link" || err != nil {
		b.t.Errorf("the system profile is %q, %v", link, err)
	}
}

func installers() map[string]func(*bootHost, string) {
	return map[string]func(*bootHost, string){
		"systemd-boot 26.05": byGeneration, "systemd-boot 26.11": byHash(""), "systemd-boot that counts": byHash("+3"), "stand-in": byStandIn, "grub": byGrub,
	}
}

func TestStagingBootsTheNewSystemOnceAndCanBeTakenBack(t *testing.T) {
	for name, install := range installers() {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, install)
			loader := b.Loader()
			if err := loader.CanStage(); err != nil {
				t.Fatal(err)
			}
			if err := loader.Verify(system("b")); err != nil {
				t.Fatal(err)
			}
			b.expect("")
			for range 2 { // the second time is after a crash
				if err := loader.Stage(t.Context(), b.staging()); err != nil {
					t.Fatal(err)
				}
				b.expect(system("c"))
			}
			for range 2 {
				if err := loader.Unstage(t.Context(), b.staging()); err != nil {
					t.Fatal(err)
				}
				b.expect("")
			}
			if m, err := b.findLoader().read(); err != nil || leftOver(m, system("c")) {
				t.Errorf("an entry of the candidate is left, %v", err)
			}
			if had, err := b.hasCandidate(); had || err != nil {
				t.Errorf("the candidate's profile is left, %v", err)
			}
		})
	}
}

// Whatever stops a staging, the old system boots; taking it back is possible from each of its moments.
func TestStagingThatIsStoppedAnywhereCanBeTakenBack(t *testing.T) {
	for name, install := range installers() {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, install)
			for when, stop := range map[string]func(*Staging){
				"before entries are written": func(s *Staging) {
					s.Switch = func(context.Context, string) error { return errors.New("no space left") }
				},
				"after entries are written": func(s *Staging) {
					s.Switch = func(_ context.Context, top string) error { b.install(b, top); return errors.New("killed") }
				},
			} {
				s := b.staging()
				stop(&s)
				if err := b.Loader().Stage(t.Context(), s); err == nil {
					t.Fatalf("%s: no error", when)
				}
				b.expect("")
				if err := b.Loader().Unstage(t.Context(), b.staging()); err != nil {
					t.Fatal(err)
				}
				b.expect("")
			}
		})
	}
}

func TestStagingChecksWhatWasWritten(t *testing.T) {
	type breakage struct {
		install func(*bootHost, string)
		// before and after are done to the host before the staging, and after its entries were written.
		before, after func(t *testing.T, b *bootHost)
		want          string
	}
	remove := func(pattern string) func(*testing.T, *bootHost) {
		return func(t *testing.T, b *bootHost) {
			names, err := filepath.Glob(filepath.Join(b.Boot[0], pattern))
			if err != nil || len(names) == 0 {
				t.Fatalf("nothing matches %q, %v", pattern, err)
			}
			for _, name := range names {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	empty := func(pattern string) func(*testing.T, *bootHost) {
		return func(t *testing.T, b *bootHost) {
			names, _ := filepath.Glob(filepath.Join(b.Boot[0], pattern))
			for _, name := range names {
				write(t, name, "")
			}
		}
	}
	change := func(pattern string, f func(string) string) func(*testing.T, *bootHost) {
		return func(t *testing.T, b *bootHost) {
			names, err := filepath.Glob(filepath.Join(b.Boot[0], pattern))
			if err != nil || len(names) != 1 {
				t.Fatalf("%d files match %q, %v", len(names), pattern, err)
			}
			write(t, names[0], f(read(t, names[0])))
		}
	}
	kernel := func(text string) func(*testing.T, *bootHost) {
		return func(t *testing.T, _ *bootHost) {
			path := "/nix/store/" + strings.Repeat("c", 32) + "-kernel/kernel"
			write(t, path, text)
			t.Cleanup(func() { write(t, path, fileOf("kernel", "c")) })
		}
	}
	whole := fileOf("kernel", "c")
	cutKernel, noKernel := kernel(whole[:len(whole)-10]), kernel("this is no kernel")
	for name, tc := range map[string]breakage{
		"no entry for the candidate":         {install: byGeneration, after: remove("loader/entries/nixos-fleet*"), want: "no boot entry boots"},
		"its kernel is missing":              {install: byGeneration, after: remove("EFI/nixos/cccc*kernel.efi"), want: "missing or empty"},
		"its initrd is empty":                {install: byHash(""), after: empty("EFI/nixos/cccc*initrd.efi"), want: "missing or empty"},
		"the old system's kernel is empty":   {install: byHash(""), after: empty("EFI/nixos/bbbb*kernel.efi"), want: "missing or empty"},
		"its kernel's copy is damaged":       {install: byGeneration, after: change("EFI/nixos/cccc*kernel.efi", func(text string) string { return text[:len(text)-1] + "X" }), want: "no undamaged copy"},
		"its initrd's copy is cut off":       {install: byGrub, after: change("kernels/cccc*initrd", func(string) string { return "initrd of" }), want: "no undamaged copy"},
		"its kernel is cut off":              {install: byGeneration, before: cutKernel, want: "it is cut off"},
		"its kernel is none":                 {install: byGeneration, before: noKernel, want: "no EFI program"},
		"its kernel is missing in GRUB":      {install: byGrub, after: func(t *testing.T, b *bootHost) { remove("kernels/cccc*-kernel-kernel")(t, b); hideStore(t, "c") }, want: "missing or empty"},
		"the default has moved":              {install: byGrub, after: func(_ *testing.T, b *bootHost) { b.install(b, system("c")) }, want: "by default, not"},
		"the default was another":            {install: byGeneration, before: func(_ *testing.T, b *bootHost) { b.install(b, system("a")) }, want: "by default, not"},
		"the old system is no generation":    {install: byGeneration, before: func(t *testing.T, b *bootHost) { b.link("system-2-link", system("a")) }, want: "no generation"},
		"boot counting has given it up":      {install: byHash("+0-3"), want: "no boot entry boots"},
		"loader.conf is gone":                {install: byGeneration, after: remove("loader/loader.conf"), want: "no boot loader"},
		"GRUB's environment was overwritten": {install: byGrub, after: func(t *testing.T, b *bootHost) { write(t, filepath.Join(b.Boot[0], "grub/grubenv"), "x") }, want: "no environment block"},
		"GRUB's environment is full": {install: byGrub, before: func(t *testing.T, b *bootHost) {
			write(t, filepath.Join(b.Boot[0], "grub/grubenv"), envBlock("x="+strings.Repeat("y", 980)+"\n"))
		}, want: "is full"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, tc.install)
			if tc.before != nil {
				tc.before(t, b)
			}
			s := b.staging()
			install := s.Switch
			s.Switch = func(ctx context.Context, top string) error {
				err := install(ctx, top)
				if tc.after != nil {
					tc.after(t, b)
				}
				return err
			}
			err := b.Loader().Stage(t.Context(), s)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if got, err := b.Loader().OneShot(); got != "" {
				t.Errorf("the next boot brings %q, %v", got, err)
			}
		})
	}
}

// hideStore takes a system's kernel away, for the length of a test.
func hideStore(t *testing.T, letter string) {
	t.Helper()
	path := "/nix/store/" + strings.Repeat(letter, 32) + "-kernel"
	if err := os.Rename(path, path+".hidden"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(path+".hidden", path); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatCannotBootOnceSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		install func(*bootHost, string)
		change  func(*bootHost)
		want    string
	}{
		"extlinux":           {install: byExtlinux, want: "no one-time choice"},
		"no loader":          {install: func(*bootHost, string) {}, want: "no boot loader is known"},
		"lanzaboote":         {install: byLanzaboote, want: "highest"},
		"booted by another":  {install: byGeneration, change: func(b *bootHost) { write(b.t, b.efiFile("LoaderInfo"), efiText("GRUB 2.12")) }, want: `booted by "GRUB 2.12"`},
		"booted without EFI": {install: byGeneration, change: func(b *bootHost) { b.EFIVars = "/nowhere" }, want: "no EFI variables"},
		"an old systemd-boot": {install: byGeneration, change: func(b *bootHost) {
			write(b.t, b.efiFile("LoaderFeatures"), "\x06\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00")
		}, want: "knows no one-time choice"},
		"GRUB's files on btrfs":        {install: byGrub, change: func(b *bootHost) { b.mounted("btrfs", "rw", "vda2") }, want: "of kind btrfs"},
		"GRUB's files on LVM":          {install: byGrub, change: func(b *bootHost) { b.mounted("ext4", "rw", "dm-0") }, want: "on dm-0"},
		"GRUB's files on RAID":         {install: byGrub, change: func(b *bootHost) { b.mounted("ext4", "rw", "md127") }, want: "on md127"},
		"GRUB's files read-only":       {install: byGrub, change: func(b *bootHost) { b.mounted("ext4", "ro", "vda2") }, want: "read-only"},
		"mounts that cannot be read":   {install: byGrub, change: func(b *bootHost) { b.Mounts = "/nowhere" }, want: "not known"},
		"a grub.cfg without one-time":  {install: byGrub, change: func(b *bootHost) { b.rewrite("grub/grub.cfg", "next_entry", "x_entry") }, want: "heeds no one-time choice"},
		"a damaged environment block":  {install: byGrub, change: func(b *bootHost) { write(b.t, filepath.Join(b.Boot[0], "grub/grubenv"), envHeader) }, want: "no environment block"},
		"no environment block is made": {install: byGrub, change: func(b *bootHost) { os.Remove(filepath.Join(b.Boot[0], "grub/grubenv")) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, tc.install)
			if tc.change != nil {
				tc.change(b)
			}
			err := b.Loader().CanStage()
			if tc.want == "" {
				if err == nil {
					err = b.Loader().Stage(t.Context(), b.staging())
				}
				if err != nil {
					t.Fatal(err)
				}
				b.expect(system("c"))
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
			if err := b.Loader().Stage(t.Context(), b.staging()); err == nil {
				t.Error("it was staged all the same")
			}
			if had, err := b.hasCandidate(); had || err != nil {
				t.Errorf("there is a candidate, %v", err)
			}
		})
	}
}

func (b *bootHost) rewrite(file, old, fresh string) {
	b.t.Helper()
	path := filepath.Join(b.Boot[0], file)
	write(b.t, path, strings.ReplaceAll(read(b.t, path), old, fresh))
}

func TestARebootIntoTheSameSystemNeedsNoStaging(t *testing.T) {
	b := newBootHost(t, byExtlinux)
	s := b.staging()
	s.New = s.Old
	if err := b.Loader().Stage(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := b.Loader().Unstage(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestTheOneTimeChoiceIsWrittenAsSystemdBootReadsIt(t *testing.T) {
	b := newBootHost(t, byHash("+3"))
	if err := b.Loader().Stage(t.Context(), b.staging()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(b.EFIVars, "LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"))
	if err != nil {
		t.Fatal(err)
	}
	if string(raw[:4]) != "\x07\x00\x00\x00" || string(raw[len(raw)-2:]) != "\x00\x00" || string(raw[4:8]) != "n\x00i\x00" {
		t.Errorf("got %q", raw)
	}
	// Its counters change with every boot, and loaders differ in whether a name has them.
	text, err := b.efiText("LoaderEntryOneShot")
	if err != nil || !strings.HasPrefix(text, "nixos-") || !strings.HasSuffix(text, "*.conf") || len(text) != len("nixos-*.conf")+64 {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestGrubIsToldTitlesWhereTheyAreNames(t *testing.T) {
	for name, tc := range map[string]struct {
		change []string
		want   string
		err    string
	}{
		"titles":                          {want: "NixOS - Profile 'fleet'>NixOS - Configuration 1 (2026-05-01 - 26.05)"},
		"a title that is no name":         {change: []string{"Profile 'fleet'", "a > b"}, want: "2>0"},
		"a title that reads as a number":  {change: []string{"NixOS - Profile", "2 - Profile"}, want: "2>0"},
		"a title that is there twice":     {change: []string{"Profile 'fleet'", "All configurations"}, want: "2>0"},
		"a title twice under a condition": {change: []string{"Profile 'fleet'", "All configurations", "submenu", "if true\nsubmenu"}, err: "no fixed number"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, byGrub)
			s := b.staging()
			install := s.Switch
			s.Switch = func(ctx context.Context, top string) error {
				err := install(ctx, top)
				for pair := range slices.Chunk(tc.change, 2) {
					b.rewrite("grub/grub.cfg", pair[0], pair[1])
				}
				return err
			}
			err := b.Loader().Stage(t.Context(), s)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			env, err := readEnv(filepath.Join(b.Boot[0], "grub/grubenv"))
			if got := envValue(env, nextEntry); err != nil || got != tc.want {
				t.Errorf("got %q, %v, want %q", got, err, tc.want)
			}
			if got := envValue(env, "timeout_style"); got != "menu" {
				t.Errorf("another variable was changed to %q", got)
			}
		})
	}
}

func TestVerifyLooksAtTheFilesOfTheDefault(t *testing.T) {
	for name, tc := range map[string]struct {
		install func(*bootHost, string)
		lose    string
		want    string
	}{
		"all there":             {install: byGeneration},
		"extlinux":              {install: byExtlinux},
		"extlinux, kernel gone": {install: byExtlinux, lose: "nixos/bbbb*kernel", want: "missing or empty"},
		"initrd gone":           {install: byGeneration, lose: "EFI/nixos/bbbb*initrd.efi", want: "missing or empty"},
		"entry gone":            {install: byGeneration, lose: "loader/entries/nixos-generation-2.conf", want: "by default, not"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, tc.install)
			if tc.lose != "" {
				names, _ := filepath.Glob(filepath.Join(b.Boot[0], tc.lose))
				for _, name := range names {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := b.Loader().Verify(system("b"))
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAPartitionBesideTheLoadersOwnHasEntriesToo(t *testing.T) {
	b := newBootHost(t, byGeneration)
	esp := b.Boot[0] + "-efi"
	b.Boot = append(b.Boot, esp)
	text := read(t, filepath.Join(b.Boot[0], "loader/loader.conf"))
	if err := os.Remove(filepath.Join(b.Boot[0], "loader/loader.conf")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(esp, "loader/loader.conf"), text)
	if err := b.Loader().Verify(system("b")); err != nil {
		t.Error(err)
	}
	if dir, need := b.kernelSpace(b.findLoader(), system("c")); need == 0 || !strings.HasPrefix(dir, b.Boot[0]+"/") {
		t.Errorf("%d bytes are needed in %q", need, dir)
	}
}

// efiImage is an EFI program with sections.
func efiImage(sections ...string) string {
	head := make([]byte, 0x40+24+40*len(sections)/2)
	copy(head, "MZ")
	head[0x3c] = 0x40
	copy(head[0x40:], "PE\x00\x00")
	head[0x46] = byte(len(sections) / 2)
	at := len(head)
	body := ""
	for i := 0; i < len(sections); i += 2 {
		h := head[0x40+24+20*i:]
		copy(h, sections[i])
		for j, n := range map[int]int{8: len(sections[i+1]), 16: len(sections[i+1]), 20: at + len(body)} {
			h[j], h[j+1] = byte(n), byte(n>>8)
		}
		body += sections[i+1]
	}
	return string(head) + body
}

func byLanzaboote(b *bootHost, _ string) {
	for _, g := range b.installed() {
		if g.profile == "system" { // it installs no others
			write(b.t, filepath.Join(b.Boot[0], "EFI/Linux/nixos-generation-"+g.number+"-abc.efi"),
				efiImage(".osrel", "ID=lanza\n", ".cmdline", "init="+g.toplevel+"/init loglevel=4\x00", ".linux", "\\EFI\\nixos\\kernel", ".linuxh", "hash"))
		}
	}
	write(b.t, filepath.Join(b.Boot[0], "loader/loader.conf"), "timeout 5\ndefault nixos-*\n")
}

func TestLanzabootesDefaultIsTheHighestGeneration(t *testing.T) {
	b := newBootHost(t, byLanzaboote)
	if got := b.Loader().Name(); got != "lanzaboote" {
		t.Errorf("it is %q", got)
	}
	if err := b.Loader().Verify(system("b")); err != nil {
		t.Error(err)
	}
	// The profile goes back, and the default does not: that has to be seen.
	b.link("system", "system-1-link")
	if err := b.Loader().Verify(system("a")); err == nil {
		t.Error("the lower generation counts as the default")
	}
	if err := os.Remove(filepath.Join(b.Boot[0], "EFI/Linux/nixos-generation-2-abc.efi")); err != nil {
		t.Fatal(err)
	}
	if err := b.Loader().Verify(system("a")); err != nil {
		t.Error(err)
	}
}

func TestPreflightOfTheBootLoader(t *testing.T) {
	etc := func(b *bootHost, line string) { write(b.t, filepath.Join(system("b"), "etc/fstab"), line) }
	for name, tc := range map[string]struct {
		install func(*bootHost, string)
		change  func(*bootHost)
		want    []string
	}{
		"nothing":             {install: byGeneration},
		"GRUB, nothing":       {install: byGrub},
		"stand-in, nothing":   {install: byStandIn, change: func(b *bootHost) { b.mounted("ext4", "rw", "vda2") }},
		"a variable wins":     {install: byGeneration, change: func(b *bootHost) { write(b.t, b.efiFile("LoaderEntryDefault"), efiText("nixos-generation-2.conf")) }, want: []string{checkBootVariable}},
		"a one-time choice":   {install: byGeneration, change: func(b *bootHost) { write(b.t, b.efiFile("LoaderEntryOneShot"), efiText("x.conf")) }, want: []string{checkBootOneShot}},
		"GRUB's next entry":   {install: byGrub, change: func(b *bootHost) { write(b.t, filepath.Join(b.Boot[0], "grub/grubenv"), envBlock("next_entry=7\n")) }, want: []string{checkBootOneShot}},
		"loader.tmp":          {install: byGeneration, change: func(b *bootHost) { write(b.t, filepath.Join(b.Boot[0], "loader/loader.tmp"), "") }, want: []string{checkBootLeftover}},
		"another default":     {install: byGeneration, change: func(b *bootHost) { b.install(b, system("a")) }, want: []string{checkBootEntry}},
		"no entry":            {install: byGeneration, change: func(b *bootHost) { os.RemoveAll(filepath.Join(b.Boot[0], "loader/entries")) }, want: []string{checkBootEntry}},
		"no generation":       {install: byGeneration, change: func(b *bootHost) { b.link("system-2-link", system("a")) }, want: []string{checkBootEntry}},
		"read-only":           {install: byGeneration, change: func(b *bootHost) { b.mounted("vfat", "ro", "vda2") }, want: []string{checkBootMount}},
		"no EFI partition":    {install: byGeneration, change: func(b *bootHost) { b.mounted("ext4", "rw", "vda2") }, want: []string{checkBootMount}},
		"mounted as in fstab": {install: byGeneration, change: func(b *bootHost) { etc(b, "/dev/vda2 "+b.Boot[0]+" vfat defaults 0 2\n") }},
		"not mounted": {install: func(*bootHost, string) {}, change: func(b *bootHost) {
			b.Boot = []string{"/boot"}
			etc(b, "# comment\n/dev/vda2 /boot vfat defaults 0 2\n")
		}, want: []string{checkBootMount}},
		"another loader": {install: byGeneration, change: func(b *bootHost) {
			write(b.t, system("c")+"/bin/switch-to-configuration", "#!/bin/sh\nexport INSTALL_BOOTLOADER='/nix/store/x-install-grub.sh'\nexec stc\n")
			b.t.Cleanup(func() { os.RemoveAll(system("c") + "/bin") })
		}, want: []string{checkBootKind}},
		"the same loader": {install: byGrub, change: func(b *bootHost) {
			write(b.t, system("c")+"/bin/switch-to-configuration", "#!/bin/sh\nexport INSTALL_BOOTLOADER='/nix/store/x-install-grub.sh'\nexec stc\n")
			b.t.Cleanup(func() { os.RemoveAll(system("c") + "/bin") })
		}},
		"no space": {install: byGeneration, change: func(b *bootHost) { bigKernel(b.t, "c", 1<<50) }, want: []string{checkBootSpace}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootHost(t, tc.install)
			t.Cleanup(func() { os.RemoveAll(filepath.Join(system("b"), "etc")) })
			if got := b.BootDefault().Loader; got == "systemd-boot" {
				b.mounted("vfat", "rw", "vda2")
			}
			if tc.change != nil {
				tc.change(b)
			}
			var got []string
			for _, f := range b.Loader().Preflight(system("b"), system("c")) {
				got = append(got, f.Check)
				if f.Message == "" || f.Remedy == "" {
					t.Errorf("%s says nothing: %+v", f.Check, f)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q: %+v", got, tc.want, b.Loader().Preflight(system("b"), system("c")))
			}
		})
	}
}

// bigKernel replaces a system's kernel by one without contents, for the length of a test.
func bigKernel(t *testing.T, letter string, size int64) {
	t.Helper()
	link := filepath.Join(system(letter), "kernel")
	big := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for size > 1 && os.Truncate(big, size) != nil {
		size /= 2
	}
	old, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := replaceLink(old, link); err != nil {
			t.Error(err)
		}
	})
	if err := replaceLink(big, link); err != nil {
		t.Fatal(err)
	}
}

func TestLeftoversOfAnInstallationAreCleared(t *testing.T) {
	b := newBootHost(t, byGeneration)
	path := filepath.Join(b.Boot[0], "loader/loader.tmp")
	write(t, path, "timeout 5\n")
	for range 2 {
		if err := b.clearLeftovers(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there, %v", err)
	}
	b.expect("")
}

func TestEnvironmentBlocks(t *testing.T) {
	env := envBlock("a=1\nnext_entry=old\nb=x\\\ny\\\\z\n")
	if got := envValue(env, "b"); got != "x\ny\\z" {
		t.Errorf("b is %q", got)
	}
	changed, err := changeEnv(env, nextEntry, "2>0")
	if err != nil || len(changed) != envSize || envValue(changed, nextEntry) != "2>0" || envValue(changed, "b") != "x\ny\\z" || envValue(changed, "a") != "1" {
		t.Errorf("got %q, %v", changed, err)
	}
	cleared, err := changeEnv(changed, nextEntry, "")
	if err != nil || strings.Contains(cleared, nextEntry) || len(cleared) != envSize {
		t.Errorf("got %q, %v", cleared, err)
	}
}

func FuzzEnvironmentBlocks(f *testing.F) {
	f.Add("a=1\nnext_entry=2>0\n", "x")
	f.Add("\\", "\\\n")
	f.Fuzz(func(t *testing.T, lines, value string) {
		changed, err := changeEnv(envHeader+lines, nextEntry, value)
		if err != nil {
			return
		}
		if len(changed) != envSize {
			t.Fatalf("%d bytes", len(changed))
		}
		if got := envValue(changed, nextEntry); got != value {
			t.Errorf("got %q, want %q", got, value)
		}
		if again, err := changeEnv(changed, nextEntry, value); again != changed || err != nil {
			t.Errorf("a second change gives %q, %v, not %q", again, err, changed)
		}
	})
}

func TestKernelsThatAreCutOff(t *testing.T) {
	// Two sectors before the kernel proper, which has 32 bytes.
	x86 := make([]byte, 1536+32)
	x86[0x1f1], x86[0x1f4] = 2, 2
	copy(x86[0x202:], "HdrS")
	for name, tc := range map[string]struct {
		kernel string
		efi    bool
		want   string
	}{
		"whole":                  {kernel: string(x86)},
		"cut off":                {kernel: string(x86[:len(x86)-1]), want: "should have 1568"},
		"for a BIOS alone":       {kernel: string(x86), efi: true, want: "no EFI program"},
		"of another processor":   {kernel: "another"},
		"an EFI program":         {kernel: efiImage(".text", "x"), efi: true},
		"an EFI program cut off": {kernel: efiImage(".text", "xyz")[:0x40+24+40+1], want: "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			err := kernelFits(strings.NewReader(tc.kernel), int64(len(tc.kernel)), tc.efi)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzImages(f *testing.F) {
	f.Add(efiImage(".cmdline", "init="+system("a")+"/init"))
	f.Fuzz(func(t *testing.T, image string) {
		_ = kernelFits(strings.NewReader(image), int64(len(image)), false)
		if e, err := parseImage("x.efi", strings.NewReader(image)); err == nil && len(e.options) > maxCommandLine {
			t.Error(strconv.Itoa(len(e.options)) + " bytes of options")
		}
	})
}
