package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func system(letter string) string {
	return "/nix/store/" + strings.Repeat(letter, 32) + "-nixos-system-" + letter
}

func sdEntry(letter, generation string) string {
	return "title NixOS\nsort-key nixos\nversion Generation " + generation + " NixOS 26.05, Linux 6.18\nmachine-id 0123\nlinux /EFI/nixos/k.efi\noptions init=" + system(letter) + "/init loglevel=4\n"
}

func TestBootDefaultOfSystemdBoot(t *testing.T) {
	entries := map[string]string{
		"loader/entries/nixos-generation-9.conf":  sdEntry("a", "9"),
		"loader/entries/nixos-generation-10.conf": sdEntry("b", "10"),
		"loader/entries/other.conf":               "title Other\nlinux /vmlinuz\noptions root=/dev/sda1\n",
	}
	for name, tc := range map[string]struct {
		config   string
		variable string
		more     map[string]string
		want     string
		err      string
	}{
		"a name":                         {config: "timeout 5\ndefault nixos-generation-9.conf\n", want: "a"},
		"a name without suffix":          {config: "default nixos-generation-9\n", want: "a"},
		"a name in other case":           {config: "default NixOS-Generation-9.conf", want: "a"},
		"a pattern takes the newest":     {config: "default nixos-*", want: "b"},
		"tabs":                           {config: "default\tnixos-generation-9.conf", want: "a"},
		"no default takes the first":     {config: "timeout 3", want: "b"},
		"no match takes the first":       {config: "default arch.conf", want: "b"},
		"the firmware's variable wins":   {config: "default nixos-generation-10.conf", variable: "nixos-generation-9.conf", want: "a"},
		"an unknown variable falls back": {config: "default nixos-generation-9.conf", variable: "gone.conf", want: "a"},
		"preferred comes before default": {config: "default nixos-*\npreferred nixos-generation-9.conf", want: "a"},
		"an entry of another system":     {config: "default other.conf", err: "it has no init="},
		"@saved is not known":            {config: "default @saved", want: "b"},
		"the firmware's own entries":     {config: "default @auto-windows", err: "no system of this host"},
		"init is no store path":          {config: "default x.conf", more: map[string]string{"loader/entries/x.conf": "options init=/sbin/init"}, err: "it is not"},
		"counters are no part of a name": {config: "default nixos-c.conf", more: map[string]string{"loader/entries/nixos-c+3-1.conf": sdEntry("c", "11")}, want: "c"},
		"a given-up entry comes last":    {config: "default nixos-*", more: map[string]string{"loader/entries/nixos-c+0-3.conf": sdEntry("c", "99")}, want: "b"},
		"a given-up entry is not prefered": {config: "preferred nixos-c.conf\ndefault nixos-*",
			more: map[string]string{"loader/entries/nixos-c+0-3.conf": sdEntry("c", "99")}, want: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			for _, files := range []map[string]string{entries, tc.more, {"loader/loader.conf": tc.config}} {
				for file, text := range files {
					write(t, filepath.Join(host.Boot[0], file), text)
				}
			}
			if tc.variable != "" {
				raw := []byte{7, 0, 0, 0}
				for _, c := range []byte(tc.variable) {
					raw = append(raw, c, 0)
				}
				write(t, filepath.Join(host.EFIVars, "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), string(append(raw, 0, 0)))
			}
			checkBoot(t, host.BootDefault(), "systemd-boot", tc.want, tc.err)
		})
	}
}

func checkBoot(t *testing.T, got BootDefault, loader, want, wantErr string) {
	t.Helper()
	if got.Loader != loader {
		t.Errorf("loader %q, want %q", got.Loader, loader)
	}
	if wantErr != "" {
		if got.Err == nil || (wantErr != "it is not" && !strings.Contains(got.Err.Error(), wantErr)) {
			t.Errorf("got %v, %v, want an error with %q", got.Toplevel, got.Err, wantErr)
		}
		return
	}
	if got.Err != nil || got.Toplevel.String() != system(want) {
		t.Errorf("got %v, %v, want %s", got.Toplevel, got.Err, want)
	}
}

const grubHead = `
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
  set boot_once=true
else
  set default=DEFAULT
  set timeout=5
fi
function savedefault {
    if [ -z "${boot_once}"]; then
    saved_entry="${chosen}"
    save_env saved_entry
    fi
}
`

func grubMenu(letters ...string) string {
	var b strings.Builder
	b.WriteString(`menuentry "NixOS - Default" --class nixos --unrestricted {` + "\nsearch --set=drive1 --fs-uuid 1\n  linux ($drive1)//kernels/k init=" + system(letters[0]) + "/init loglevel=4\n  initrd ($drive1)//kernels/i\n}\n\n")
	b.WriteString(`submenu "NixOS - All configurations" --class submenu {` + "\n")
	for i, l := range letters[1:] {
		b.WriteString(`menuentry "NixOS - Configuration ` + string(rune('1'+i)) + `" --class nixos {` + "\n  linux //k init=" + system(l) + "/init\n}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// envBlock is an environment block with these lines.
func envBlock(lines string) string {
	text := envHeader + lines
	return text + strings.Repeat("#", max(0, envSize-len(text)))
}

func TestBootDefaultOfGrub(t *testing.T) {
	for name, tc := range map[string]struct {
		fallback, env, menu string
		want, err           string
	}{
		"the first entry":                {fallback: "0", want: "a"},
		"a quoted number":                {fallback: `"0"`, want: "a"},
		"a title":                        {fallback: `"NixOS - Default"`, want: "a"},
		"an entry of a submenu":          {fallback: `"1>1"`, want: "c"},
		"a submenu's first entry":        {fallback: "1", want: "b"},
		"saved":                          {fallback: `"${saved_entry}"`, env: "saved_entry=1>0\n", want: "b"},
		"saved by title":                 {fallback: `"${saved_entry}"`, env: "saved_entry=NixOS - Default\n", want: "a"},
		"saved but nothing is":           {fallback: `"${saved_entry}"`, want: "a"},
		"a one-time entry is no default": {fallback: "0", env: "next_entry=1>0\n", want: "a"},
		"a damaged block is ignored":     {fallback: `"${saved_entry}"`, env: strings.Repeat("saved_entry=1>0\n", 100), want: "a"},
		"an entry that is gone":          {fallback: "7", err: "no entry"},
		"a menu of another system":       {fallback: "0", menu: "menuentry 'Debian' {\n linux /vmlinuz root=/dev/sda1\n}\n", err: "it has no init="},
		"no menu at all":                 {fallback: "0", menu: "\n", err: "no entry"},
		"menus without end":              {fallback: "0", menu: strings.Repeat("submenu x {\n", 100), err: "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			menu := tc.menu
			if menu == "" {
				menu = grubMenu("a", "b", "c")
			}
			write(t, filepath.Join(host.Boot[0], "grub/grub.cfg"), strings.Replace(grubHead, "DEFAULT", tc.fallback, 1)+menu)
			if tc.env != "" {
				write(t, filepath.Join(host.Boot[0], "grub/grubenv"), envBlock(tc.env))
			}
			checkBoot(t, host.BootDefault(), "grub", tc.want, tc.err)
		})
	}
}

func TestBootDefaultOfExtlinux(t *testing.T) {
	text := "# Generated file\nTIMEOUT 50\nDEFAULT nixos-default\nMENU TITLE ---\n\nLABEL nixos-default\n  MENU LABEL NixOS - Default\n  LINUX ../nixos/k\n  APPEND init=" +
		system("a") + "/init loglevel=4\n\nLABEL nixos-1\n  APPEND init=" + system("b") + "/init\n"
	for name, tc := range map[string]struct{ text, want, err string }{
		"the default label": {text: text, want: "a"},
		"another label":     {text: strings.Replace(text, "DEFAULT nixos-default", "default nixos-1", 1), want: "b"},
		"no default":        {text: strings.Replace(text, "DEFAULT nixos-default", "", 1), err: "no default"},
		"a label is gone":   {text: strings.Replace(text, "DEFAULT nixos-default", "DEFAULT x", 1), err: "no entry"},
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			write(t, filepath.Join(host.Boot[0], "extlinux/extlinux.conf"), tc.text)
			checkBoot(t, host.BootDefault(), "extlinux", tc.want, tc.err)
		})
	}
}

func TestTheLoaderThatWasWrittenLastCounts(t *testing.T) {
	host := testHost(t)
	write(t, filepath.Join(host.Boot[0], "extlinux/extlinux.conf"), "DEFAULT x\nLABEL x\nAPPEND init="+system("a")+"/init\n")
	write(t, filepath.Join(host.Boot[0], "loader/loader.conf"), "default x.conf\n")
	write(t, filepath.Join(host.Boot[0], "loader/entries/x.conf"), "options init="+system("b")+"/init\n")
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(host.Boot[0], "extlinux/extlinux.conf"), past, past); err != nil {
		t.Fatal(err)
	}
	checkBoot(t, host.BootDefault(), "systemd-boot", "b", "")
	past = past.Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(host.Boot[0], "loader/loader.conf"), past, past); err != nil {
		t.Fatal(err)
	}
	checkBoot(t, host.BootDefault(), "extlinux", "a", "")
}

func TestNoLoaderIsNoError(t *testing.T) {
	if got := testHost(t).BootDefault(); got != (BootDefault{}) {
		t.Errorf("got %+v", got)
	}
}

func TestAPipeInABootFolderIsNotWaitedFor(t *testing.T) {
	host := testHost(t)
	write(t, filepath.Join(host.Boot[0], "loader/loader.conf"), "default x.conf\n")
	write(t, filepath.Join(host.Boot[0], "loader/entries/x.conf"), "options init="+system("b")+"/init\n")
	if err := mkfifo(filepath.Join(host.Boot[0], "loader/entries/pipe.conf")); err != nil {
		t.Fatal(err)
	}
	checkBoot(t, host.BootDefault(), "systemd-boot", "b", "")
}

func TestVersionsSortAsTheLoaderDoes(t *testing.T) {
	want := []string{"~1", "", "0~1", "ab", "abb", "abc", "0001", "2", "5", "10", "10.1", "10.1^post1", "11~rc1", "11~rc2", "11", "11-2", "11-10", "11^1"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortStableFunc(got, compareVersions)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func FuzzBootFiles(f *testing.F) {
	f.Add(grubHead + grubMenu("a", "b"))
	f.Add(sdEntry("a", "1"))
	f.Add("DEFAULT x\nLABEL x\nAPPEND init=" + system("a") + "/init")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseGrub(text, text)
		_ = unescapeMount(text)
		parseMounts(text)
		parseExtlinux(text)
		entry := parseEntry("nixos+1-2.conf", text)
		other := parseEntry("nixos.conf", strings.ToUpper(text))
		if a, b := compareEntries(entry, other), compareEntries(other, entry); (a < 0) != (b > 0) {
			t.Errorf("the order has no direction: %d, %d", a, b)
		}
		_, _ = chooseEntry([]bootEntry{entry, other}, "", text)
		if a, b := compareVersions(text, text+"1"), compareVersions(text+"1", text); a != -b {
			t.Errorf("versions have no order: %d, %d", a, b)
		}
	})
}
