package closure

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fleet/closure/storepath"
)

// named makes an info of "name" or "name:size"; the letter fills its hash.
func named(t *testing.T, letter byte, text string) PathInfo {
	t.Helper()
	name, digits, _ := strings.Cut(text, ":")
	var size uint64
	if digits != "" {
		if _, err := fmt.Sscan(digits, &size); err != nil {
			t.Fatal(err)
		}
	}
	path, err := storepath.ParseBase(strings.Repeat(string(letter), storepath.HashLength) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return PathInfo{Path: path, NarSize: size}
}

// letters are of Nix's base 32; paths get the first ones, bases the last ones.
const letters = "0123456789abcdfghijklmnpqrsvwxyz"

func namedAll(t *testing.T, letters string, texts []string) (infos []PathInfo) {
	for i, text := range texts {
		infos = append(infos, named(t, letters[i], text))
	}
	return infos
}

func TestABaseIsTheLikelyPredecessor(t *testing.T) {
	for _, tt := range []struct {
		rule string
		path string
		have []string
		want string
	}{
		{"the same name", "etc", []string{"etc", "etc-hosts"}, "etc"},
		{"a unit", "unit-sshd.service", []string{"unit-nginx.service", "unit-sshd.service", "unit-sshd-.service"}, "unit-sshd.service"},
		{"units together", "system-units", []string{"user-units", "system-path", "system-units"}, "system-units"},
		{"a source", "source:100", []string{"source-filter:100", "source:900"}, "source:900"},
		{"the same name before a nearer size", "glibc-2.40-66:100", []string{"glibc-2.40-66:900", "glibc-2.40-65:100"}, "glibc-2.40-66:900"},
		{"a number that is no version", "stage-1-init.sh", []string{"stage-2-init.sh", "stage-1-init.sh"}, "stage-1-init.sh"},
		{"another version", "openssl-3.0.14", []string{"openssl-3.0.13", "openssl-3.0.13-dev", "openssh-3.0.14"}, "openssl-3.0.13"},
		{"the same output", "openssl-3.0.14-dev", []string{"openssl-3.0.13", "openssl-3.0.13-dev", "openssl-3.0.13-doc"}, "openssl-3.0.13-dev"},
		{"a version of two parts, and an output", "glibc-2.40-66-bin", []string{"glibc-2.39-52", "glibc-2.39-52-bin", "glibc-2.39-52-dev"}, "glibc-2.39-52-bin"},
		{"an output of two parts", "linux-6.6.60-modules-shrunk", []string{"linux-6.6.58-modules", "linux-6.6.58-modules-shrunk", "linux-6.6.58"}, "linux-6.6.58-modules-shrunk"},
		{"an output that says how it is packed", "linux-firmware-20241110-zstd", []string{"linux-firmware-20241017-zstd", "linux-firmware-20241110"}, "linux-firmware-20241017-zstd"},
		{"a system", "nixos-system-web1-26.05.20260102.aaaaaaa", []string{"nixos-system-web1-26.05.20260101.bbbbbbb", "nixos-system-db1-26.05.20260102.aaaaaaa"}, "nixos-system-web1-26.05.20260101.bbbbbbb"},
		{"a date", "git-unstable-2026-11-02", []string{"git-unstable-2026-10-30", "git-2.49.0"}, "git-unstable-2026-10-30"},
		{"letters in a version", "bash-5.2p37", []string{"bash-5.2p32", "bash-5.2p32-man", "bash-interactive-5.2p37"}, "bash-5.2p32"},
		{"the same number of dashes", "foo-1.3", []string{"foo-1.3-unstable-2026-01-02", "foo-1.1"}, "foo-1.1"},
		{"a version that became longer", "foo-1.2", []string{"foo-1.2-unstable-2026-01-02"}, "foo-1.2-unstable-2026-01-02"},
		{"the nearest version", "openssl-3.3.2", []string{"openssl-1.1.1w", "openssl-3.0.13", "openssl-3.2.9", "openssl-4.3.2"}, "openssl-3.2.9"},
		{"versions are numbers", "vim-9.1.10", []string{"vim-9.1.1", "vim-9.1.9", "vim-9.1.100"}, "vim-9.1.9"},
		{"a newer version, for a rollback", "nginx-1.26.1", []string{"nginx-1.26.2", "nginx-1.20.0"}, "nginx-1.26.2"},
		{"a directory of a package's name is another thing", "dbus-1.15.0", []string{"dbus-1", "dbus-1.14.10", "dbus-1.14.10-lib"}, "dbus-1.14.10"},
		{"another interpreter", "python3.13-requests-2.32", []string{"python3.12-requests-2.31", "python3.12-urllib3-2.32", "python3.13-urllib3-2.32"}, "python3.12-requests-2.31"},
		{"the same interpreter before that", "python3.13-six-1.17", []string{"python3.12-six-1.17", "python3.13-six-1.16"}, "python3.13-six-1.16"},
		{"a number of a device", "unit-getty-tty2.service", []string{"unit-getty-tty1.service", "unit-sshd.service"}, "unit-getty-tty1.service"},
		{"a font's resolution", "font-bh-100dpi-1.0.4", []string{"font-bh-75dpi-1.0.3", "font-bh-100dpi-1.0.3"}, "font-bh-100dpi-1.0.3"},
		{"a plus in a name", "gtk+3-3.24.43", []string{"gtk+2-2.24.33", "gtk+3-3.24.41"}, "gtk+3-3.24.41"},
		{"a name that begins with a digit", "7zip-24.09", []string{"7zip-24.08", "8zip-24.09"}, "7zip-24.08"},
		{"another package", "vim-9.1", []string{"vim-full-9.1", "vimrc", "nvim-9.1", "vim"}, ""},
		{"another output alone", "curl-8.10.1-dev", []string{"curl-8.9.1", "curl-8.9.1-man"}, ""},
		{"a package without a version", "firefox", []string{"firefox-131.0"}, ""},
		{"nothing to choose from", "vim-9.1", nil, ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			path := named(t, 'a', tt.path)
			have := namedAll(t, "bcdfghij", tt.have)
			want := ""
			if i := slices.Index(tt.have, tt.want); i >= 0 {
				want = have[i].Path.String()
			}
			for range 2 {
				if got := ChooseBases([]PathInfo{path}, have)[path.Path].Path.String(); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				slices.Reverse(have)
			}
		})
	}
}

func TestPathsOfTheSameNameShareBasesSensibly(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		paths []string
		have  []string
		want  []string
	}{
		{"each has its own", []string{"source:100", "source:200", "source:300"}, []string{"source:290", "source:110", "source:205"}, []string{"source:110", "source:205", "source:290"}},
		{"the same size first", []string{"source:100", "source:105"}, []string{"source:105", "source:900"}, []string{"source:900", "source:105"}},
		{"the nearest pair first", []string{"env:100", "env:110"}, []string{"env:109", "env:150"}, []string{"env:150", "env:109"}},
		{"too few bases", []string{"source:100", "source:200", "source:1000"}, []string{"source:110", "source:900"}, []string{"source:110", "source:110", "source:900"}},
		{"too many", []string{"source:100"}, []string{"source:10", "source:105", "source:5000"}, []string{"source:105"}},
		{"of another version too", []string{"python3-3.12.8-env:500", "python3-3.12.8-env:90"}, []string{"python3-3.12.7-env:100", "python3-3.12.7-env:490"}, []string{"python3-3.12.7-env:490", "python3-3.12.7-env:100"}},
		{"two versions of one package", []string{"openssl-3.0.15", "openssl-3.3.2"}, []string{"openssl-3.3.1", "openssl-3.0.14"}, []string{"openssl-3.0.14", "openssl-3.3.1"}},
		{"a rebuild beside an upgrade", []string{"gcc-13.3.0", "gcc-14.2.0"}, []string{"gcc-13.3.0"}, []string{"gcc-13.3.0", "gcc-13.3.0"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			paths, have := namedAll(t, letters, tt.paths), namedAll(t, letters[16:], tt.have)
			bases := ChooseBases(paths, have)
			for i, info := range paths {
				want := have[slices.Index(tt.have, tt.want[i])]
				if got := bases[info.Path]; got.Path != want.Path {
					t.Errorf("%s: got %v of %d bytes, want %s", tt.paths[i], got.Path, got.NarSize, tt.want[i])
				}
			}
		})
	}
}

func TestABaseThatIsStillNeededIsNoPredecessor(t *testing.T) {
	kept, replaced, path := named(t, 'b', "source:100"), named(t, 'c', "source:900"), named(t, 'a', "source:100")
	if got := ChooseBases([]PathInfo{kept, path}, []PathInfo{kept, replaced})[path.Path]; got.Path != replaced.Path {
		t.Errorf("%v", got)
	}
	if got := ChooseBases([]PathInfo{kept, path}, []PathInfo{kept})[path.Path]; got.Path != kept.Path {
		t.Errorf("nothing else is left: %v", got)
	}
}

func TestAPathIsNotItsOwnBase(t *testing.T) {
	path := named(t, 'a', "etc")
	if bases := ChooseBases([]PathInfo{path}, []PathInfo{path, named(t, 'b', "etc")}); len(bases) != 0 {
		t.Errorf("%v", bases)
	}
}

func TestScriptsOfManyUnitsFindTheirOwn(t *testing.T) {
	var paths, have []PathInfo
	for n := range 300 {
		text := fmt.Sprintf("unit-script-job%c%d-start:%d", 'a'+n%26, n, 100+n%3)
		paths, have = append(paths, withHash(t, n, text)), append(have, withHash(t, 1000+n, text))
	}
	bases := ChooseBases(paths, have)
	for i, info := range paths {
		if bases[info.Path].Path != have[i].Path {
			t.Fatalf("%v has %v", info.Path, bases[info.Path].Path)
		}
	}
}

func withHash(t testing.TB, n int, text string) PathInfo {
	name, digits, _ := strings.Cut(text, ":")
	path, err := storepath.ParseBase(fmt.Sprintf("%032d", n) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	info := PathInfo{Path: path}
	if _, err := fmt.Sscan(digits, &info.NarSize); err != nil {
		t.Fatal(err)
	}
	return info
}

// randomInfos have few names, so that many are alike.
func randomInfos(t testing.TB, r *rand.Rand, first, n int) (infos []PathInfo) {
	for i := range n {
		name := []string{"source", "etc", "a-1", "a-1.2", "a-1-dev", "b2-1.3-4", "b3-1.3", "007", "x-01", "x-1", "-2", "a--1", "a-1-"}[r.IntN(13)]
		if r.IntN(2) == 0 {
			name += fmt.Sprint("-", r.IntN(3), ".", r.IntN(12))
		}
		infos = append(infos, withHash(t, first+i, fmt.Sprint(name, ":", r.IntN(50))))
	}
	return infos
}

func TestTheOrderOfPathsChangesNoBase(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		paths, have := randomInfos(t, r, 0, r.IntN(80)), randomInfos(t, r, 60, r.IntN(80))
		want := ChooseBases(paths, have)
		for path, base := range want {
			if path == base.Path || !slices.ContainsFunc(have, func(info PathInfo) bool { return info.Path == base.Path }) {
				t.Fatalf("seed %d: %v has the base %v", seed, path, base.Path)
			}
		}
		paths, have = append(paths, paths...), append(have, have...)
		r.Shuffle(len(paths), func(i, k int) { paths[i], paths[k] = paths[k], paths[i] })
		r.Shuffle(len(have), func(i, k int) { have[i], have[k] = have[k], have[i] })
		if got := ChooseBases(paths, have); !maps.EqualFunc(got, want, func(a, b PathInfo) bool { return a.Path == b.Path }) {
			t.Fatalf("seed %d: %v, then %v", seed, want, got)
		}
	}
}

func TestTheNearestNameIsANeighbour(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	version := func() string {
		parts := make([]string, 1+r.IntN(4))
		for i := range parts {
			parts[i] = fmt.Sprint(r.IntN(12))
		}
		return "a-" + strings.Join(parts, []string{".", "-", "p"}[r.IntN(3)])
	}
	for range 500 {
		names := make([]string, 1+r.IntN(30))
		for i := range names {
			names[i] = version()
		}
		slices.SortFunc(names, compareNames)
		name := version()
		common, gap := nearness(nearestName(names, name), name)
		for _, other := range names {
			if c, g := nearness(other, name); c > common || c == common && g < gap {
				t.Fatalf("seed %d: %s is nearer to %s than %s", seed, other, name, nearestName(names, name))
			}
		}
	}
}

func TestOnlyTheNearestSizesArePaired(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 100 {
		paths, bases := randomInfos(t, r, 0, r.IntN(20)), randomInfos(t, r, 100, r.IntN(20))
		pairs := pairBySize(paths, bases)
		if len(pairs) != min(len(paths), len(bases)) {
			t.Fatalf("seed %d: %d pairs of %d and %d", seed, len(pairs), len(paths), len(bases))
		}
		used := make(map[storepath.Path]uint64)
		for _, path := range paths {
			if base, ok := pairs[path.Path]; ok {
				if _, twice := used[base.Path]; twice {
					t.Fatalf("seed %d: %v is used twice", seed, base.Path)
				}
				used[base.Path] = distance(base.NarSize, path.NarSize)
			}
		}
		// Wherever a path and a base are nearer than what they got, one of them got something nearer still.
		for _, path := range paths {
			for _, base := range bases {
				d := distance(path.NarSize, base.NarSize)
				got, pathPaired := pairs[path.Path]
				baseGap, basePaired := used[base.Path]
				if (!pathPaired || distance(got.NarSize, path.NarSize) > d) && (!basePaired || baseGap > d) {
					t.Fatalf("seed %d: %v and %v are nearer than what they got", seed, path.Path, base.Path)
				}
			}
		}
	}
}

// BenchmarkChooseBases has two systems of 5000 paths, and as many sources.
func BenchmarkChooseBases(b *testing.B) {
	var paths, have []PathInfo
	for n := range 5000 {
		paths = append(paths, withHash(b, n, fmt.Sprintf("package%d-1.%d:%d", n%4000, n%7, n)), withHash(b, 10_000+n, fmt.Sprintf("source:%d", n*7919%5000)))
		have = append(have, withHash(b, 20_000+n, fmt.Sprintf("package%d-1.%d:%d", n%4000, n%11, n)), withHash(b, 30_000+n, fmt.Sprintf("source:%d", n*31%5000)))
	}
	for b.Loop() {
		ChooseBases(paths, have)
	}
}

func TestABaseIsWhatHasTheSameContents(t *testing.T) {
	path, other, renamed := named(t, '0', "app-2:100"), named(t, 'z', "app-1:100"), named(t, 'y', "application-2:100")
	path.NarHash, renamed.NarHash, other.NarHash = [32]byte{1}, [32]byte{1}, [32]byte{2}
	if got := ChooseBases([]PathInfo{path}, []PathInfo{other, renamed})[path.Path].Path; got != renamed.Path {
		t.Errorf("got %q", got)
	}
	renamed.NarSize++ // so it says nothing true
	if got := ChooseBases([]PathInfo{path}, []PathInfo{other, renamed})[path.Path].Path; got != other.Path {
		t.Errorf("got %q", got)
	}
}
