package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
)

const (
	gen         = secret.Gen("0123456789abcdef0123456789abcdef")
	commit      = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	fingerprint = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
)

func meta() secret.Meta {
	expires := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	return secret.Meta{
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), ExpiresAt: &expires, Format: 1, Gen: gen, Origin: secret.Generated, Seq: 3, Seed: "sha256-x",
		GenerationData: json.RawMessage(`{"a":1,"sans":["<&>"]}`), Deps: map[string]secret.Gen{"shared/ca": gen},
		Parts: map[string]secret.MetaPart{"secret": {Commit: commit, Encrypted: true}, "public": {Commit: commit, Encoding: secret.EncodingText}, "der": {Commit: commit, Encoding: secret.EncodingBase64}},
	}
}

func TestMetadataIsReadAsItWasWritten(t *testing.T) {
	data, err := meta().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := secret.DecodeMeta(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(meta(), got); diff != "" {
		t.Error(diff)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("reading and writing changed bytes: %s", cmp.Diff(string(data), string(again)))
	}
	if diff := cmp.Diff([]string{"secret"}, got.Encrypted()); diff != "" {
		t.Error(diff)
	}
}

func TestMetadataHasOneFieldALineInTheOrderOfNames(t *testing.T) {
	data, err := secret.Meta{CreatedAt: time.Unix(0, 0).UTC(), Format: 1, Gen: gen, Origin: secret.Set, Seq: 1, Parts: map[string]secret.MetaPart{"secret": {Commit: commit, Encrypted: true}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "createdAt": "1970-01-01T00:00:00Z",
  "format": 1,
  "gen": "0123456789abcdef0123456789abcdef",
  "origin": "set",
  "parts": {
    "secret": {
      "commit": "` + commit + `",
      "encrypted": true
    }
  },
  "seq": 1
}
`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Error(diff)
	}
}

// TestMetadataThatIsNoneIsRefused changes one thing of good metadata; the second column is what the error must say.
func TestMetadataThatIsNoneIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"older format":          {`"format": 1`, `"format": 0`, "format 0"},
		"newer format":          {`"format": 1`, `"format": 2`, "newer"},
		"no format":             {`"format": 1,`, ``, "format 0"},
		"unknown field":         {`"format": 1,`, `"format": 1, "owners": [],`, `"owners"`},
		"field in another case": {`"gen": `, `"Gen": `, `"Gen"`},
		"field twice":           {`"format": 1,`, `"format": 1, "format": 1,`, `"format" is there twice`},
		"part twice":            {`"public": {`, `"secret": {`, `"secret" is there twice`},
		"part's field twice":    {`"encrypted": true`, `"encrypted": false, "encrypted": true`, "twice"},
		"part's field's case":   {`"encrypted": true`, `"Encrypted": true`, "Encrypted"},
		"data twice":            {`"a": 1`, `"a": 1, "a": 2`, "twice"},
		"no gen":                {`"gen": "` + string(gen) + `",`, ``, "generation"},
		"gen in upper case":     {`"gen": "` + string(gen), `"gen": "` + strings.ToUpper(string(gen)), "generation"},
		"short gen":             {`"gen": "01`, `"gen": "`, "generation"},
		"origin":                {`"generated"`, `"found"`, "origin"},
		"seq 0":                 {`"seq": 3`, `"seq": 0`, "seq"},
		"negative seq":          {`"seq": 3`, `"seq": -1`, "seq"},
		"commit's case":         {`"commit": "` + commit, `"commit": "` + strings.ToUpper(commit), "commit"},
		"short commit":          {`"commit": "00`, `"commit": "`, "commit"},
		"unknown encoding":      {`"encoding": "text"`, `"encoding": "hex"`, "encoding"},
		"no encoding":           {`"encoding": "text",`, ``, "encoding"},
		"encrypted text":        {`"encrypted": true`, `"encrypted": true, "encoding": "text"`, "encoding"},
		"part's name":           {`"der"`, `"../der"`, "name"},
		"reserved part":         {`"der"`, `"expires_at"`, "meaning"},
		"dependency's id":       {`"shared/ca"`, `"ca"`, "scope"},
		"dependency's gen":      {`"shared/ca": "01`, `"shared/ca": "`, "generation"},
		"time":                  {`"2026-01-02T`, `"2026-13-02T`, "month"},
		"cut":                   {"\"seq\": 3\n}\n", ``, "EOF"},
		"trailing value":        {"\"seq\": 3\n}\n", "\"seq\": 3\n}\n{}\n", "follows"},
		"trailing garbage":      {"\"seq\": 3\n}\n", "\"seq\": 3\n}}\n", "follows"},
		"merge markers":         {"  \"seq\": 3\n", "<<<<<<< HEAD\n  \"seq\": 3\n=======\n  \"seq\": 4\n>>>>>>> other\n", "conflict"},
		"half resolved":         {"  \"seq\": 3\n", "=======\r\n  \"seq\": 3\n", "conflict"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := meta().Encode()
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(data), test.old, test.new, 1)
			if changed == string(data) {
				t.Fatalf("the test changes nothing in %s", data)
			}
			_, err = secret.DecodeMeta([]byte(changed))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something of %q", err, test.want)
			}
			if test.want == "conflict" && !errors.Is(err, secret.ErrMergeMarkers) {
				t.Errorf("%v is no ErrMergeMarkers", err)
			}
		})
	}
	for _, data := range []string{"", "null", "[]", "1", `"x"`, "{}", "\x00", "{", strings.Repeat("[", 1<<20), strings.Repeat(`{"parts":`, 1<<17)} {
		if _, err := secret.DecodeMeta([]byte(data)); err == nil {
			t.Errorf("%.20q was read", data)
		}
	}
	if _, err := (secret.DecodeMeta([]byte(`{"format":1,"gen":"` + string(gen) + `","origin":"set","parts":{},"seq":1,"createdAt":"2026-01-02T03:04:05Z"}`))); err == nil {
		t.Error("metadata without parts was read")
	}
}

func owner() secret.Owner {
	armor := "-----BEGIN AGE ENCRYPTED FILE-----\nAA\n-----END AGE ENCRYPTED FILE-----\n"
	return secret.Owner{Format: 1, Gen: gen, Key: fingerprint, Parts: map[string]secret.SealedPart{"secret": {Armor: armor, SHA256: secret.Checksum(armor)}}}
}

func TestOwnerFilesAreReadAsTheyWereWritten(t *testing.T) {
	for name, want := range map[string]secret.Owner{
		"sealed part":       owner(),
		"public parts only": {Format: 1, Gen: gen, Key: fingerprint, Parts: map[string]secret.SealedPart{}},
	} {
		data, err := want.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := secret.DecodeOwner(data)
		if err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(name, diff)
		}
		if again, err := got.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Error(name, "reading and writing changed bytes", err)
		}
	}
}

func TestOwnerFilesThatAreNoneAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"format":           {`"format": 1`, `"format": 7`, "newer"},
		"gen":              {`"gen": "0`, `"gen": "g`, "generation"},
		"gen's case":       {`"gen"`, `"GEN"`, "GEN"},
		"no fingerprint":   {`"SHA256:`, `"MD5:`, "fingerprint"},
		"short finger":     {`"SHA256:47`, `"SHA256:`, "fingerprint"},
		"fingerprint's \n": {`"SHA256:47`, `"SHA256:4\n7`, "fingerprint"},
		"padded":           {`hSuFU"`, `hSuFU="`, "fingerprint"},
		"loose last bits":  {`hSuFU"`, `hSuFV"`, "fingerprint"},
		"armor edited":     {`\nAA\n`, `\nAB\n`, "checksum"},
		"checksum edited":  {`"sha256": "`, `"sha256": "0`, "checksum"},
		"checksum gone":    {`"sha256"`, `"sha1"`, "sha1"},
		"part's name":      {`"secret"`, `"../secret"`, "name"},
		"two problems":     {`"key": "SHA256:`, `"key": "`, "fingerprint"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := owner().Encode()
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(data), test.old, test.new, 1)
			if changed == string(data) {
				t.Fatalf("the test changes nothing in %s", data)
			}
			if _, err := secret.DecodeOwner([]byte(changed)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something of %q", err, test.want)
			}
		})
	}
}

// TestADamagedOwnerFileIsNeverRead flips every bit of every byte of a file.
func TestADamagedOwnerFileIsNeverRead(t *testing.T) {
	data, err := owner().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			changed := bytes.Clone(data)
			changed[i] ^= 1 << bit
			got, err := secret.DecodeOwner(changed)
			if err != nil {
				continue
			}
			// What is still right: another generation, key, format or part name, or space. Those are compared with the metadata's.
			if got.Parts["secret"].Armor != "" && got.Parts["secret"] != owner().Parts["secret"] {
				t.Fatalf("byte %d bit %d: a changed part was read", i, bit)
			}
		}
	}
	for n := range data {
		if _, err := secret.DecodeOwner(data[:n]); err == nil && n < len(data)-1 {
			t.Errorf("a file cut to %d of %d bytes was read", n, len(data))
		}
	}
}

func TestRevokedFilesAreReadAsTheyWereWritten(t *testing.T) {
	want := secret.Revoked{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Format: 1, Gen: gen, Owner: "web-1"}
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := secret.DecodeRevoked(data); err != nil || got != want {
		t.Error(got, err)
	}
	for _, change := range [][2]string{{`"web-1"`, `"../x"`}, {`"gen": "0`, `"gen": "`}, {`"format": 1`, `"format": 2`}, {`"owner"`, `"Owner"`}} {
		if got, err := secret.DecodeRevoked([]byte(strings.Replace(string(data), change[0], change[1], 1))); err == nil {
			t.Errorf("%v was read as %+v", change, got)
		}
	}
}

func TestGenerationsAreDrawn(t *testing.T) {
	g, err := secret.NewGen(bytes.NewReader(bytes.Repeat([]byte{0xab}, 16)))
	if err != nil || g != secret.Gen(strings.Repeat("ab", 16)) || g.Validate() != nil {
		t.Error(g, err)
	}
	if _, err := secret.NewGen(bytes.NewReader(make([]byte, 15))); err == nil {
		t.Error("15 bytes were enough")
	}
}

func TestEqualJSONHasEqualBytes(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " \n": "", "null": "", " {\"b\": 1, \"a\": [1, 2]} ": `{"a":[1,2],"b":1}`, `"<&>"`: `"<&>"`, "1.50": "1.50", "12345678901234567890123": "12345678901234567890123",
		`{"a":null}`: `{"a":null}`, "\"\\u00e4\"": `"ä"`, "false": "false", "[]": "[]",
	} {
		got, err := secret.CanonicalJSON([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
		if again, err := secret.CanonicalJSON(got); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%q is not its own canonical form: %q, %v", got, again, err)
		}
	}
	for _, in := range []string{"{", "1 2", "nul", "{}x", "\"\n\""} {
		if got, err := secret.CanonicalJSON([]byte(in)); err == nil {
			t.Errorf("%q was read as %q", in, got)
		}
	}
}

func TestMergeMarkersAreFound(t *testing.T) {
	for text, want := range map[string]bool{
		"<<<<<<< HEAD\n": true, "x\n>>>>>>> b\n": true, "a\n=======\nb": true, "=======": true, "======= \n": false, "a <<<<<<< b\n": false, "<<<<<<<\n": false, "": false, "========\n": false,
	} {
		if got := secret.HasMergeMarkers([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	data, err := meta().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := secret.DecodeMeta(data)
		if err != nil {
			return
		}
		encoded, err := m.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := secret.DecodeMeta(encoded)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, encoded) {
			t.Errorf("writing twice differs: %s", cmp.Diff(string(encoded), string(twice)))
		}
	})
}

func FuzzDecodeOwner(f *testing.F) {
	data, err := owner().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := secret.DecodeOwner(data)
		if err != nil {
			return
		}
		for name, part := range o.Parts {
			if secret.ValidatePart(name) != nil || secret.Checksum(part.Armor) != part.SHA256 {
				t.Errorf("part %q was read", name)
			}
		}
		encoded, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := secret.DecodeOwner(encoded); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
