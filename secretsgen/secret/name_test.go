package secret_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"fleet/secretsgen/secret"
)

func TestNamesHaveWhatIsHarmlessEverywhere(t *testing.T) {
	for name, good := range map[string]bool{
		"db": true, "ca.pem": true, "a-b_c.d": true, "_x": true, "0": true, "A": true, strings.Repeat("a", 128): true,
		"": false, ".": false, "..": false, ".hidden": false, "-flag": false, "a/b": false, "/etc": false, "../up": false, "a b": false,
		"a\nb": false, "a\n": false, "\na": false, "a\x00": false, "ä": false, "a\u202eb": false, "a\xff": false, "$x": false, "a'b": false,
		"a:b": false, "a,b": false, "a@b": false, "a\\b": false, "a%n": false, strings.Repeat("a", 129): false,
	} {
		err := secret.ValidateName(name)
		if (err == nil) != good {
			t.Errorf("name %q: %v", name, err)
		}
		if err != nil && !errors.Is(err, secret.ErrName) {
			t.Errorf("name %q: its error is no ErrName: %v", name, err)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 300) {
			t.Errorf("name %q: its error would tear a line: %q", name, err)
		}
	}
}

func TestPartsAreNotCalledLikeOtherOutputOfGenerators(t *testing.T) {
	for part, good := range map[string]bool{
		"secret": true, "public": true, "tls.crt": true, "created_at.x": true,
		"created_at": false, "expires_at": false, "marker": false, "../x": false, "": false,
	} {
		if err := secret.ValidatePart(part); (err == nil) != good {
			t.Errorf("part %q: %v", part, err)
		}
	}
}

func TestIDsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]secret.ID{
		"shared/ca.pem":    {Scope: secret.Shared, Name: "ca.pem"},
		"host/web-1/db":    {Scope: secret.OfHost("web-1"), Name: "db"},
		"host/shared/x":    {Scope: secret.OfHost("shared"), Name: "x"},
		"host/host/host":   {Scope: secret.OfHost("host"), Name: "host"},
		"host/a.b/created": {Scope: secret.OfHost("a.b"), Name: "created"},
	} {
		got, err := secret.ParseID(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "/", "db", "shared", "shared/", "/shared/x", "shared//x", "shared/a/b", "shared/..", "host", "host/", "host/web", "host/web/", "host//db",
		"host/web/db/x", "host/../db", "host/web/../db", "Shared/x", "shared/x\n", " shared/x", "other/x", "host/web\x00/db", "shared/ü",
	} {
		if id, err := secret.ParseID(text); err == nil {
			t.Errorf("%q was read as %+v", text, id)
		}
	}
}

func TestScopesKnowTheirHost(t *testing.T) {
	if host, ok := secret.OfHost("web").Host(); !ok || host != "web" {
		t.Error(host, ok)
	}
	if host, ok := secret.Shared.Host(); ok {
		t.Error("shared belongs to", host)
	}
}

func TestIDsAreTextInJSON(t *testing.T) {
	ids := map[secret.ID]int{{Scope: secret.OfHost("web"), Name: "db"}: 1}
	data, err := json.Marshal(ids)
	if err != nil || string(data) != `{"host/web/db":1}` {
		t.Fatalf("%s %v", data, err)
	}
	var back map[secret.ID]int
	if err := json.Unmarshal(data, &back); err != nil || len(back) != 1 || back[secret.ID{Scope: "host/web", Name: "db"}] != 1 {
		t.Fatal(back, err)
	}
	var id secret.ID
	if err := json.Unmarshal([]byte(`"host/web/../x"`), &id); !errors.Is(err, secret.ErrName) {
		t.Error(id, err)
	}
}

func FuzzParseID(f *testing.F) {
	for _, seed := range []string{"shared/a", "host/web/db", "host/a/b/c", "shared/..", "host//x", "\xff/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := secret.ParseID(text)
		if err != nil {
			return
		}
		if id.String() != text || id.Validate() != nil {
			t.Errorf("%q was read as %q", text, id)
		}
		if strings.Count(text, "/") > 2 || strings.Contains("/"+text+"/", "/../") || strings.ContainsAny(text, "\x00\n \\") {
			t.Errorf("%q was read", text)
		}
	})
}
