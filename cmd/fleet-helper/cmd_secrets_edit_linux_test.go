package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/run"
)

// editorScript is an editor that edits, looks around, and tries to leave something behind.
const editorScript = `#!/bin/sh
echo "file=$1 mode=$(stat -c %a "$1") dir=$(stat -c %a "$(dirname "$1")") fs=$(stat -f -c %T "$1")" >&2
echo "tmpdir=$TMPDIR state=$XDG_STATE_HOME" >&2
echo "cores=$(ulimit -Hc)" >&2
for leak in "$LEAKS/a" "$HOME/.history" /tmp/leak-of-an-editor; do
  if echo plain 2>/dev/null >"$leak"; then echo "left $leak" >&2; fi
done
echo undo >"$TMPDIR/undo" && echo "has room of its own" >&2
sed -i s/old/new/ "$1"
`

// programs makes a folder that every user can reach with the test binary in it, under the names of its commands, and the editor.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleet-edit-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"fleet": binary, "editor": []byte(editorScript)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "fleet"), filepath.Join(dir, "edit-privately")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWhatIsEditedIsInMemoryThatNothingIsLeftOf(t *testing.T) {
	dir := programs(t)
	users := map[string]*run.IDs{"the user of this test": nil}
	if os.Geteuid() == 0 {
		users["nobody"] = &run.IDs{UID: 65534, GID: 65534}
	}
	for name, as := range users {
		t.Run(name, func(t *testing.T) {
			leaks := filepath.Join(dir, "leaks-of-"+strings.ReplaceAll(name, " ", "-"))
			if err := os.Mkdir(leaks, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(leaks, 0o777); err != nil {
				t.Fatal(err)
			}
			var seen strings.Builder
			cmd := run.Cmd{
				Argv: []string{filepath.Join(dir, "edit-privately"), filepath.Join(dir, "editor")}, Dir: "/", NewSession: true,
				Env:   []string{"LEAKS=" + leaks, "HOME=" + leaks},
				Stdin: strings.NewReader("an old value"), Stderr: &seen,
			}
			if as != nil {
				cmd.Isolation = &run.Isolation{As: as}
			}
			edited, err := run.Output(t.Context(), cmd)
			if err != nil || string(edited) != "an new value" {
				t.Fatalf("got %q, %v", edited, err)
			}
			if strings.Contains(seen.String(), "warning: this machine allows no namespaces") {
				if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
					t.Fatal(seen.String())
				}
				t.Skip(seen.String())
			}
			for _, want := range []string{"file=/dev/shm/fleet/token-secret mode=600 dir=700 fs=", "tmpdir=/dev/shm/fleet state=/dev/shm/fleet", "cores=0\n", "has room of its own"} {
				if !strings.Contains(seen.String(), want) {
					t.Errorf("the editor did not see %q:\n%s", want, seen.String())
				}
			}
			if strings.Contains(seen.String(), "left ") {
				t.Errorf("the editor left something behind:\n%s", seen.String())
			}
			if _, err := os.Lstat("/dev/shm/fleet"); err == nil {
				t.Error("the folder can be seen from outside")
			}
		})
	}
}

func TestAFailingEditorChangesNothing(t *testing.T) {
	dir := programs(t)
	_, err := run.Output(t.Context(), run.Cmd{
		Argv: []string{filepath.Join(dir, "edit-privately"), "false"}, Dir: "/", NewSession: true, Stdin: strings.NewReader("value"),
	})
	if err == nil || !strings.Contains(err.Error(), `the editor "false" failed; nothing was changed`) || strings.Contains(err.Error(), "value") {
		t.Errorf("got %v", err)
	}
}
