package step_test

import (
	"bytes"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet/closure/run"
	"fleet/secretsgen/step"
)

// loginUser is a user of this machine without rights, as an agent that is root has one.
func loginUser(t *testing.T) *step.User {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root runs a generator as somebody else")
	}
	entry, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(entry.Uid, 10, 32)
	gid, _ := strconv.ParseUint(entry.Gid, 10, 32)
	home, err := os.MkdirTemp("", "fleet-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if err := os.Chown(home, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return &step.User{Name: "nobody", UID: uint32(uid), GID: uint32(gid), Groups: []uint32{4}, Home: home}
}

func TestOnAHostAGeneratorIsItsLoginUsers(t *testing.T) {
	opt := options(t)
	opt.User = loginUser(t)
	req := request(t, newOwner(t), `exec > $out/public
		id -un; id -G; echo "$HOME $USER"; cd ~; : > mine; cd - > /dev/null; stat -c "%U %a" . $out; echo $PPID; cat /etc/shadow 2> /dev/null || echo no
		echo $PATH | sed "s|^$PWD/bin:||"; readlink /proc/self/ns/user; ls /proc | grep -c '^[0-9]*$' | sed 's/^[0-9]$/few/'`)
	req.Sandbox = step.SandboxNone
	ns, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	want := "nobody\n" + strconv.Itoa(int(opt.User.GID)) + " 4\n" + opt.User.Home + " nobody\nnobody 700\nnobody 700\n1\nno\n" + step.DefaultPath + "\n" + ns + "\nfew\n"
	if got := said(t, req, opt); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if _, err := os.Stat(filepath.Join(opt.User.Home, "mine")); err != nil {
		t.Error(err)
	}
}

func TestOnAHostASandboxIsMadeForTheLoginUser(t *testing.T) {
	opt := options(t)
	opt.User = loginUser(t)
	req := request(t, newOwner(t), `exec > $out/public; id -u; echo $HOME; ls `+opt.User.Home+` 2>/dev/null || echo no; grep CapEff /proc/self/status | tr -d "\t"`)
	want := strconv.Itoa(int(opt.User.UID)) + "\n/fleet\nno\nCapEff:0000000000000000\n"
	if got := said(t, req, opt); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// The test runs itself where everybody may use sudo.
func TestSudoWorksInAGeneratorOnAHost(t *testing.T) {
	requireProgram(t, "sudo")
	opt := options(t)
	opt.User = loginUser(t)
	if os.Getenv("FLEET_TEST_SUDO") != "1" {
		out, err := run.Output(t.Context(), run.Cmd{
			Argv: []string{"sh", "-c", `mount --make-rprivate /; mount -t tmpfs -o mode=755 none /etc/sudoers.d
				echo 'nobody ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/test; chmod 440 /etc/sudoers.d/test
				exec "$0" -test.count=1 -test.v -test.run '^TestSudoWorks' 2>&1`, os.Args[0]},
			Env: []string{"FLEET_TEST_SUDO=1"}, Isolation: &run.Isolation{NewMounts: true},
		})
		if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	o := newOwner(t)
	req := request(t, o, `
		file=$(sudo mktemp); sudo sh -c "echo -n made by \$(id -un) > $file"
		sudo cat $file | encrypt > $out/secret
		sudo cp $file $out/public; sudo chmod 0 $out/public
		sudo rm $file
	`)
	req.Sandbox = step.SandboxNone
	result, err := step.Run(t.Context(), req, opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := value(t, req, result, o, "secret"); got != "made by root" || string(result.Parts["public"].Public) != "made by root" {
		t.Errorf("got %q and %q", got, result.Parts["public"].Public)
	}
	hanging := request(t, o, `echo waits; sudo sh -c 'trap "" TERM; sleep 31975; :'`)
	hanging.Sandbox, hanging.Timeout = step.SandboxNone, 300*time.Millisecond
	if _, err := step.Run(t.Context(), hanging, opt); !errors.Is(err, step.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	noProcess(t, "31975")
}

func TestOnlyRootRunsAGeneratorAsSomebodyElse(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root does")
	}
	opt := options(t)
	opt.User = &step.User{UID: uint32(os.Geteuid()) + 1}
	if _, err := step.Run(t.Context(), request(t, newOwner(t), ""), opt); err == nil || !strings.Contains(err.Error(), "only root can") {
		t.Errorf("got %v", err)
	}
}
