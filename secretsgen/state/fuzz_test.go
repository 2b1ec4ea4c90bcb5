package state

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/secretsgen/secret"
)

// Whatever the files hold, reading them ends; and what is read as whole is written with the same meaning.
func FuzzParse(f *testing.F) {
	files, err := render(value(3))
	if err != nil {
		f.Fatal(err)
	}
	note, err := secret.Revoked{Format: secret.Format, Gen: value(3).Meta.Gen, Owner: "x"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files[metaFile], "host-1.json", files["owners/host-1.json"], "public", files["public/public"], string(value(3).Meta.Gen)+"-x.json", note)
	f.Add([]byte("<<<<<<< HEAD\n=======\n>>>>>>> x\n"), "../x.json", []byte("{}"), "\n", []byte{0}, "x", []byte("null"))
	f.Fuzz(func(t *testing.T, meta []byte, ownerName string, owner []byte, publicName string, public []byte, noteName string, note []byte) {
		files := content{
			metaFile: meta, ownersFolder + "/" + ownerName: owner, publicFolder + "/" + publicName: public, revokedFolder + "/" + noteName: note,
		}
		e := parse("default", "fleet-state/default/secrets/shared/db", secret.ID{Scope: secret.Shared, Name: "db"}, files)
		for _, fault := range e.Faults() {
			if fault.Error() == "" || fault.Hint() == "" {
				t.Errorf("no words for %+v", fault)
			}
		}
		if whole(e) != nil {
			return
		}
		again, err := render(e)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, parse("default", "fleet-state/default/secrets/shared/db", e.ID, again)); diff != "" {
			t.Error(diff)
		}
		if !slices.Equal(slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(again))) {
			t.Errorf("files %q became %q", slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(again)))
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte("\x01c\x00a\x002026-11-25T23:48:42+00:00\x00two\x00\nM\x00d/meta.json\x00D\x00d/owners/a.json\x00\x01d\x00a\x002026-11-25T23:48:42+00:00\x00one\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		commits, err := parseLog(out)
		for _, c := range commits {
			if err == nil && c.at.IsZero() && c.hash == "" {
				t.Logf("an odd commit %+v", c)
			}
		}
	})
}

func TestTheLogOfGitIsReadToItsEnd(t *testing.T) {
	commits, err := parseLog([]byte("\x01c\x00a\x002026-11-25T23:48:42+00:00\x00two\x00\nM\x00d/meta.json\x00D\x00\x01odd\x00\x01d\x00a\x002026-11-25T23:48:42+00:00\x00one\x00"))
	if err != nil || len(commits) != 2 {
		t.Fatalf("got %+v, %v", commits, err)
	}
	if diff := cmp.Diff([]fileChange{{"M", "d/meta.json"}, {"D", "\x01odd"}}, commits[0].files, cmp.AllowUnexported(fileChange{})); diff != "" {
		t.Error(diff)
	}
	if len(commits[1].files) != 0 || commits[1].subject != "one" {
		t.Errorf("got %+v", commits[1])
	}
}
