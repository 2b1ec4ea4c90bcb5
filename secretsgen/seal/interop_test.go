package seal_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// wrapTo encrypts to a host, with what other programs add around its stanza.
type wrapTo struct{ host }

func (w wrapTo) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	r, err := agessh.ParseRecipient(w.to.Key)
	if err != nil {
		return nil, err
	}
	return r.Wrap(fileKey)
}

// greased also writes stanzas as rage does, which mean nothing and have any content, before and behind the real one.
type greased struct{ wrapTo }

func (g greased) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, err := g.wrapTo.Wrap(fileKey)
	body := make([]byte, 100)
	_, _ = rand.Read(body)
	grease := func(args ...string) *age.Stanza {
		return &age.Stanza{Type: "4:?j-grease", Args: args, Body: body}
	}
	return append(append([]*age.Stanza{grease("Aj$0", "[")}, stanzas...), grease()), err
}

func TestAFileWithRagesGreaseIsOpenedAndIsForItsOwnerAlone(t *testing.T) {
	owner, c := newHost(t), context(t)
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	value := secret.NewPlain([]byte("value"))
	var out bytes.Buffer
	w, err := age.Encrypt(&out, greased{wrapTo{owner}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(seal.Envelope(c, salt, value).Bytes())
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	text := armored(t, out.Bytes())
	opened, err := seal.Open(text, c, seal.Commit(c, salt, value), owner.identities...)
	if err != nil || string(opened.Value.Bytes()) != "value" {
		t.Errorf("%q, %v", opened.Value.Bytes(), err)
	}
	if h, err := seal.Inspect(text); err != nil || !h.IsFor(owner.to) || len(h.Stanzas) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestAFileForTwoIsForNobodyAlone(t *testing.T) {
	owner, other := newHost(t), newHost(t)
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, second := range map[string]age.Recipient{"another host": wrapTo{other}, "an age key": x.Recipient()} {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, wrapTo{owner}, second)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		h, err := seal.Inspect(armored(t, out.Bytes()))
		if err != nil || h.IsFor(owner.to) || h.IsFor(other.to) || len(h.Stanzas) != 2 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// TestTheProgramAgeOpensWhatIsSealed is the way out, should this program ever be gone.
func TestTheProgramAgeOpensWhatIsSealed(t *testing.T) {
	program := requireProgram(t, "age")
	for kind, h := range map[string]host{"ssh-ed25519": newHost(t), "ssh-rsa": newRSAHost(t)} {
		c := context(t)
		salt, err := seal.NewSalt()
		if err != nil {
			t.Fatal(err)
		}
		value := secret.NewPlain([]byte("hunter2\n" + strings.Repeat("\x00\xff", 70000)))
		part, err := seal.Seal(c, salt, value, h.to)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "secret.age")
		if err := os.WriteFile(file, []byte(part.Armor), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command(program, "-d", "-i", h.file, file).Output()
		if err != nil || !bytes.Equal(got, seal.Envelope(c, salt, value).Bytes()) {
			t.Errorf("%s: %d bytes, %v", kind, len(got), err)
		}
		if _, err := exec.Command(program, "-d", "-i", newHost(t).file, file).Output(); err == nil {
			t.Errorf("%s: another host's key opened it", kind)
		}
	}
}

// TestWhatTheProgramAgeSealsIsOpened is the way in: envelopes can be made by hand.
func TestWhatTheProgramAgeSealsIsOpened(t *testing.T) {
	program := requireProgram(t, "age")
	for kind, h := range map[string]host{"ssh-ed25519": newHost(t), "ssh-rsa": newRSAHost(t)} {
		c := context(t)
		salt, err := seal.NewSalt()
		if err != nil {
			t.Fatal(err)
		}
		value := secret.NewPlain([]byte("value"))
		cmd := exec.Command(program, "--armor", "-r", h.to.Key)
		cmd.Stdin = bytes.NewReader(seal.Envelope(c, salt, value).Bytes())
		text, err := cmd.Output()
		if err != nil {
			t.Fatal(kind, err)
		}
		opened, err := seal.Open(string(text), c, seal.Commit(c, salt, value), h.identities...)
		if err != nil || string(opened.Value.Bytes()) != "value" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
