package closure

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestVerifyReaderHoldsBackTheEndOfACorruptNAR(t *testing.T) {
	data := []byte(strings.Repeat("nar", 1000))
	info := PathInfo{Path: testPath(t, "a"), NarHash: sha256.Sum256(data), NarSize: uint64(len(data))}
	changed := bytes.Clone(data)
	changed[len(changed)-1]++
	wrong := info
	wrong.NarSize++
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "error with data": iotest.DataErrReader,
	} {
		got, err := io.ReadAll(VerifyReader(info, wrap(strings.NewReader(string(data)+"what follows"))))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		var corrupt *CorruptError
		got, err = io.ReadAll(VerifyReader(info, wrap(bytes.NewReader(changed))))
		if !errors.As(err, &corrupt) || len(got) >= len(data) {
			t.Errorf("%s: changed: %d bytes, %v", name, len(got), err)
		}
		if _, err = io.ReadAll(VerifyReader(wrong, wrap(bytes.NewReader(data)))); !errors.As(err, &corrupt) || corrupt.GotSize != info.NarSize {
			t.Errorf("%s: too short: %v", name, err)
		}
	}
	broken := errors.New("broken")
	if _, err := io.ReadAll(VerifyReader(info, io.MultiReader(bytes.NewReader(data[:10]), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Error(err)
	}
	empty := PathInfo{NarHash: sha256.Sum256(nil)}
	if _, err := io.ReadAll(VerifyReader(empty, strings.NewReader("x"))); err != nil {
		t.Error(err)
	}
}

func TestSigningKeyNeverShows(t *testing.T) {
	key, err := ParseSigningKey(generatedKey(t))
	if err != nil {
		t.Fatal(err)
	}
	secret := string(key.key)
	text, err := json.Marshal(struct{ K *SigningKey }{key})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{key.String(), fmt.Sprint(key), fmt.Sprintf("%#v", key), fmt.Sprintf("%+v", key), fmt.Sprintf("%x", key), fmt.Sprintf("%s", []*SigningKey{key}), string(text)} {
		if strings.Contains(shown, secret[:8]) || !strings.Contains(shown, "redacted") && !strings.Contains(shown, "0x") {
			t.Errorf("shown as %q", shown)
		}
	}
}

func TestParseSigningKeyRefusesAndKeepsQuiet(t *testing.T) {
	good := generatedKey(t)
	name, data, _ := strings.Cut(good, ":")
	other, err := ParseSigningKey(generatedKey(t))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := ParseSigningKey(good)
	if err != nil {
		t.Fatal(err)
	}
	halves := append(bytes.Clone(mine.key[:ed25519.SeedSize]), other.key[ed25519.SeedSize:]...)
	for rule, text := range map[string]string{
		"empty":                      "",
		"no name":                    ":" + data,
		"no colon":                   data,
		"name with a space":          "a b:" + data,
		"short":                      name + ":" + data[:40],
		"no base64":                  name + ":" + strings.Replace(data, data[:1], "!", 1),
		"a public key":               other.PublicKey().String(),
		"halves of two keys":         name + ":" + base64.StdEncoding.EncodeToString(halves),
		"something after the base64": good + " x",
	} {
		key, err := ParseSigningKey(text)
		if err == nil {
			t.Errorf("%s: %v", rule, key)
			continue
		}
		if len(data) > 20 && strings.Contains(err.Error(), data[4:20]) {
			t.Errorf("%s: the error shows the key: %v", rule, err)
		}
	}
	if key, err := ParseSigningKey(" " + good + "\n"); err != nil || key.Name() != name {
		t.Error(key, err)
	}
}
