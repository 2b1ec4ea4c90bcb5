package step_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// both declares the two usual parts.
func both() map[string]step.Part {
	return map[string]step.Part{"secret": {Encrypted: true}, "public": {Type: "text"}}
}

func TestWhatIsWrongWithAGeneratorIsSaid(t *testing.T) {
	o := newOwner(t)
	for name, test := range map[string]struct {
		script string
		parts  map[string]step.Part
		want   string
	}{
		"it fails":                      {`echo "no such key" >&2; exit 7`, nil, "failed with exit status 7"},
		"it is killed":                  {`kill -KILL $$`, nil, "killed by SIGKILL|failed with exit status 137"},
		"it leaves nothing":             {`true`, nil, "left nothing in $out"},
		"it leaves only a time":         {`echo 2031-01-01T00:00:00Z > $out/expires_at`, nil, "left nothing in $out"},
		"an undeclared part":            {`echo x | encrypt > $out/secret; echo x > $out/public; echo x > $out/other`, both(), `"other", which is not declared`},
		"a missing part":                {`echo x | encrypt > $out/secret`, both(), "did not write public"},
		"public where it is a secret":   {`echo x | gh public > $out/secret; echo x > $out/public`, both(), `wrote the part "secret" as public, which is declared as encrypted`},
		"a secret where it is public":   {`echo x > $out/secret; echo x | encrypt > $out/public`, both(), `wrote the part "public" as encrypted, which is declared as public`},
		"a raw secret":                  {`echo x > $out/secret`, nil, `"secret" was written without encryption`},
		"a raw private key":             {`echo "-----BEGIN PRIVATE KEY-----" > $out/key`, nil, `"key" was written without encryption and holds a private key in PEM`},
		"a raw age identity":            {`echo AGE-SECRET-KEY-1QQQQ > $out/public`, nil, `"public" was written without encryption and holds an identity of age`},
		"an empty secret":               {`false | encrypt > $out/secret`, nil, `"secret" is empty`},
		"a public part of another type": {`echo x > $out/secret; echo nonsense > $out/public`, map[string]step.Part{"secret": {Encrypted: true}, "public": {Type: "x509"}}, "(x509)"},
		"a public part with no pattern": {`echo aaa > $out/public`, map[string]step.Part{"public": {Type: "regex", Pattern: "b+"}}, `does not match "b+"`},
		"a public part of 1 MB":         {`head -c 1048576 /dev/zero | tr '\0' x > $out/public`, nil, "has 1048576 bytes"},
		"a public part of lines":        {`printf 'a\nb\n' > $out/public`, nil, "several lines"},
		"a secret of 2 MB":              {`head -c 2097152 /dev/zero | encrypt > $out/secret`, nil, "more than 1048576 bytes"},
		"a link":                        {`ln -s /etc/passwd $out/secret`, nil, "$out/secret is a link"},
		"a pipe":                        {`mkfifo $out/secret`, nil, "$out/secret is a pipe"},
		"a folder":                      {`mkdir $out/secret`, nil, "$out/secret is a folder"},
		"$out is a link":                {`rmdir $out; ln -s /etc $out`, nil, "$out is no folder any more"},
		"$out is gone":                  {`rmdir $out`, nil, "$out is no folder any more"},
		"a name that cannot be a part":  {`echo x > "$out/a b"`, nil, "cannot be a part"},
		"a name with an escape":         {`echo x > "$out/$(printf '\033[31mred')"`, nil, "cannot be a part"},
		"too many files":                {`i=0; while [ $i -lt 200 ]; do : > $out/f$i; i=$((i+1)); done`, nil, "more than 67 files"},
		"too many parts":                {`i=0; while [ $i -lt 65 ]; do echo x > $out/f$i; i=$((i+1)); done`, nil, "65 parts, more than 64"},
		"no time":                       {`echo x > $out/public; echo tomorrow > $out/expires_at`, nil, `$out/expires_at holds a text of 8 bytes, which is no time`},
		"an unreadable part":            {`echo x | encrypt > $out/secret; chmod 0 $out/secret; exit 0`, nil, "permission denied|"},
		"an interpreter that is absent": {"", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(t, o, test.script)
			req.Parts = test.parts
			if name == "an interpreter that is absent" {
				req.Program = generator(t, "")
				overwrite(t, req.Program, "#!/nix/store/absent/bin/sh\n")
				test.want = "the generator cannot be run"
			}
			_, err := step.Run(t.Context(), req, options(t))
			if test.want == "permission denied|" && err == nil {
				return // root reads everything
			}
			var failed *step.Error
			if !errors.As(err, &failed) {
				t.Fatalf("got %v", err)
			}
			found := false
			for want := range strings.SplitSeq(test.want, "|") {
				found = found || strings.Contains(err.Error(), want)
			}
			if !found || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if failed.Remedy == "" && !strings.HasPrefix(name, "it ") && !strings.Contains(name, "name") && !strings.HasPrefix(name, "too many p") {
				t.Error("there is no hint")
			}
		})
	}
}

func TestAFailureShowsTheEndOfWhatWasPrinted(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done; printf '\033[31mit is red\033[0m\n' >&2; exit 1`)
	_, err := step.Run(t.Context(), req, options(t))
	var failed *step.Error
	if !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if !strings.HasPrefix(failed.Output, "[…]\nline ") || !strings.HasSuffix(failed.Output, "line 19999\nit is red\n") || len(failed.Output) > step.MaxOutput+16 {
		t.Errorf("%d bytes, %.40q … %q", len(failed.Output), failed.Output, failed.Output[len(failed.Output)-40:])
	}
}

func TestAGeneratorThatHangsIsKilledWithAllThatItStarted(t *testing.T) {
	o := newOwner(t)
	for name, sandbox := range map[string]string{"strict": step.SandboxStrict, "none": step.SandboxNone} {
		t.Run(name, func(t *testing.T) {
			mark := "sleep 97531"
			req := request(t, o, `echo waiting; trap '' TERM; setsid `+mark+` & `+mark+`0 & while :; do sleep 1; done`)
			req.Sandbox, req.Timeout = sandbox, 500*time.Millisecond
			_, err := step.Run(t.Context(), req, options(t))
			var failed *step.Error
			if !errors.As(err, &failed) || !errors.Is(err, step.ErrTimeout) || failed.Output != "waiting\n" || !strings.Contains(err.Error(), "after 500ms") {
				t.Errorf("got %v", err)
			}
			noProcess(t, "97531")
		})
	}
}

func TestCancellingKillsTheGenerator(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `setsid sleep 86420 & sleep 86420`)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	_, err := step.Run(ctx, req, options(t))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	noProcess(t, "86420")
}

func TestProcessesThatAreLeftDoNotOutliveARun(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `(setsid sh -c 'sleep 75319; echo late | encrypt > $out/other' >/dev/null 2>&1 &) ; echo x | encrypt > $out/secret`)
	req.Sandbox = step.SandboxNone
	if _, err := step.Run(t.Context(), req, options(t)); err != nil {
		t.Error(err)
	}
	noProcess(t, "75319")
}

func TestAMillionFilesAreTooMany(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `i=0; while :; do : > $TMPDIR/$i; i=$((i+1)); done`)
	_, err := step.Run(t.Context(), req, options(t))
	if err == nil || !strings.Contains(err.Error(), "16384 files") && !strings.Contains(err.Error(), "No space left on device") && !strings.Contains(err.Error(), "cannot create") {
		t.Errorf("got %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	o := newOwner(t)
	req := request(t, o, `cat /dev/zero > $TMPDIR/zeros`)
	_, err := step.Run(t.Context(), req, options(t))
	if err == nil || !strings.Contains(err.Error(), "256 MiB") && !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("got %v", err)
	}
}

func TestABadRequestRunsNothing(t *testing.T) {
	o := newOwner(t)
	for name, spoil := range map[string]func(*step.Request, *step.Options){
		"no owner":              func(r *step.Request, _ *step.Options) { r.Owners = nil },
		"an owner of no use":    func(r *step.Request, _ *step.Options) { r.Owners = map[string]string{"web": "ssh-dss AAAA"} },
		"a relative program":    func(r *step.Request, _ *step.Options) { r.Program = "generate" },
		"a program that climbs": func(r *step.Request, _ *step.Options) { r.Program = "/nix/store/../../bin/sh" },
		"an absent program":     func(r *step.Request, _ *step.Options) { r.Program = "/nix/store/absent/bin/generate" },
		"an unknown sandbox":    func(r *step.Request, _ *step.Options) { r.Sandbox = "lax" },
		"no generation":         func(r *step.Request, _ *step.Options) { r.Gen = "" },
		"a part's name":         func(r *step.Request, _ *step.Options) { r.Parts = map[string]step.Part{"../x": {}} },
		"an alias": func(r *step.Request, _ *step.Options) {
			r.Dependencies = map[string]step.Dependency{"..": {ID: r.ID, Gen: r.Gen}}
		},
		"a relative helper":   func(_ *step.Request, o *step.Options) { o.Helper = "fleet-helper" },
		"an absent helper":    func(_ *step.Request, o *step.Options) { o.Helper = "/nonexistent/fleet-helper" },
		"a project not there": func(_ *step.Request, o *step.Options) { o.Project = "/nonexistent" },
	} {
		t.Run(name, func(t *testing.T) {
			req, opt := request(t, o, `echo x | encrypt > $out/secret`), options(t)
			spoil(&req, &opt)
			_, err := step.Run(t.Context(), req, opt)
			var failed *step.Error
			if !errors.As(err, &failed) || failed.ID != (secret.ID{Scope: secret.OfHost("web"), Name: "db"}) {
				t.Errorf("got %v", err)
			}
		})
	}
}
