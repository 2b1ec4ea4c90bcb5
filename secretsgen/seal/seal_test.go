package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

func TestOnlyItsOwnerOpensASealedValue(t *testing.T) {
	for kind, newHost := range map[string]func(testing.TB) host{"ssh-ed25519": newHost, "ssh-rsa": newRSAHost} {
		owner, other := newHost(t), newHost(t)
		for name, value := range map[string]string{
			"text": "hunter2\x00\n", "empty": "", "a chunk of age's": strings.Repeat("x", 64<<10), "the largest": strings.Repeat("y", secret.MaxValue),
		} {
			c := context(t)
			s := sealTo(t, owner.to, c, value)
			opened, err := seal.Open(s.armor, c, s.commit, owner.identities...)
			if err != nil || string(opened.Value.Bytes()) != value || len(opened.Salt) != seal.SaltSize {
				t.Errorf("%s, %s: got %d bytes, %v", kind, name, opened.Value.Len(), err)
			}
			if _, err := seal.Open(s.armor, c, s.commit, other.identities...); !errors.Is(err, seal.ErrNotForUs) {
				t.Errorf("%s, %s: another host: %v", kind, name, err)
			}
			header, err := seal.Inspect(s.armor)
			if err != nil || !header.IsFor(owner.to) || header.IsFor(other.to) {
				t.Errorf("%s, %s: header %+v, %v", kind, name, header, err)
			}
		}
	}
}

func TestWhatCannotBeSealedIsRefused(t *testing.T) {
	owner, c := newHost(t), context(t)
	if _, err := seal.Seal(c, nil, secret.NewPlain(make([]byte, secret.MaxValue+1)), owner.to); err == nil {
		t.Error("a value that is too large was sealed")
	}
	if _, err := seal.Seal(c, nil, secret.Plain{}, seal.Recipient{}); err == nil {
		t.Error("a value was sealed to nobody")
	}
}

// TestAFileOfSomethingElseIsRefused swaps, replays and mixes.
func TestAFileOfSomethingElseIsRefused(t *testing.T) {
	owner := newHost(t)
	c := context(t)
	s := sealTo(t, owner.to, c, "value")
	for name, change := range map[string]func(*seal.Context){
		"another fleet's":            func(c *seal.Context) { c.Fleet = "staging" },
		"another host's":             func(c *seal.Context) { c.ID.Scope = secret.OfHost("mail") },
		"shared, not the host's":     func(c *seal.Context) { c.ID.Scope = secret.Shared },
		"swapped with another":       func(c *seal.Context) { c.ID.Name = "api" },
		"another part":               func(c *seal.Context) { c.Part = "hash" },
		"replayed, older generation": func(c *seal.Context) { c.Gen = context(t).Gen },
		"replayed, older number":     func(c *seal.Context) { c.Seq++ },
	} {
		want := c
		change(&want)
		_, err := seal.Open(s.armor, want, s.commit, owner.identities...)
		if !errors.Is(err, seal.ErrContext) || errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if got := err.Error(); strings.Contains(got, "value\"") || !strings.Contains(got, string(c.Gen)) {
			t.Errorf("%s: the error does not say what the file is: %s", name, got)
		}
	}
	salted := sealTo(t, owner.to, c, "value")
	for name, commit := range map[string]string{"zeros": strings.Repeat("0", 64), "of another salt": salted.commit, "empty": "", "in capitals": strings.ToUpper(s.commit)} {
		if _, err := seal.Open(s.armor, c, commit, owner.identities...); !errors.Is(err, seal.ErrCommit) {
			t.Errorf("commitment %s: %v", name, err)
		}
	}
}

// TestAValueThatSomebodyElseMadeIsRefused: everybody who knows a host's public key can make a file for it.
func TestAValueThatSomebodyElseMadeIsRefused(t *testing.T) {
	owner, c := newHost(t), context(t)
	s := sealTo(t, owner.to, c, "value")
	forged := sealTo(t, owner.to, c, "another")
	if _, err := seal.Open(forged.armor, c, s.commit, owner.identities...); !errors.Is(err, seal.ErrCommit) {
		t.Error(err)
	}
	if _, err := seal.Open(encrypt(t, owner, []byte("no envelope, but a hunter2")), c, s.commit, owner.identities...); !errors.Is(err, seal.ErrDamaged) || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// encrypt makes an age file that is not ours.
func encrypt(t testing.TB, to host, plaintext []byte) string {
	t.Helper()
	var out strings.Builder
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, wrapTo{to})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestADamagedFileIsRefused flips every bit of every byte of a sealed file.
func TestADamagedFileIsRefused(t *testing.T) {
	owner, c := newHost(t), context(t)
	s := sealTo(t, owner.to, c, "value")
	notForUs := 0
	for i := range len(s.armor) {
		for bit := range 8 {
			changed := []byte(s.armor)
			changed[i] ^= 1 << bit
			_, err := seal.Open(string(changed), c, s.commit, owner.identities...)
			switch {
			case errors.Is(err, seal.ErrNotForUs):
				notForUs++
			case !errors.Is(err, seal.ErrDamaged):
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
			if _, err := seal.Inspect(string(changed)); err != nil && !errors.Is(err, seal.ErrDamaged) {
				t.Fatalf("inspect, byte %d bit %d: %v", i, bit, err)
			}
		}
	}
	// The header says in 17 characters whom a file is for: "ssh-ed25519" and the key's tag. A change there gives another reader.
	if most := (17*4/3 + 3) * 8; notForUs == 0 || notForUs > most {
		t.Errorf("%d of the changes were taken for a file of another host, want 1 to %d", notForUs, most)
	}
}

func TestATruncatedFileIsRefused(t *testing.T) {
	owner, c := newHost(t), context(t)
	s := sealTo(t, owner.to, c, strings.Repeat("value", 20000))
	step := 1
	for n := 0; n < len(s.armor); n += step {
		if _, err := seal.Open(s.armor[:n], c, s.commit, owner.identities...); !errors.Is(err, seal.ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		if n > 1000 {
			step = 997
		}
	}
	// The same with an armor that looks whole.
	raw := dearmored(t, s.armor)
	for _, n := range []int{0, 10, 100, 150, 200, 300, 65536 + 200, 65536 + 260, len(raw) - 17, len(raw) - 1} {
		if _, err := seal.Open(armored(t, raw[:n]), c, s.commit, owner.identities...); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("cut to %d bytes below the armor: %v", n, err)
		}
	}
	// A cut at the end of a chunk is the one that age gives out plaintext before: it must not be taken for the value.
	if _, err := seal.Inspect(armored(t, raw[:200])); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("inspect of a cut payload: %v", err)
	}
}

func dearmored(t testing.TB, text string) []byte {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func armored(t testing.TB, raw []byte) string {
	t.Helper()
	var out strings.Builder
	w := armor.NewWriter(&out)
	_, err := w.Write(raw)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestPlaintextInPlaceOfAFileIsRefusedAndNotQuoted: errors end in logs.
func TestPlaintextInPlaceOfAFileIsRefusedAndNotQuoted(t *testing.T) {
	owner, c := newHost(t), context(t)
	const value = "hunter2-in-plain"
	for name, text := range map[string]string{
		"the value":         value,
		"a line":            value + "\n",
		"below a header":    armor.Header + "\n" + value + "\n" + armor.Footer + "\n",
		"after good armor":  armored(t, []byte(value)) + value + "\n",
		"before good armor": value + "\n" + armored(t, []byte(value)),
		"in armor":          armored(t, []byte(value)),
		"in a stanza":       armored(t, []byte("age-encryption.org/v1\n-> "+value+"\n"+value+"\n--- "+value+"\n"+value)),
		"no stanza":         armored(t, []byte("age-encryption.org/v1\n"+value+"\n")),
		"private key":       "-----BEGIN OPENSSH PRIVATE KEY-----\n" + value + "\n-----END OPENSSH PRIVATE KEY-----\n",
		"age key":           "AGE-SECRET-KEY-1" + value + "\n",
		"empty":             "",
		"conflict":          "<<<<<<< HEAD\n" + value + "\n=======\n" + value + "\n>>>>>>> b\n",
	} {
		_, err := seal.Open(text, c, strings.Repeat("0", 64), owner.identities...)
		_, inspected := seal.Inspect(text)
		for _, err := range []error{err, inspected} {
			if !errors.Is(err, seal.ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			} else if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "hunter2") || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("%s: the error quotes the file: %v", name, err)
			}
		}
	}
}

func TestOtherSpellingsOfArmorAreRefused(t *testing.T) {
	owner, c := newHost(t), context(t)
	s := sealTo(t, owner.to, c, "value")
	for name, text := range map[string]string{
		"CRLF": strings.ReplaceAll(s.armor, "\n", "\r\n"), "space before": "\n" + s.armor, "space after": s.armor + "\n", "no last newline": strings.TrimSuffix(s.armor, "\n"),
		"twice": s.armor + s.armor, "short lines": strings.Replace(s.armor, "YWdl", "YWdl\n", 1), "lines joined": strings.Replace(s.armor, "\n", "", 2),
	} {
		if _, err := seal.Open(text, c, s.commit, owner.identities...); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAHostileFileCostsBoundedMemoryAndTime opens files that are made to be expensive.
func TestAHostileFileCostsBoundedMemoryAndTime(t *testing.T) {
	ed, rsa := newHost(t), newRSAHost(t)
	identities := append(append([]age.Identity(nil), ed.identities...), rsa.identities...)
	tag := header(t, rsa).Stanzas[0].Tag
	const mib = 1 << 20
	lines := func(line string, size int) string { return strings.Repeat(line, size/len(line)) }
	files := map[string]string{
		"one endless line":          strings.Repeat("A", 100*mib),
		"endless armor":             armor.Header + "\n" + lines(strings.Repeat("A", 64)+"\n", 100*mib) + armor.Footer + "\n",
		"endless space":             strings.Repeat("\n", 100*mib),
		"one long line in armor":    armor.Header + "\n" + strings.Repeat("A", mib) + "\n" + armor.Footer + "\n",
		"one long line in a header": armored(t, []byte("age-encryption.org/v1\n-> X "+strings.Repeat("a", mib))),
		"many arguments":            armored(t, []byte("age-encryption.org/v1\n-> X"+strings.Repeat(" a", mib/2)+"\n\n")),
		"many stanzas":              armored(t, []byte("age-encryption.org/v1\n"+lines("-> X\n\n", mib)+"--- AAAA\n")),
		"many keys of ours":         armored(t, []byte("age-encryption.org/v1\n"+lines("-> ssh-rsa "+tag+"\n"+lines(strings.Repeat("A", 64)+"\n", 5*65)+strings.Repeat("A", 22)+"\n", 350<<10)+"--- "+strings.Repeat("A", 43)+"\n")),
		"long stanza":               armored(t, []byte("age-encryption.org/v1\n-> ssh-rsa "+tag+"\n"+lines(strings.Repeat("A", 64)+"\n", mib))),
	}
	for name, text := range files {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		_, err := seal.Open(text, context(t), strings.Repeat("0", 64), identities...)
		_, inspected := seal.Inspect(text)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if err == nil || inspected == nil && name != "many keys of ours" {
			t.Errorf("%s: %v, %v", name, err, inspected)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: its error has %d bytes", name, len(err.Error()))
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64*mib {
			t.Errorf("%s: %d MiB were allocated", name, used/mib)
		}
		if took > 20*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		t.Logf("%s: %d KiB, %s: %v", name, (after.TotalAlloc-before.TotalAlloc)>>10, took.Round(time.Millisecond), err)
	}
}

func header(t testing.TB, h host) seal.Header {
	t.Helper()
	got, err := seal.Inspect(sealTo(t, h.to, context(t), "x").armor)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRewrappingGivesOthersTheSameValueAndNobodyElse(t *testing.T) {
	owner, second, third := newHost(t), newRSAHost(t), newHost(t)
	var parts []seal.Ref
	for i := range 3 {
		c := context(t)
		s := sealTo(t, owner.to, c, fmt.Sprint("value ", i))
		parts = append(parts, seal.Ref{Fleet: c.Fleet, ID: c.ID, Part: c.Part, Gen: c.Gen, Seq: c.Seq, Armor: s.armor, Commit: s.commit})
	}
	parts[1].Seq++ // a replay, in the middle
	result, err := seal.RewrapAll(seal.RewrapRequest{Parts: parts, To: map[string]string{"second": second.to.Key, "third": third.to.Key}}, owner.identities...)
	if err != nil || len(result.Parts) != 3 {
		t.Fatal(result, err)
	}
	if result.Parts[1].Error == "" || result.Parts[1].Sealed != nil {
		t.Errorf("the broken part: %+v", result.Parts[1])
	}
	for _, i := range []int{0, 2} {
		for name, h := range map[string]host{"second": second, "third": third} {
			part := result.Parts[i].Sealed[name]
			opened, err := seal.Open(part.Armor, parts[i].Context(), parts[i].Commit, h.identities...)
			if err != nil || string(opened.Value.Bytes()) != fmt.Sprint("value ", i) || secret.Checksum(part.Armor) != part.SHA256 {
				t.Errorf("part %d for %s: %v", i, name, err)
			}
			if head, err := seal.Inspect(part.Armor); err != nil || !head.IsFor(h.to) {
				t.Errorf("part %d for %s: %+v, %v", i, name, head, err)
			}
		}
	}
	if _, err := seal.RewrapAll(seal.RewrapRequest{To: map[string]string{"x": "ecdsa-sha2-nistp256 AAAA"}}); err == nil {
		t.Error("a key that is none was taken")
	}
	wrong := seal.VerifyAll(parts, owner.identities...)
	if len(wrong) != 3 || wrong[0] != "" || wrong[1] == "" || wrong[2] != "" {
		t.Errorf("verify: %q", wrong)
	}
}

func TestHostKeysAreChosenAndRead(t *testing.T) {
	_, ecdsa := keyFile(t, ecdsaKey(t))
	ed, rsa := newHost(t), newRSAHost(t)
	for name, test := range map[string]struct {
		keys []string
		want string
	}{
		"ed25519 first":    {[]string{ecdsa, rsa.to.Key, ed.to.Key}, ed.to.Key},
		"rsa where none":   {[]string{ecdsa, rsa.to.Key}, rsa.to.Key},
		"comment":          {[]string{ed.to.Key + " root@web"}, ed.to.Key},
		"the first of two": {[]string{ed.to.Key, newHost(t).to.Key}, ed.to.Key},
	} {
		if got, err := seal.Choose(test.keys); err != nil || got.Key != test.want || !strings.HasPrefix(got.Fingerprint, "SHA256:") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, keys := range map[string][]string{"none": nil, "ecdsa": {ecdsa}, "not a key": {"ssh-ed25519 AAAA"}, "only its type": {"ssh-ed25519"}} {
		if got, err := seal.Choose(keys); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := seal.ParseRecipient(ecdsa); !errors.Is(err, seal.ErrKeyType) {
		t.Error(err)
	}
}

func TestAHostWithoutAUsableKeySaysWhichFilesItLookedAt(t *testing.T) {
	ecdsaFile, _ := keyFile(t, ecdsaKey(t))
	dir := t.TempDir()
	absent, garbage, large := filepath.Join(dir, "absent"), filepath.Join(dir, "garbage"), filepath.Join(dir, "large")
	for file, data := range map[string][]byte{garbage: []byte("hunter2"), large: bytes.Repeat([]byte("x"), 1<<20)} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := seal.LoadIdentities(absent, garbage, large, ecdsaFile)
	var none *seal.NoKeyError
	if !errors.As(err, &none) || !strings.Contains(none.Hint(), "fleet secrets host-key") || !strings.Contains(none.Hint(), "fleet secrets status") {
		t.Fatal(err)
	}
	for _, want := range []string{absent, garbage, large, ecdsaFile, "is not there", "larger"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("the error quotes a key file")
	}
	if _, err := seal.LoadIdentities(); err == nil {
		t.Error("no files, and no error")
	}
	good := newHost(t)
	ids, err := seal.LoadIdentities(garbage, ecdsaFile, good.file, newRSAHost(t).file)
	if err != nil || len(ids) != 2 || seal.Fingerprints(ids)[0] != good.to.Fingerprint {
		t.Errorf("one unusable key took the others along: %v %v", ids, err)
	}
	c := context(t)
	if _, err := seal.Open(sealTo(t, good.to, c, "x").armor, c, ""); !errors.Is(err, seal.ErrNotForUs) {
		t.Error("opened without a key:", err)
	}
}
