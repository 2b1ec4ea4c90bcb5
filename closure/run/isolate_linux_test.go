package run

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// isolated runs a script as PID 1 of its own namespaces.
func isolated(t *testing.T, i Isolation, script string) string {
	t.Helper()
	cmd := sh(script)
	cmd.Isolation = &i
	out, err := Output(testContext(t), cmd)
	if errors.Is(err, syscall.EPERM) && os.Getenv("FLEET_REQUIRE_ALL") != "1" {
		t.Skipf("this machine allows no namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestAProcessHasTheNamespacesThatItAsksFor(t *testing.T) {
	inside := &IDs{UID: 7, GID: 8}
	if got := isolated(t, Isolation{NewPIDs: true, NewMounts: true, Inside: inside}, "echo $$ $(id -u) $(id -g)"); got != "1 7 8" {
		t.Errorf("pid and ids inside: %q", got)
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if theirs := isolated(t, Isolation{NewMounts: true, Inside: inside}, "readlink /proc/self/ns/mnt"); theirs == ours || theirs == "" {
		t.Errorf("mount namespace %q, ours is %q", theirs, ours)
	}
	if theirs := isolated(t, Isolation{}, "readlink /proc/self/ns/mnt"); theirs != ours {
		t.Errorf("without isolation %q, ours is %q", theirs, ours)
	}
}

func TestRootRunsAProcessAsSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can")
	}
	got := isolated(t, Isolation{As: &IDs{UID: 65534, GID: 65533, Groups: []uint32{65532}}}, "id -u; id -g; id -G")
	if got != "65534\n65533\n65533 65532" {
		t.Errorf("%q", got)
	}
}

// TestDiesWithItsParent runs itself as the parent that is killed.
func TestDiesWithItsParent(t *testing.T) {
	if os.Getenv("FLEET_TEST_PARENT") == "1" {
		cmd := sh("trap '' TERM; echo $$; while :; do sleep 1; done")
		cmd.Isolation, cmd.Stdout, cmd.NewSession = &Isolation{DieWithParent: true}, os.Stdout, true
		fmt.Println(Run(t.Context(), cmd))
		return
	}
	// Not through this package: it would kill the whole group, and so the child too.
	parent := exec.Command(os.Args[0], "-test.run=^TestDiesWithItsParent$")
	parent.Env = append(os.Environ(), "FLEET_TEST_PARENT=1")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for end := time.Now().Add(10 * time.Second); isRunning(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatal("the child outlives its parent")
		}
	}
}

// isRunning says whether a process is there and no zombie that waits for whoever adopted it.
func isRunning(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}
