package step_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fleet/closure/run"
	"fleet/secretsgen/step"
)

// traces is what a run could leave behind outside of its namespaces.
func traces(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, dir := range []string{"/dev/shm", "/mnt", "/media", "/run", os.TempDir(), os.Getenv("XDG_RUNTIME_DIR")} {
		entries, err := os.ReadDir(dir)
		if dir == "" || err != nil {
			continue
		}
		for _, entry := range entries {
			if strings.Contains(entry.Name(), "fleet-step") || strings.Contains(entry.Name(), "bwrap") || entry.Name() == "fleet" && dir == "/dev/shm" {
				all = append(all, filepath.Join(dir, entry.Name()))
			}
		}
	}
	slices.Sort(all)
	return all
}

// The process that asked is killed at a random moment: while the child is made, mounts, runs the generator or seals.
func TestNothingIsLeftOfARunWhoseProcessWasKilled(t *testing.T) {
	o := newOwner(t)
	before := traces(t)
	for _, sandbox := range []string{step.SandboxStrict, step.SandboxNone} {
		req := request(t, o, `(setsid sleep 64208 &); echo plaintext > $TMPDIR/x; sleep 0.05; echo -n plaintext | encrypt > $out/secret; sleep 64208`)
		req.Sandbox = sandbox
		text, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		for range 25 {
			parent := exec.Command(os.Args[0], "run-step")
			parent.Stdin = bytes.NewReader(text)
			stdout, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			_, _ = stdout.Read(make([]byte, 16))
			time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
			_ = parent.Process.Kill()
			_ = parent.Wait()
		}
		noProcess(t, "64208")
		noProcess(t, step.ChildCommand)
		noProcess(t, req.Program)
	}
	if after := traces(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func TestRunsAtOnceDoNotSeeEachOther(t *testing.T) {
	o := newOwner(t)
	for range 4 {
		t.Run("one of several", func(t *testing.T) {
			t.Parallel()
			req := request(t, o, `ls -A $out; echo $$ | encrypt > $out/secret; sleep 0.2; n=$(ls $out | wc -l); echo $n | gh public > $out/public`)
			result, err := step.Run(t.Context(), req, options(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(result.Parts["public"].Public)); got != "1" {
				t.Errorf("%s files", got)
			}
		})
	}
}

// asNobody runs one of the tests again, as a user without rights, and with script before it.
func asNobody(t *testing.T, script, tests string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root becomes another user; the others are run by this one anyway")
	}
	dir, err := os.MkdirTemp("", "fleet-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	copied, home := filepath.Join(dir, "step.test"), filepath.Join(dir, "home")
	for _, err := range []error{
		os.WriteFile(copied, binary, 0o755), os.Mkdir(home, 0o700), os.Chown(home, 65534, 65534), os.Chmod(dir, 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := run.Output(t.Context(), run.Cmd{
		Argv: []string{"sh", "-c", script + `"$0" -test.count=1 -test.run "$1" -test.v 2>&1`, copied, tests}, Dir: home, ClearEnv: true,
		Env:       []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "FLEET_REQUIRE_ALL=" + os.Getenv("FLEET_REQUIRE_ALL")},
		Isolation: &run.Isolation{As: &run.IDs{UID: 65534, GID: 65534}},
	})
	if err != nil || !bytes.Contains(out, []byte("\nPASS")) || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheSameHoldsForAUserWhoIsNotRoot(t *testing.T) {
	asNobody(t, "", ".")
}

func TestWhereThereAreNoNamespacesAFolderInMemoryIsUsedAndRemoved(t *testing.T) {
	if os.Getenv("FLEET_TEST_NO_NAMESPACES") != "1" {
		asNobody(t, `export FLEET_TEST_NO_NAMESPACES=1; unshare --user --map-root-user sh -c '
			echo 0 > /proc/sys/user/max_user_namespaces
			exec setpriv --bounding-set -all --inh-caps -all --ambient-caps -all "$@"' sh `, "^TestWhereThereAreNoNamespaces")
		return
	}
	o := newOwner(t)
	before := traces(t)
	req := request(t, o, `(setsid sleep 53197 >/dev/null 2>&1 &); mkdir locked; : > locked/x; chmod 0 locked; echo "$PWD"; echo -n plaintext | encrypt > $out/secret`)
	req.Sandbox = step.SandboxNone
	opt := options(t)
	var warned, printed []string
	opt.Warn, opt.Reporter = func(text string) { warned = append(warned, text) }, func(line string) { printed = append(printed, line) }
	result, err := step.Run(t.Context(), req, opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := value(t, req, result, o, "secret"); got != "plaintext" || len(warned) == 0 || !strings.Contains(printed[0], "fleet-step-") {
		t.Errorf("got %q, warned %q, printed %q", got, warned, printed)
	}
	noProcess(t, "53197")
	if after := traces(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	text, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	// The process that asked is killed: the child notices, and cleans up.
	parent := exec.Command(os.Args[0], "run-step")
	parent.Stdin = bytes.NewReader(text)
	parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
	_ = parent.Process.Kill()
	_ = parent.Wait()
	noProcess(t, "53197")
	noProcess(t, step.ChildCommand)
	if after := traces(t); !slices.Equal(before, after) {
		t.Errorf("after a kill:\n%s", strings.Join(after, "\n"))
	}
	req.Sandbox = step.SandboxStrict
	if _, err := step.Run(t.Context(), req, options(t)); err == nil || !strings.Contains(err.Error(), "bubblewrap cannot make one") {
		t.Errorf("in a sandbox: %v", err)
	}
}
