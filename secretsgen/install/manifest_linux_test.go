package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
)

// sample is a manifest with one of everything.
func sample(b *bench) *Manifest {
	s := b.secret("db", "hunter2")
	b.public(&s, "public", secret.EncodingText, "pub", "pub")
	s.Credentials = map[string]string{"db-password": "secret"}
	shared := b.secret("ca", "x")
	shared.ID.Scope = secret.Shared
	m := clone(b.t, b.m)
	m.Secrets = []Secret{s, shared}
	m.Templates = []Template{{Name: "app", Mode: "0440", Content: Placeholder(s.ID, "secret"), Path: "/etc/app.conf"}, {Name: "other", Mode: "400"}}
	return m
}

func TestManifestsAreReadAsTheyWereWritten(t *testing.T) {
	b := newBench(t)
	want := sample(b)
	data, err := json.Marshal(want)
	b.must(err)
	got, err := DecodeManifest(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	b.must(os.WriteFile(b.path("manifest.json"), data, 0o600))
	if got, err = LoadManifest(b.path("manifest.json")); err != nil || cmp.Diff(want, got) != "" {
		t.Error(err)
	}
	if _, err := LoadManifest(b.path("absent")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAManifestThatIsNoneChangesNothing(t *testing.T) {
	b := newBench(t)
	part := func(m *Manifest, name string, change func(*Part)) {
		p := m.Secrets[0].Parts[name]
		change(&p)
		m.Secrets[0].Parts[name] = p
	}
	for name, test := range map[string]struct {
		change func(*Manifest)
		want   string
	}{
		"format":            {func(m *Manifest) { m.Format = 2 }, "format 2|format is 2"},
		"fleet":             {func(m *Manifest) { m.Fleet = "" }, "fleet"},
		"host":              {func(m *Manifest) { m.Host = "../web" }, "host"},
		"identity":          {func(m *Manifest) { m.Identities = []string{"key"} }, "absolute"},
		"name with /":       {func(m *Manifest) { m.Secrets[0].ID.Name = "a/b" }, "name|parse"},
		"name ..":           {func(m *Manifest) { m.Secrets[0].ID.Name = ".." }, "name"},
		"name .rendered":    {func(m *Manifest) { m.Secrets[0].ID.Name = renderedFolder }, "name"},
		"name .fleet.json":  {func(m *Manifest) { m.Secrets[0].ID.Name = recordFile }, "name"},
		"name with newline": {func(m *Manifest) { m.Secrets[0].ID.Name = "a\nb" }, "name"},
		"empty name":        {func(m *Manifest) { m.Secrets[0].ID.Name = "" }, "name|empty"},
		"another host's":    {func(m *Manifest) { m.Secrets[0].ID.Scope = secret.OfHost("mail") }, "another host"},
		"scope":             {func(m *Manifest) { m.Secrets[0].ID.Scope = "x" }, "scope"},
		"gen":               {func(m *Manifest) { m.Secrets[0].Gen = "x" }, "generation"},
		"seq":               {func(m *Manifest) { m.Secrets[0].Seq = 0 }, "seq"},
		"no parts":          {func(m *Manifest) { m.Secrets[0].Parts, m.Secrets[0].Credentials = nil, nil }, "no parts"},
		"part's name":       {func(m *Manifest) { m.Secrets[0].Parts["../x"] = m.Secrets[0].Parts["secret"] }, "name"},
		"reserved part":     {func(m *Manifest) { m.Secrets[0].Parts["marker"] = m.Secrets[0].Parts["secret"] }, "meaning"},
		"commit":            {func(m *Manifest) { part(m, "secret", func(p *Part) { p.Commit = "../../x" }) }, "commit"},
		"commit's case":     {func(m *Manifest) { part(m, "secret", func(p *Part) { p.Commit = strings.Repeat("AB", 32) }) }, "commit"},
		"file names meet": {func(m *Manifest) {
			m.Secrets[0].Parts[m.Secrets[0].Parts["secret"].Commit+"-secret"] = m.Secrets[0].Parts["public"]
		}, "same file"},
		"name twice":          {func(m *Manifest) { m.Secrets[1].ID.Name = "db" }, "same name"},
		"secret twice":        {func(m *Manifest) { m.Secrets[1] = m.Secrets[0] }, "same name"},
		"in both phases":      {func(m *Manifest) { m.Secrets[1].ID.Name, m.Secrets[1].NeededForUsers = "db", true }, "same name"},
		"mode":                {func(m *Manifest) { m.Secrets[0].Mode = "rw-r-----" }, "mode"},
		"no mode":             {func(m *Manifest) { m.Secrets[0].Mode = "" }, "mode"},
		"decimal mode":        {func(m *Manifest) { m.Secrets[0].Mode = "0888" }, "mode"},
		"setuid":              {func(m *Manifest) { m.Secrets[0].Mode = "4755" }, "mode"},
		"negative mode":       {func(m *Manifest) { m.Secrets[0].Mode = "-440" }, "mode"},
		"long mode":           {func(m *Manifest) { m.Secrets[0].Mode = "00440" }, "mode"},
		"credential's name":   {func(m *Manifest) { m.Secrets[0].Credentials = map[string]string{"../x": "secret"} }, "name"},
		"credential's part":   {func(m *Manifest) { m.Secrets[0].Credentials = map[string]string{"x": "other"} }, "part"},
		"credential twice":    {func(m *Manifest) { m.Secrets[1].Credentials = map[string]string{"db-password": "secret"} }, "same credential"},
		"template's name":     {func(m *Manifest) { m.Templates[0].Name = "a/b" }, "name"},
		"template twice":      {func(m *Manifest) { m.Templates[1].Name = "app" }, "same name of template"},
		"template's mode":     {func(m *Manifest) { m.Templates[1].Mode = "x" }, "mode"},
		"relative path":       {func(m *Manifest) { m.Templates[0].Path = "etc/x" }, "path"},
		"path that leads up":  {func(m *Manifest) { m.Templates[0].Path = "/etc/../x" }, "path"},
		"path that ends in /": {func(m *Manifest) { m.Templates[0].Path = "/etc/" }, "path"},
		"path /":              {func(m *Manifest) { m.Templates[0].Path = "/" }, "path"},
		"path twice":          {func(m *Manifest) { m.Templates[1].Path = m.Templates[0].Path }, "same path"},
	} {
		t.Run(name, func(t *testing.T) {
			m := sample(b)
			test.change(m)
			before := b.snapshot(".")
			_, installed := Install(t.Context(), m, b.options())
			_, checked := Check(t.Context(), m, b.options())
			data, err := json.Marshal(m)
			b.must(err)
			_, decoded := DecodeManifest(bytes.NewReader(data))
			for _, err := range []error{installed, checked, decoded} {
				if err == nil {
					t.Fatal("it was taken")
				}
				ok := false
				for want := range strings.SplitSeq(test.want, "|") {
					ok = ok || strings.Contains(err.Error(), want)
				}
				if !ok || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v does not say %q", err, test.want)
				}
			}
			var wrong *ManifestError
			if !errors.As(installed, &wrong) || wrong.Hint() == "" {
				t.Errorf("%v is no ManifestError with a hint", installed)
			}
			if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
				t.Error(diff)
			}
		})
	}
	m := sample(b)
	m.Host, m.Secrets[0].Mode, m.Templates[0].Name = "", "", ""
	var wrong *ManifestError
	if err := m.Validate(); !errors.As(err, &wrong) || len(wrong.Problems) < 3 {
		t.Error("not all problems are named:", err)
	}
	if err := sample(b).Validate(); err != nil {
		t.Error(err)
	}
}

func TestManifestsAreReadStrictly(t *testing.T) {
	b := newBench(t)
	data, err := json.Marshal(sample(b))
	b.must(err)
	for name, text := range map[string]string{
		"unknown field": strings.Replace(string(data), `"fleet"`, `"flet"`, 1), "something follows": string(data) + "{}", "cut": string(data[:len(data)-1]), "empty": "", "null": "null", "list": "[]",
	} {
		if _, err := DecodeManifest(strings.NewReader(text)); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	if _, err := DecodeManifest(endless{}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestAccountsAreThoseOfTheFiles(t *testing.T) {
	b := newBench(t)
	a, err := loadAccounts(b.path("etc"))
	b.must(err)
	for _, test := range []struct {
		owner, group string
		want         account
		unknown      string
	}{
		{"", "", account{0, 0}, ""}, {"root", "root", account{0, 0}, ""}, {"git", "", account{990, 980}, ""}, {"git", "keys", account{990, 96}, ""},
		{"990", "", account{990, 980}, ""}, {"4711", "", account{4711, 0}, ""}, {"0", "96", account{0, 96}, ""}, {"4294967294", "", account{4294967294, 0}, ""},
		{"nobody", "", account{}, `user "nobody"`}, {"git", "wheel", account{}, `group "wheel"`}, {"4294967295", "", account{}, "user"}, {"-1", "", account{}, "user"},
		{"git", "-1", account{}, "group"}, {"git", "4294967295", account{}, "group"}, {"short", "", account{}, "user"}, {"bad", "", account{}, "user"}, {"git:x", "", account{}, "user"}, {" git", "", account{}, "user"},
	} {
		got, err := a.resolve(test.owner, test.group)
		if got != test.want || (err == nil) != (test.unknown == "") || err != nil && !strings.Contains(err.Error(), test.unknown) {
			t.Errorf("%q:%q: got %v, %v", test.owner, test.group, got, err)
		}
	}
	none, err := loadAccounts(b.path("absent"))
	b.must(err)
	if got, err := none.resolve("root", "root"); err != nil || got != (account{}) {
		t.Error("root is always there", got, err)
	}
	b.write("etc/group", strings.Repeat("x", 2<<20))
	if _, err := loadAccounts(b.path("etc")); err == nil {
		t.Error("an endless line")
	}
}

func FuzzDecodeManifest(f *testing.F) {
	b := newBench(f)
	data, err := json.Marshal(sample(b))
	b.must(err)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeManifest(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, s := range m.Secrets {
			for _, file := range s.files(opened{}, ownership{}) {
				if strings.Count(file.path, "/") != 1 || strings.Contains(file.path, "..") && !strings.HasPrefix(file.path, s.ID.Name+"/") || strings.HasPrefix(file.path, ".") {
					t.Errorf("file %q", file.path)
				}
			}
		}
	})
}
