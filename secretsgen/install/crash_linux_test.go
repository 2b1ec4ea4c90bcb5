package install

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// childVariable turns the test's own program into an installer that can be killed; its value is a [childTask] as JSON.
const childVariable = "FLEET_TEST_INSTALL"

// childTask is what an installer in a process of its own does.
type childTask struct {
	Manifest string
	Options  Options
	// Steps is "each" to say every step on standard output and wait there until it is told to go on, or killed; "first" to say the first one.
	Steps string
}

func TestMain(m *testing.M) {
	if superviseLab() {
		return
	}
	if task := os.Getenv(childVariable); task != "" {
		os.Exit(childMain(task))
	}
	os.Exit(m.Run())
}

func childMain(text string) int {
	var task childTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	m, err := LoadManifest(task.Manifest)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	in := bufio.NewReader(os.Stdin)
	task.Options.observe = func(step string) {
		switch task.Steps {
		case "each":
			fmt.Println(step)
			_, _ = in.ReadByte()
		case "first":
			fmt.Println(step)
			task.Steps = ""
		}
	}
	report, err := Install(background(), m, task.Options)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child prepares an installer in a process of its own.
func (b *bench) child(m *Manifest, steps string) *exec.Cmd {
	b.t.Helper()
	data, err := json.Marshal(m)
	b.must(err)
	file := b.path("manifest-" + strconv.Itoa(rand.Int()) + ".json")
	b.must(os.WriteFile(file, data, 0o600))
	return b.childOf(childTask{Manifest: file, Options: b.options(), Steps: steps})
}

func (b *bench) childOf(task childTask) *exec.Cmd {
	b.t.Helper()
	task.Options.Log = nil
	text, err := json.Marshal(struct {
		Manifest string
		Options  map[string]any
		Steps    string
	}{task.Manifest, map[string]any{"Root": task.Options.Root, "Links": task.Options.Links, "Accounts": task.Options.Accounts, "Phase": task.Options.Phase, "Mount": task.Options.Mount}, task.Steps})
	b.must(err)
	cmd := b.self()
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	return cmd
}

// self is the test's own program.
func (b *bench) self(args ...string) *exec.Cmd {
	b.t.Helper()
	self, err := os.Executable()
	b.must(err)
	return exec.Command(self, args...)
}

// states are the two manifests that a crash test goes between, and what the secrets look like under each.
type states struct {
	manifests [2]*Manifest
	looks     [2]string
}

func (b *bench) states() states {
	b.t.Helper()
	old := clone(b.t, b.m)
	for i := range 6 {
		old.Secrets = append(old.Secrets, b.secret(fmt.Sprint("s", i), fmt.Sprint("old ", i)))
	}
	old.Secrets[0].Credentials = map[string]string{"old-only": "secret", "both": "secret"}
	old.Templates = []Template{{Name: "t", Mode: "0440", Content: "t=" + Placeholder(old.Secrets[0].ID, "secret"), Path: "/etc/old"}}
	now := clone(b.t, b.m)
	for i := range 6 {
		now.Secrets = append(now.Secrets, b.secret(fmt.Sprint("s", i+2), fmt.Sprint("new ", i)))
	}
	now.Secrets[0].Credentials = map[string]string{"new-only": "secret", "both": "secret"}
	now.Templates = []Template{{Name: "t", Mode: "0440", Content: "n=" + Placeholder(now.Secrets[0].ID, "secret"), Path: "/etc/new"}}
	s := states{manifests: [2]*Manifest{old, now}}
	for i, m := range s.manifests {
		b.m = m
		b.good()
		s.looks[i] = b.look()
	}
	if s.looks[0] == s.looks[1] {
		b.t.Fatal("the two states look alike")
	}
	return s
}

// look is what services see of the secrets: names, owners, modes and contents, through the link.
func (b *bench) look() string {
	b.t.Helper()
	var out strings.Builder
	dir, err := filepath.EvalSymlinks(b.path("run/secrets"))
	b.must(err)
	b.must(filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var data []byte
		if info.Mode().IsRegular() {
			if data, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		fmt.Fprintf(&out, "%s %+v %q\n", strings.TrimPrefix(name, dir), ownershipOf(info), data)
		return nil
	}))
	return out.String()
}

// complete checks what must hold after a run that was not disturbed.
func (b *bench) complete(s states, i int) {
	b.t.Helper()
	b.m = s.manifests[i]
	b.good()
	if diff := cmp.Diff(s.looks[i], b.look()); diff != "" {
		b.t.Fatal(diff)
	}
	values := [2]string{"t=old 0 0:0 0440", "n=new 0 0:0 0440"}
	links := map[string]string{"links/etc/old": "", "links/etc/new": "", "run/credstore/old-only": "", "run/credstore/new-only": ""}
	links[[2]string{"links/etc/old", "links/etc/new"}[i]] = values[i]
	credential := [2]string{"old 0 990:96 0440", "new 0 990:96 0440"}[i]
	links[[2]string{"run/credstore/old-only", "run/credstore/new-only"}[i]] = credential
	links["run/credstore/both"] = credential
	b.want(links)
	if n := len(b.generations("secrets")); n != 1 {
		b.t.Fatalf("%d generations are there", n)
	}
	for _, dir := range []string{"run", "links", "links/etc", "run/credstore"} {
		entries, err := os.ReadDir(b.path(dir))
		b.must(err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") && e.Name() != lockFile {
				b.t.Fatalf("%s/%s was left behind", dir, e.Name())
			}
		}
	}
	before := b.snapshot(".")
	b.good()
	if diff := cmp.Diff(before, b.snapshot(".")); diff != "" {
		b.t.Fatal("a rerun changed something: ", diff)
	}
}

// oldOrNew checks what a killed installer has left.
func (b *bench) oldOrNew(s states, at string) {
	b.t.Helper()
	if look := b.look(); look != s.looks[0] && look != s.looks[1] {
		b.t.Fatalf("killed at %q, the secrets are neither the old ones nor the new ones:\n%s", at, look)
	}
}

// TestAnInstallerThatIsKilledAfterAnyStepLeavesOldOrNew kills a real process after every file that it wrote and every other step.
func TestAnInstallerThatIsKilledAfterAnyStepLeavesOldOrNew(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.states()
	killed := 0
	for n := 1; ; n++ {
		to := n % 2
		b.complete(s, 1-to)
		step, more := b.killAfter(s.manifests[to], n)
		if !more {
			break
		}
		killed++
		b.oldOrNew(s, step)
		if n%3 == 0 { // a second one is killed in what the first has left
			step, _ = b.killAfter(s.manifests[to], n/2+1)
			b.oldOrNew(s, step)
		}
		if n%4 == 0 { // or the old manifest comes back
			b.complete(s, 1-to)
		}
		b.complete(s, to)
	}
	if killed < 10 {
		t.Errorf("only %d steps", killed)
	}
	t.Logf("killed after each of %d steps", killed)
}

// killAfter runs an installer and kills it after its nth step; false where it had fewer.
func (b *bench) killAfter(m *Manifest, n int) (step string, more bool) {
	b.t.Helper()
	cmd := b.child(m, "each")
	in, err := cmd.StdinPipe()
	b.must(err)
	out, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	lines := bufio.NewScanner(out)
	for i := 1; lines.Scan(); i++ {
		if step = lines.Text(); i == n {
			b.must(cmd.Process.Kill())
			_ = cmd.Wait()
			return step, true
		}
		_, _ = in.Write([]byte("\n"))
	}
	b.must(cmd.Wait())
	return step, false
}

// TestAnInstallerThatIsKilledAtAnyMomentLeavesOldOrNew kills a real process at random moments of its writing.
func TestAnInstallerThatIsKilledAtAnyMomentLeavesOldOrNew(t *testing.T) {
	requireRoot(t)
	b := newBench(t)
	s := b.states()
	b.complete(s, 0)
	usual, _ := b.killAround(s.manifests[1], time.Minute)
	killed, to := 0, 0
	for range 60 {
		if _, dead := b.killAround(s.manifests[to], rand.N(usual)); dead {
			killed++
		}
		b.oldOrNew(s, "a random moment")
		if rand.IntN(3) == 0 {
			b.complete(s, to)
		}
		to = 1 - to
	}
	b.complete(s, to)
	if killed < 5 {
		t.Errorf("only %d of 60 were killed", killed)
	}
	t.Logf("killed %d of 60, which write for %s", killed, usual)
}

// killAround kills an installer some time after it has begun to write; it says how long that took, and whether it was still there.
func (b *bench) killAround(m *Manifest, after time.Duration) (took time.Duration, dead bool) {
	b.t.Helper()
	cmd := b.child(m, "first")
	out, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	if !bufio.NewScanner(out).Scan() {
		b.t.Fatal("the installer did not begin")
	}
	began := time.Now()
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && (!ok || status.Signal() != syscall.SIGKILL) {
		b.t.Fatal(err)
	}
	return time.Since(began), err != nil
}
