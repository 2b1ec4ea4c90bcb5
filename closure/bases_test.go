package closure

import (
	"slices"
	"strings"
	"testing"

	"fleet/closure/storepath"
)

// named makes an info of "name" or "name:size"; its hash is made of the letter.
func named(t *testing.T, letter, text string) PathInfo {
	t.Helper()
	name, size, _ := strings.Cut(text, ":")
	path, err := storepath.ParseBase(strings.Repeat(letter, 32) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return PathInfo{Path: path, NarSize: uint64(len(size))}
}

func TestABaseIsTheLikelyPredecessor(t *testing.T) {
	for _, tt := range []struct {
		rule string
		path string
		have []string
		want string
	}{
		{"the same name", "etc", []string{"etc", "etc-hosts"}, "etc"},
		{"another version", "openssl-3.0.14", []string{"openssl-3.0.13", "openssl-3.0.13-dev", "opensshd-3.0.14"}, "openssl-3.0.13"},
		{"the same output", "openssl-3.0.14-dev", []string{"openssl-3.0.13", "openssl-3.0.13-dev"}, "openssl-3.0.13-dev"},
		{"another kind of version", "git-unstable-2.50.0rc1", []string{"git-unstable-2.49.0rc12"}, "git-unstable-2.49.0rc12"},
		{"a version that became longer", "foo-1.2", []string{"foo-1.2-unstable-2026-01-02"}, "foo-1.2-unstable-2026-01-02"},
		{"versions within parts", "python3.13-requests-2.32", []string{"python3.12-requests-2.31", "python3.12-urllib-2.32"}, "python3.12-requests-2.31"},
		{"a system", "nixos-system-web-26.05.20260102.aaaaaaa", []string{"nixos-system-web-26.05.20260101.bbbbbbb", "nixos-system-db-26.05.20260102.aaaaaaa"}, "nixos-system-web-26.05.20260101.bbbbbbb"},
		{"a unit", "unit-sshd.service", []string{"unit-nginx.service", "unit-sshd.service"}, "unit-sshd.service"},
		{"the exact name before the nearer size", "source:xx", []string{"source:xxxx", "source-1:xx"}, "source:xxxx"},
		{"among equals, the nearest size", "source:xxxx", []string{"source:x", "source:xxxxx", "source:"}, "source:xxxxx"},
		{"another package", "vim-9.1", []string{"vim-full-9.1", "vimrc", "nvim-9.1"}, ""},
		{"a name that begins with a digit", "7zip", []string{"8zip"}, "8zip"},
		{"nothing to choose from", "vim-9.1", nil, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			path := named(t, "a", tt.path)
			var have []PathInfo
			for i, text := range tt.have {
				have = append(have, named(t, string("bcdfg"[i]), text))
			}
			want := ""
			if i := slices.Index(tt.have, tt.want); i >= 0 {
				want = have[i].Path.String()
			}
			for range 2 {
				base, ok := ChooseBases([]PathInfo{path}, have)[path.Path]
				if got := base.Path; ok != (want != "") || ok && got.String() != want {
					t.Errorf("got %v, want %q", got, want)
				}
				slices.Reverse(have)
			}
		})
	}
}

func TestAPathIsNotItsOwnBase(t *testing.T) {
	path := named(t, "a", "etc")
	if bases := ChooseBases([]PathInfo{path}, []PathInfo{path, named(t, "b", "etc")}); len(bases) != 0 {
		t.Errorf("%v", bases)
	}
}
