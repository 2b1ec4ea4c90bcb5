package hostkeys

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAStateThatStandsAloneIsReadHostByHost(t *testing.T) {
	s := open(t, t.TempDir())
	for _, host := range []string{"web-1", "broken", "linked"} {
		if err := s.Record(t.Context(), host, keyOtherType, Accepted, time.Unix(0, 0)); err != nil && host == "web-1" {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(s.Dir(), "fleet-state/default")
	hosts := filepath.Join(folder, "hosts")
	if err := os.WriteFile(filepath.Join(hosts, "broken.json"), []byte("<<<<<<< HEAD\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(hosts, "linked.json"))
	if err := os.Symlink("web-1.json", filepath.Join(hosts, "linked.json")); err != nil {
		t.Fatal(err)
	}
	keys, broken, err := ReadFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"web-1": {keyOtherType}}, keys); diff != "" {
		t.Error(diff)
	}
	if len(broken) != 2 || broken["broken"] == nil || broken["linked"] == nil {
		t.Errorf("got %v", broken)
	}
	if keys, broken, err := ReadFolder(filepath.Join(folder, "nowhere")); err != nil || len(keys)+len(broken) > 0 {
		t.Errorf("got %v, %v, %v", keys, broken, err)
	}
}
