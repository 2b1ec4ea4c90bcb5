package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"fleet/closure/storetest"
	"fleet/push/proto"
	"fleet/secretsgen/install"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// hostKey makes a host key, and returns its file and its public half.
func hostKey(t *testing.T) (string, seal.Recipient) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ssh_host_ed25519_key")
	write(t, file, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := seal.ParseRecipient(string(ssh.MarshalAuthorizedKey(key)))
	if err != nil {
		t.Fatal(err)
	}
	return file, recipient
}

// sealed is a value as the state has it.
func sealed(t *testing.T, name, value string, to seal.Recipient) seal.Ref {
	t.Helper()
	gen, err := secret.NewGen(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ref := seal.Ref{Fleet: "default", ID: secret.ID{Scope: secret.Shared, Name: name}, Part: secret.PartSecret, Gen: gen, Seq: 1}
	salt, err := seal.NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	part, err := seal.Seal(ref.Context(), salt, secret.NewPlain([]byte(value)), to)
	if err != nil {
		t.Fatal(err)
	}
	ref.Armor, ref.Commit = part.Armor, seal.Commit(ref.Context(), salt, secret.NewPlain([]byte(value)))
	return ref
}

func raw(t *testing.T, refs ...seal.Ref) []json.RawMessage {
	t.Helper()
	var texts []json.RawMessage
	for _, ref := range refs {
		text, err := json.Marshal(ref)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

func TestSecretsNeedRoot(t *testing.T) {
	host := testHost(t)
	host.UID = 1000
	client, _ := connect(t, host)
	id := secret.ID{Scope: secret.Shared, Name: "ca"}
	for method, params := range map[string]any{
		proto.MethodSecretsRun: step.Request{Program: "/nix/store/" + strings.Repeat("a", 32) + "-x/bin/x", ID: id}, proto.MethodSecretsRewrap: seal.RewrapRequest{},
		proto.MethodSecretsOpen: seal.Ref{ID: id}, proto.MethodSecretsVerify: proto.SecretsVerifyRequest{},
	} {
		err := client.Call(t.Context(), method, params, nil)
		answer, ok := errors.AsType[*proto.Error](err)
		if !ok || answer.Code != proto.CodeForbidden || !strings.Contains(answer.Remedy, "deploy.elevation") {
			t.Errorf("%s: got %v", method, err)
		}
	}
}

// TestKeysAreAlsoWhereTheRunningSystemHasThem: with an impermanent root, /etc/ssh is not where the keys are kept.
func TestKeysAreAlsoWhereTheRunningSystemHasThem(t *testing.T) {
	host := testHost(t)
	host.UID = 0
	file, mine := hostKey(t)
	host.Identities = []string{filepath.Join(t.TempDir(), "absent")}
	db := sealed(t, "db", "the value", mine)
	manifest := filepath.Join(host.Run, "current-system", "etc", "fleet", "secrets.json")
	for name, test := range map[string]struct {
		manifest string
		opens    bool
	}{
		"no manifest":          {"", false},
		"a manifest with keys": {`{"format":1,"identities":["relative","/absent","` + file + `"],"secrets":[]}`, true},
		"one of a later time":  {`{"format":9,"new":{},"identities":["` + file + `"]}`, true},
		"a damaged one":        {`{"identities":["` + file, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(filepath.Dir(manifest)); err != nil {
				t.Fatal(err)
			}
			if test.manifest != "" {
				write(t, manifest, test.manifest)
			}
			client, _ := connect(t, host)
			var value proto.SecretValue
			err := client.Call(t.Context(), proto.MethodSecretsOpen, db, &value)
			if opens := err == nil && string(value.Value) == "the value"; opens != test.opens {
				t.Errorf("got %q, %v", value.Value, err)
			}
		})
	}
}

func TestAnOwnerSealsOpensAndVerifiesItsSecrets(t *testing.T) {
	host := testHost(t)
	host.UID = 0
	file, mine := hostKey(t)
	otherFile, other := hostKey(t)
	host.Identities = []string{filepath.Join(t.TempDir(), "absent"), file}
	client, _ := connect(t, host)
	db, foreign := sealed(t, "db", "the value", mine), sealed(t, "foreign", "not for us", other)
	swapped := db
	swapped.ID.Name = "elsewhere"

	var value proto.SecretValue
	if err := client.Call(t.Context(), proto.MethodSecretsOpen, db, &value); err != nil || string(value.Value) != "the value" {
		t.Errorf("open: %q, %v", value.Value, err)
	}
	for _, ref := range []seal.Ref{foreign, swapped} {
		if err := client.Call(t.Context(), proto.MethodSecretsOpen, ref, &value); err == nil {
			t.Errorf("opened %s", ref.ID)
		}
	}

	var verified proto.SecretsVerifyResult
	if err := client.Call(t.Context(), proto.MethodSecretsVerify, proto.SecretsVerifyRequest{Parts: raw(t, db, foreign, swapped)}, &verified); err != nil {
		t.Fatal(err)
	}
	if w := verified.Wrong; len(w) != 3 || w[0] != "" || !strings.Contains(w[1], "another key") || !strings.Contains(w[2], "something else") {
		t.Errorf("verify: %q", w)
	}

	var wrapped seal.RewrapResult
	request := seal.RewrapRequest{Parts: []seal.Ref{db, foreign}, To: map[string]string{"next": other.Key}}
	if err := client.Call(t.Context(), proto.MethodSecretsRewrap, request, &wrapped); err != nil {
		t.Fatal(err)
	}
	if len(wrapped.Parts) != 2 || wrapped.Parts[0].Error != "" || wrapped.Parts[1].Error == "" {
		t.Fatalf("rewrap: %+v", wrapped)
	}
	identities, err := seal.LoadIdentities(otherFile)
	if err != nil {
		t.Fatal(err)
	}
	db.Armor = wrapped.Parts[0].Sealed["next"].Armor
	if opened, err := db.Open(identities...); err != nil || string(opened.Value.Bytes()) != "the value" {
		t.Errorf("the new owner gets %v", err)
	}
}

func TestAHostWithoutKeysSaysSo(t *testing.T) {
	host := testHost(t)
	host.UID = 0
	host.Identities = []string{filepath.Join(t.TempDir(), "absent")}
	client, _ := connect(t, host)
	if err := client.Call(t.Context(), proto.MethodSecretsOpen, seal.Ref{ID: secret.ID{Scope: secret.Shared, Name: "ca"}}, nil); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v", err)
	}
}

// generator puts a program into the store.
func generator(t *testing.T, script string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "generator")
	write(t, filepath.Join(dir, "bin", "generate"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "bin", "generate"), 0o755); err != nil {
		t.Fatal(err)
	}
	return addToStore(t, dir) + "/bin/generate"
}

func TestAGeneratorRunsAsTheLoginUserAndGetsKeysOnlyForWhatItReads(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	host := testHost(t)
	file, mine := hostKey(t)
	host.Identities = []string{file}
	var got step.Options
	host.RunStep = func(_ context.Context, req step.Request, o step.Options) (step.Result, error) {
		got = o
		o.Reporter("made " + req.ID.Name)
		o.Warn("swap is on")
		return step.Result{Parts: map[string]step.ResultPart{"public": {Public: []byte("x")}}}, nil
	}
	s := newSession(host, t.TempDir(), 65534)
	t.Cleanup(s.close)
	client := connectTo(t, s)
	request := step.Request{Program: generator(t, ""), ID: secret.ID{Scope: secret.Shared, Name: "ca"}}
	result, lines, err := runStep(t.Context(), client, request)
	if err != nil || string(result.Parts["public"].Public) != "x" {
		t.Fatalf("got %+v, %v", result, err)
	}
	if diff := cmp.Diff("made ca\nswap is on\n", lines); diff != "" {
		t.Error(diff)
	}
	if got.User == nil || got.User.UID != 65534 || got.User.Name != "nobody" || got.User.Home == "" || !filepath.IsAbs(got.Helper) || got.Identities != nil {
		t.Errorf("options %+v, user %+v", got, got.User)
	}
	db := sealed(t, "db", "v", mine)
	request.Dependencies = map[string]step.Dependency{"db": {ID: db.ID, Sealed: map[string]step.SealedInput{"secret": {Armor: db.Armor}}}}
	if _, _, err := runStep(t.Context(), client, request); err != nil || len(got.Identities) != 1 {
		t.Errorf("with a dependency: %v, %d keys", err, len(got.Identities))
	}
	for program, code := range map[string]proto.ErrorCode{
		"/bin/sh": proto.CodeUsage, "/nix/store/" + strings.Repeat("a", 32) + "-absent/bin/x": proto.CodeNotFound,
	} {
		request.Program = program
		if _, _, err := runStep(t.Context(), client, request); proto.CodeOf(err) != code {
			t.Errorf("%s: got %v", program, err)
		}
	}
}

// runStep asks for a run and returns what the agent sent meanwhile.
func runStep(ctx context.Context, client *proto.Client, request step.Request) (result step.Result, lines string, err error) {
	stream, err := client.Open(ctx, proto.MethodSecretsRun, request)
	if err != nil {
		return result, "", err
	}
	text, err := io.ReadAll(stream)
	if err == nil {
		err = stream.Result(&result)
	}
	return result, string(text), err
}

func TestAGeneratorEndsWithItsStreamAndWithItsClient(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	for name, end := range map[string]func(cancel func(), client *proto.Client){
		"cancelled":   func(cancel func(), _ *proto.Client) { cancel() },
		"client gone": func(_ func(), client *proto.Client) { client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			host := testHost(t)
			began, ended := make(chan struct{}), make(chan error, 1)
			host.RunStep = func(ctx context.Context, _ step.Request, _ step.Options) (step.Result, error) {
				close(began)
				<-ctx.Done()
				ended <- ctx.Err()
				return step.Result{}, ctx.Err()
			}
			client, _ := connect(t, host)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { <-began; end(cancel, client) }()
			_, _, err := runStep(ctx, client, step.Request{
				Program: generator(t, ""), ID: secret.ID{Scope: secret.Shared, Name: "ca"},
			})
			if err == nil {
				t.Error("it has a result")
			}
			select {
			case <-began:
			default:
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the generator ended with %v", err)
			}
		})
	}
}

// withManifest is a system whose etc has a manifest.
func withManifest(t *testing.T, dir, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secrets.json")
	write(t, file, text)
	etc := filepath.Join(t.TempDir(), "etc")
	if err := os.MkdirAll(filepath.Join(etc, "etc", "fleet"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(addToStore(t, file), filepath.Join(etc, "etc", "fleet", "secrets.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(addToStore(t, etc)+"/etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
}

func manifest(t *testing.T, file string, refs ...seal.Ref) string {
	t.Helper()
	m := install.Manifest{Format: secret.Format, Fleet: "default", Host: "web", Identities: []string{file}, Secrets: []install.Secret{}, Templates: []install.Template{}}
	for _, ref := range refs {
		m.Secrets = append(m.Secrets, install.Secret{
			ID: ref.ID, Gen: ref.Gen, Seq: ref.Seq, Owner: "root", Group: "root", Mode: "0440",
			Parts: map[string]install.Part{ref.Part: {Encrypted: true, Commit: ref.Commit, Armor: ref.Armor}}, Credentials: map[string]string{},
		})
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPreflightOfASystem(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	host := testHost(t)
	file, mine := hostKey(t)
	_, other := hostKey(t)
	db, foreign := sealed(t, "db", "v", mine), sealed(t, "foreign", "v", other)
	system := func(specialisation, text string) string {
		dir := filepath.Join(t.TempDir(), "nixos-system")
		at := dir
		if specialisation != "" {
			at = filepath.Join(t.TempDir(), "nixos-system-"+specialisation)
		}
		for _, d := range []string{dir, at} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if text != "" {
			withManifest(t, at, text)
		}
		if specialisation != "" {
			if err := os.Mkdir(filepath.Join(dir, "specialisation"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(addToStore(t, at), filepath.Join(dir, "specialisation", specialisation)); err != nil {
				t.Fatal(err)
			}
		}
		return addToStore(t, dir)
	}
	client, _ := connect(t, host)
	for name, test := range map[string]struct {
		toplevel, specialisation string
		failed                   []string
		code                     proto.ErrorCode
	}{
		"no manifest":                      {system("", ""), "", nil, ""},
		"all can be read":                  {system("", manifest(t, file, db)), "", nil, ""},
		"one cannot be read":               {system("", manifest(t, file, db, foreign)), "", []string{"shared/foreign"}, ""},
		"the key is not there":             {system("", manifest(t, file+".gone", db)), "", []string{"shared/db"}, ""},
		"a specialisation":                 {system("dark", manifest(t, file, foreign)), "dark", []string{"shared/foreign"}, ""},
		"a specialisation that is not run": {system("dark", manifest(t, file, foreign)), "", nil, ""},
		"no JSON":                          {system("", "{"), "", nil, proto.CodeInternal},
		"another format":                   {system("", `{"format":99}`), "", nil, proto.CodeInternal},
		"no system":                        {"/nix/store/" + strings.Repeat("a", 32) + "-absent", "", nil, proto.CodeNotFound},
		"no path":                          {"/etc", "", nil, proto.CodeUsage},
		"no name":                          {system("", ""), "../x", nil, proto.CodeUsage},
	} {
		t.Run(name, func(t *testing.T) {
			var report install.Report
			err := client.Call(t.Context(), proto.MethodSecretsPreflight, proto.SecretsPreflightRequest{Toplevel: test.toplevel, Specialisation: test.specialisation}, &report)
			if proto.CodeOf(err) != test.code {
				t.Fatalf("got %v", err)
			}
			var failed []string
			for _, f := range report.Failed {
				failed = append(failed, f.ID.String())
				if f.Reason == "" {
					t.Errorf("%s: no reason", f.ID)
				}
			}
			if diff := cmp.Diff(test.failed, failed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAPreflightOfManySecretsStaysShort(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	host := testHost(t)
	file, _ := hostKey(t)
	host.CheckSecrets = func(context.Context, *install.Manifest) (install.Report, error) {
		var report install.Report
		for i := range 20_000 {
			report.Failed = append(report.Failed, install.Failure{ID: secret.ID{Scope: secret.Shared, Name: fmt.Sprintf("s%d", i)}, Reason: strings.Repeat("no ", 100)})
		}
		return report, nil
	}
	dir := filepath.Join(t.TempDir(), "nixos-system")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	withManifest(t, dir, manifest(t, file))
	client, _ := connect(t, host)
	var report install.Report
	err := client.Call(t.Context(), proto.MethodSecretsPreflight, proto.SecretsPreflightRequest{Toplevel: addToStore(t, dir)}, &report)
	if n := len(report.Failed); err != nil || n != maxFailures+1 || !strings.Contains(report.Failed[n-1].Reason, "19750 more") {
		t.Errorf("%d failures, %v", n, err)
	}
}
