package storepath

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	hash  = "0c4d6b8z1v2x3y5w7q9rsndfghijklmp"
	hello = StoreDir + "/" + hash + "-hello-2.12"
)

func TestParseTakesAPathApart(t *testing.T) {
	p, err := Parse(hello)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{p.String(), p.Base(), p.Hash(), p.Name()}
	want := []string{hello, hash + "-hello-2.12", hash, "hello-2.12"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p.IsZero() || p.IsDerivation() {
		t.Error("a package is taken for the zero path or for a derivation")
	}
}

func TestParseRefuses(t *testing.T) {
	for rule, text := range map[string]string{
		"empty text":                        "",
		"store itself":                      StoreDir,
		"other store":                       "/gnu/store/" + hash + "-a",
		"base name":                         hash + "-a",
		"something below a path":            hello + "/bin",
		"trailing slash":                    hello + "/",
		"double slash":                      StoreDir + "//" + hash + "-a",
		"short hash":                        StoreDir + "/" + hash[1:] + "-a",
		"long hash":                         StoreDir + "/0" + hash + "-a",
		"hash with a letter that is not":    StoreDir + "/e" + hash[1:] + "-a",
		"upper-case hash":                   StoreDir + "/" + strings.ToUpper(hash) + "-a",
		"no name":                           StoreDir + "/" + hash,
		"empty name":                        StoreDir + "/" + hash + "-",
		"name of 212 bytes":                 StoreDir + "/" + hash + "-" + strings.Repeat("a", 212),
		"space":                             StoreDir + "/" + hash + "-a b",
		"newline":                           StoreDir + "/" + hash + "-a\n",
		"NUL":                               StoreDir + "/" + hash + "-a\x00",
		"letter beyond ASCII":               StoreDir + "/" + hash + "-ä",
		"single dot":                        StoreDir + "/" + hash + "-.",
		"two dots":                          StoreDir + "/" + hash + "-..",
		"single dot before a dash":          StoreDir + "/" + hash + "-.-a",
		"two dots before a dash":            StoreDir + "/" + hash + "-..-a",
		"dots up the tree":                  StoreDir + "/../store/" + hash + "-a",
		"underscore in the place of a dash": StoreDir + "/" + hash + "_a",
	} {
		t.Run(rule, func(t *testing.T) {
			p, err := Parse(text)
			var parse *ParseError
			if !errors.As(err, &parse) || !p.IsZero() {
				t.Errorf("Parse(%q) = %q, %v", text, p, err)
			}
		})
	}
}

func TestParseAcceptsAllLegalNames(t *testing.T) {
	for _, name := range []string{"a", "A.b-c+d_e?f=g", ".hidden", "...", "..a", strings.Repeat("x", MaxNameLength)} {
		if p, err := ParseBase(hash + "-" + name); err != nil || p.Name() != name {
			t.Errorf("ParseBase(%q) = %q, %v", name, p, err)
		}
	}
}

func TestParseErrorIsBounded(t *testing.T) {
	_, err := Parse(strings.Repeat("x", 1<<20))
	if len(err.Error()) > 1000 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestContainingFindsTheStorePathOfAFile(t *testing.T) {
	for _, file := range []string{hello, hello + "/bin/hello"} {
		if p, err := Containing(file); err != nil || p.String() != hello {
			t.Errorf("Containing(%q) = %q, %v", file, p, err)
		}
	}
	for _, file := range []string{"/etc/passwd", StoreDir, hello + "/../x", hello + "/"} {
		if p, err := Containing(file); err == nil {
			t.Errorf("Containing(%q) = %q", file, p)
		}
	}
}

func TestJSONKeepsPathsAndTheZeroPath(t *testing.T) {
	type document struct {
		A, B Path
		M    map[Path]int
	}
	p, _ := Parse(hello)
	in := document{A: p, M: map[Path]int{p: 1}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out document
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, cmp.Comparer(func(a, b Path) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if err := json.Unmarshal([]byte(`{"A":"/etc"}`), &out); err == nil {
		t.Error("a path outside of the store was decoded")
	}
}

func TestCompareOrdersLikeText(t *testing.T) {
	texts := []string{StoreDir + "/" + hash + "-b", StoreDir + "/1" + hash[1:] + "-a", StoreDir + "/" + hash + "-a-b", StoreDir + "/" + hash + "-a"}
	var paths []Path
	for _, text := range texts {
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	slices.SortFunc(paths, Compare)
	slices.Sort(texts)
	for i := range paths {
		if paths[i].String() != texts[i] {
			t.Errorf("place %d: %q, not %q", i, paths[i], texts[i])
		}
	}
}

func TestBase32OfKnownHashes(t *testing.T) {
	// The values are those that `nix hash to-base32` prints.
	for hexText, want := range map[string]string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
		"": "",
	} {
		data, _ := hex.DecodeString(hexText)
		if got := EncodeBase32(data); got != want {
			t.Errorf("EncodeBase32(%s) = %s", hexText, got)
		}
		back, err := DecodeBase32(want, len(data))
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("DecodeBase32(%s) = %x, %v", want, back, err)
		}
	}
}

func TestDecodeBase32Refuses(t *testing.T) {
	good := EncodeBase32(make([]byte, 32))
	for rule, text := range map[string]string{"short": good[1:], "long": good + "0", "letter e": "e" + good[1:], "bits that do not fit": "z" + good[1:]} {
		if data, err := DecodeBase32(text, 32); err == nil {
			t.Errorf("%s: %x", rule, data)
		}
	}
}

func TestFingerprintJoinsReferences(t *testing.T) {
	p, _ := Parse(hello)
	info := Info{Path: p, NarHash: sha256.Sum256(nil), NarSize: 12, References: []Path{p, p}}
	want := "1;" + hello + ";sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;12;" + hello + "," + hello
	if got := info.Fingerprint(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{hello, hello + "/bin", StoreDir + "/" + hash + "-..", "", "/nix/store/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			if !p.IsZero() {
				t.Fatalf("error and path %q", p)
			}
			return
		}
		if p.String() != text || p.Hash()+"-"+p.Name() != p.Base() || strings.ContainsAny(p.Name(), "/\x00") {
			t.Fatalf("Parse(%q) = %q", text, p)
		}
		if q, err := ParseBase(p.Base()); err != nil || q != p {
			t.Fatalf("ParseBase(%q) = %q, %v", p.Base(), q, err)
		}
	})
}

func FuzzBase32(f *testing.F) {
	f.Add([]byte("a"), "0mdqa9w1")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		back, err := DecodeBase32(EncodeBase32(data), len(data))
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%x came back as %x, %v", data, back, err)
		}
		size := len(text) * 5 / 8
		if decoded, err := DecodeBase32(text, size); err == nil && EncodeBase32(decoded) != text {
			t.Fatalf("%q came back as %q", text, EncodeBase32(decoded))
		}
	})
}
