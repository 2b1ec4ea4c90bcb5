package seal_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/quick"

	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
)

// content is all that an envelope holds, with nothing checked.
type content struct {
	Fleet, Scope, Name, Part, Gen string
	Seq                           uint64
	Salt, Value                   []byte
}

func (c content) context() seal.Context {
	return seal.Context{Fleet: c.Fleet, ID: secret.ID{Scope: secret.Scope(c.Scope), Name: c.Name}, Part: c.Part, Gen: secret.Gen(c.Gen), Seq: c.Seq}
}

func (c content) envelope() []byte {
	return seal.Envelope(c.context(), c.Salt, secret.NewPlain(bytes.Clone(c.Value))).Bytes()
}

func (c content) commit() string {
	return seal.Commit(c.context(), c.Salt, secret.NewPlain(bytes.Clone(c.Value)))
}

func TestEveryEnvelopeIsReadAsItWasWritten(t *testing.T) {
	property := func(c content) bool {
		got, salt, value, err := seal.ParseEnvelope(secret.NewPlain(c.envelope()))
		return err == nil && got == c.context() && bytes.Equal(salt, c.Salt) && bytes.Equal(value.Bytes(), c.Value)
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

// TestDifferentContentsHaveDifferentEnvelopesAndCommitments moves bytes over the borders of fields, too.
func TestDifferentContentsHaveDifferentEnvelopesAndCommitments(t *testing.T) {
	property := func(a, b content) bool {
		same := reflect.DeepEqual(a, b)
		return bytes.Equal(a.envelope(), b.envelope()) == same && (a.commit() == b.commit()) == same
	}
	values := func(args []reflect.Value, random *rand.Rand) {
		text := func() string { return strings.Repeat("a", random.IntN(3)) }
		for i := range args {
			args[i] = reflect.ValueOf(content{text(), text(), text(), text(), text(), random.Uint64N(3), []byte(text()), []byte(text())})
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		args := make([]reflect.Value, 2)
		values(args, random)
		if a, b := args[0].Interface().(content), args[1].Interface().(content); !property(a, b) {
			t.Fatalf("%+v and %+v", a, b)
		}
	}
}

// TestTheFormatIsTheOneThatFilesHave: what was sealed by the first version must be opened by all later ones.
func TestTheFormatIsTheOneThatFilesHave(t *testing.T) {
	c := content{Fleet: "default", Scope: "host/web", Name: "db", Part: "secret", Gen: "00112233445566778899aabbccddeeff", Seq: 12, Salt: bytes.Repeat([]byte{7}, 32), Value: []byte("hunter2")}
	want := "\x00\x00\x00\x0efleet-secret/1\x00\x00\x00\x07default\x00\x00\x00\x08host/web\x00\x00\x00\x02db\x00\x00\x00\x06secret" +
		"\x00\x00\x00\x2000112233445566778899aabbccddeeff\x00\x00\x00\x0212\x00\x00\x00\x20" + strings.Repeat("\x07", 32) + "\x00\x00\x00\x07hunter2"
	if got := string(c.envelope()); got != want {
		t.Errorf("got %q", got)
	}
	// SHA-256 of the commitment's tag, its length before it, and of the text above, by another program.
	if got := c.commit(); got != "52d47398571ee3cb29f48c9b5582c5129179e2ba9deb9a4e2c8c05cffe22421d" {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsNoEnvelopeIsRefused(t *testing.T) {
	good := content{Fleet: "f", Scope: "shared", Name: "n", Part: "p", Gen: "g", Seq: 1, Salt: []byte("s"), Value: []byte("v")}.envelope()
	for n := range good {
		if _, _, _, err := seal.ParseEnvelope(secret.NewPlain(good[:n])); err == nil {
			t.Errorf("cut to %d bytes: it was read", n)
		}
	}
	change := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	for name, text := range map[string]string{
		"something follows": string(good) + "x",
		"another tag":       change("fleet-secret/1", "fleet-secret/2"),
		"number in words":   change("\x00\x00\x00\x011", "\x00\x00\x00\x01x"),
		"leading zero":      change("\x00\x00\x00\x011", "\x00\x00\x00\x0201"),
		"sign":              change("\x00\x00\x00\x011", "\x00\x00\x00\x02+1"),
		"endless field":     "\xff\xff\xff\xff" + string(good),
		"huge last field":   change("\x00\x00\x00\x01v", "\xff\xff\xff\xffv"),
	} {
		if _, _, _, err := seal.ParseEnvelope(secret.NewPlain([]byte(text))); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	f.Add(content{Fleet: "f", Scope: "shared", Name: "n", Part: "p", Gen: "g", Seq: 1, Salt: []byte("s"), Value: []byte("v")}.envelope())
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, salt, value, err := seal.ParseEnvelope(secret.NewPlain(bytes.Clone(data)))
		if err == nil && !bytes.Equal(seal.Envelope(c, salt, value).Bytes(), data) {
			t.Errorf("%s was read as the envelope of something else", hex.EncodeToString(data))
		}
	})
}

func FuzzInspect(f *testing.F) {
	owner := newHost(f)
	f.Add(sealTo(f, owner.to, context(f), "value").armor)
	f.Add("-----BEGIN AGE ENCRYPTED FILE-----\nAAAA\n-----END AGE ENCRYPTED FILE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := seal.Inspect(text)
		if err == nil && h.Payload < 32 {
			t.Errorf("%+v", h)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	})
}

func FuzzOpen(f *testing.F) {
	owner, c := newHost(f), context(f)
	s := sealTo(f, owner.to, c, "value")
	f.Add(dearmored(f, s.armor))
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := armored(t, raw)
		if opened, err := seal.Open(text, c, s.commit, owner.identities...); err == nil && string(opened.Value.Bytes()) != "value" {
			t.Errorf("another value was opened: %q", opened.Value.Bytes())
		}
	})
}
