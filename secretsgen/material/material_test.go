package material_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/bcrypt"

	"fleet/closure/run"
	"fleet/secretsgen/material"
	"fleet/secretsgen/secret"
)

// requireProgram skips a test on a machine without a program, and fails it where everything is expected to be there.
func requireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
}

// output runs a program of the machine with a text as its input.
func output(t testing.TB, input []byte, argv ...string) string {
	t.Helper()
	out, err := run.Output(t.Context(), run.Cmd{Argv: argv, Stdin: bytes.NewReader(input)})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// file writes a value where another program can read it.
func file(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPasswordsHaveTheLengthAndTheCharactersThatWereAskedFor(t *testing.T) {
	for _, symbols := range []material.Symbols{material.WithSymbols, material.WithoutSymbols} {
		for size := material.MinPassword; size < 200; size += 7 {
			p, err := material.Password(rand.Reader, size, symbols)
			if err != nil || p.Len() != size {
				t.Fatalf("%d characters of %d: %v", p.Len(), size, err)
			}
			isSymbol := func(r rune) bool {
				return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", r)
			}
			if i := bytes.IndexFunc(p.Bytes(), isSymbol); i >= 0 && symbols == material.WithoutSymbols {
				t.Errorf("symbol %q", p.Bytes()[i])
			}
			if bytes.ContainsAny(p.Bytes(), "\"'`$\\&|;<>(){}[]* \t\n") {
				t.Error("a character that ends a quoted text or is expanded in one")
			}
		}
	}
	for _, size := range []int{-1, 0, 5, secret.MaxValue + 1} {
		if _, err := material.Password(rand.Reader, size, material.WithSymbols); err == nil {
			t.Errorf("%d characters are accepted", size)
		}
	}
}

// Pearson's test: a fair draw exceeds the bound once in a million runs.
func TestEveryCharacterIsAsLikelyAsTheOthers(t *testing.T) {
	for name, test := range map[string]struct {
		symbols  material.Symbols
		alphabet int
	}{"with symbols": {material.WithSymbols, 77}, "without": {material.WithoutSymbols, 62}} {
		t.Run(name, func(t *testing.T) {
			const draws = 400_000
			p, err := material.Password(rand.Reader, draws, test.symbols)
			if err != nil {
				t.Fatal(err)
			}
			checkUniform(t, p.Bytes(), test.alphabet)
		})
	}
	for name, test := range map[string]struct {
		nuls  material.Nuls
		count int
	}{"bytes": {material.WithNuls, 256}, "bytes without zero": {material.WithoutNuls, 255}} {
		t.Run(name, func(t *testing.T) {
			data, err := material.Bytes(rand.Reader, 400_000, test.nuls)
			if err != nil {
				t.Fatal(err)
			}
			checkUniform(t, data.Bytes(), test.count)
		})
	}
}

func checkUniform(t *testing.T, data []byte, alphabet int) {
	t.Helper()
	counts := map[byte]int{}
	for _, b := range data {
		counts[b]++
	}
	if len(counts) != alphabet {
		t.Errorf("%d different characters, want %d", len(counts), alphabet)
	}
	expected, chi := float64(len(data))/float64(alphabet), 0.0
	for _, n := range counts {
		chi += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	// Mean k, variance 2k; five standard deviations.
	if k := float64(alphabet - 1); chi > k+5*math.Sqrt(2*k) {
		t.Errorf("chi² is %.0f for %.0f degrees of freedom", chi, k)
	}
}

func TestWhatIsDrawnComesFromTheReader(t *testing.T) {
	fixed := func() io.Reader { return bytes.NewReader(bytes.Repeat([]byte{1, 2, 3, 250, 0}, 1000)) }
	a, err := material.Password(fixed(), 20, material.WithSymbols)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := material.Password(fixed(), 20, material.WithSymbols)
	if !bytes.Equal(a.Bytes(), b.Bytes()) || string(a.Bytes()[:4]) != "BCDA" {
		t.Errorf("got %q and %q", a.Bytes(), b.Bytes())
	}
	broken := errors.New("no randomness")
	reader := iotest.ErrReader(broken)
	for name, err := range map[string]error{
		"password":  second(material.Password(reader, 20, material.WithSymbols)),
		"bytes":     second(material.Bytes(reader, 20, material.WithNuls)),
		"ed25519":   second(material.Ed25519(reader, material.SeedAlone)),
		"x25519":    second(material.X25519(reader)),
		"wireguard": second(material.WireGuard(reader)),
		"psk":       second(material.WireGuardPSK(reader)),
		"nix":       second(material.NixKey(reader, "a")),
		"ssh":       second(material.SSH(reader, material.SSHOptions{Type: material.SSHEd25519})),
		"ca":        second(material.CA(reader, caOptions(t, "ed25519"))),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestBytesHaveNoZerosWhereThatIsAskedFor(t *testing.T) {
	data, err := material.Bytes(rand.Reader, 100_000, material.WithoutNuls)
	if err != nil || bytes.IndexByte(data.Bytes(), 0) >= 0 || data.Len() != 100_000 {
		t.Errorf("%d bytes, %v", data.Len(), err)
	}
	if _, err := material.Bytes(rand.Reader, 0, material.WithNuls); err == nil {
		t.Error("no bytes are accepted")
	}
}

func TestEd25519HalvesBelongTogether(t *testing.T) {
	for _, form := range []material.PrivateForm{material.SeedAlone, material.SeedWithPublic} {
		pair, err := material.Ed25519(rand.Reader, form)
		if err != nil {
			t.Fatal(err)
		}
		private := ed25519.NewKeyFromSeed(pair.Private.Bytes()[:32])
		if !bytes.Equal(private[32:], pair.Public) || pair.Private.Len() != map[material.PrivateForm]int{material.SeedAlone: 32, material.SeedWithPublic: 64}[form] {
			t.Errorf("private %d bytes, public %x", pair.Private.Len(), pair.Public)
		}
		if form == material.SeedWithPublic && !bytes.Equal(pair.Private.Bytes(), private) {
			t.Error("the public half is not embedded")
		}
	}
}

func TestX25519AndWireGuardHalvesBelongTogether(t *testing.T) {
	raw, err := material.X25519(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	checkX25519(t, raw.Private.Bytes(), raw.Public)
	pair, err := material.WireGuard(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := base64.StdEncoding.DecodeString(string(pair.Private.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	public, err := base64.StdEncoding.DecodeString(string(pair.Public))
	if err != nil {
		t.Fatal(err)
	}
	checkX25519(t, private, public)
	if _, err := exec.LookPath("wg"); err == nil {
		if got := output(t, pair.Private.Bytes(), "wg", "pubkey"); got != string(pair.Public) {
			t.Errorf("wg says %q, we %q", got, pair.Public)
		}
	}
	psk, err := material.WireGuardPSK(rand.Reader)
	if key, decodeErr := base64.StdEncoding.DecodeString(string(psk.Bytes())); err != nil || decodeErr != nil || len(key) != 32 {
		t.Errorf("psk of %d bytes: %v, %v", len(key), err, decodeErr)
	}
}

func checkX25519(t *testing.T, private, public []byte) {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.PublicKey().Bytes(), public) {
		t.Error("the halves do not belong together")
	}
	if private[0]&7 != 0 || private[31]&0xc0 != 0x40 {
		t.Error("the private key is not clamped")
	}
}

func TestAgeReadsItsIdentity(t *testing.T) {
	requireProgram(t, "age")
	pair, err := material.Age()
	if err != nil {
		t.Fatal(err)
	}
	identity := file(t, pair.Private.Bytes())
	sealed, err := run.Output(t.Context(), run.Cmd{Argv: []string{"age", "-r", string(pair.Public)}, Stdin: strings.NewReader("hello")})
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, sealed, "age", "-d", "-i", identity); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestNixReadsItsKey(t *testing.T) {
	requireProgram(t, "nix")
	pair, err := material.NixKey(rand.Reader, "cache.example.org-1")
	if err != nil {
		t.Fatal(err)
	}
	got := output(t, pair.Private.Bytes(), "nix", "--extra-experimental-features", "nix-command", "key", "convert-secret-to-public")
	if got != string(pair.Public) || !strings.HasPrefix(got, "cache.example.org-1:") {
		t.Errorf("nix says %q, we %q", got, pair.Public)
	}
	for _, name := range []string{"", "a:b", "a b", "a\nb"} {
		if _, err := material.NixKey(rand.Reader, name); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
}

func TestOpensslReadsRSAKeys(t *testing.T) {
	requireProgram(t, "openssl")
	pair, err := material.RSA(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, pair.Private.Bytes(), "openssl", "pkey", "-pubout"); got != strings.TrimSpace(string(pair.Public)) {
		t.Errorf("openssl says %q, we %q", got, pair.Public)
	}
	if got := output(t, pair.Private.Bytes(), "openssl", "rsa", "-check", "-noout"); !strings.Contains(got, "RSA key ok") {
		t.Errorf("openssl says %q", got)
	}
	for _, bits := range []int{0, 1024, 2047, 1 << 20} {
		if _, err := material.RSA(rand.Reader, bits); err == nil {
			t.Errorf("%d bits are accepted", bits)
		}
	}
}

func TestSSHKeygenReadsSSHKeys(t *testing.T) {
	requireProgram(t, "ssh-keygen")
	for name, opt := range map[string]material.SSHOptions{
		"ed25519":   {Type: "ed25519", Comment: "deploy key of web"},
		"rsa":       {Type: "rsa", Bits: 2048},
		"ecdsa":     {Type: "ecdsa", Comment: "x"},
		"ecdsa 384": {Type: "ecdsa", Bits: 384},
		"ecdsa 521": {Type: "ecdsa", Bits: 521},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := material.SSH(rand.Reader, opt)
			if err != nil {
				t.Fatal(err)
			}
			if got := output(t, nil, "ssh-keygen", "-y", "-f", file(t, pair.Private.Bytes())); got != string(pair.Public) {
				t.Errorf("ssh-keygen says %q, we %q", got, pair.Public)
			}
		})
	}
	for name, opt := range map[string]material.SSHOptions{
		"dsa": {Type: "dsa"}, "a small rsa key": {Type: "rsa", Bits: 1024}, "a strange curve": {Type: "ecdsa", Bits: 255},
		"a long ed25519 key": {Type: "ed25519", Bits: 512}, "a comment of two lines": {Type: "ed25519", Comment: "a\nssh-ed25519 AAAA"},
	} {
		if _, err := material.SSH(rand.Reader, opt); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestBcryptVerifies(t *testing.T) {
	password := []byte("correct horse battery staple")
	hash, err := material.Bcrypt(secret.NewPlain(password), material.MinBcrypt)
	if err != nil {
		t.Fatal(err)
	}
	if err := bcrypt.CompareHashAndPassword(hash.Bytes(), password); err != nil {
		t.Error(err)
	}
	requireProgram(t, "perl")
	if got := output(t, append(append([]byte{}, hash.Bytes()...), "\n"+string(password)...), "perl", "-e", `chomp(my $h = <STDIN>); my $p = <STDIN>; print crypt($p, $h)`); got != string(hash.Bytes()) {
		t.Errorf("crypt(3) says %q of %q", got, hash.Bytes())
	}
	for name, bad := range map[string]struct {
		password string
		cost     int
	}{
		"empty": {"", 12}, "73 bytes": {strings.Repeat("x", 73), 12}, "a zero byte": {"a\x00b", 12}, "cheap": {"hunter2x", 4}, "for years": {"hunter2x", 31},
	} {
		_, err := material.Bcrypt(secret.NewPlain([]byte(bad.password)), bad.cost)
		if err == nil || bad.password != "" && strings.Contains(err.Error(), bad.password) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
