package deploy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/closure"
	"fleet/closure/daemon"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/evaluator/plan"
)

func privateKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// TestPrivateKeysInASystemAreFound looks into a real store.
func TestPrivateKeysInASystemAreFound(t *testing.T) {
	store := storetest.New(t)
	c := store.Connect()
	key := privateKey(t)
	signed := func(text storetest.Text, signatures ...string) storepath.Path {
		info, archive := storetest.Prepare(t, text)
		info.Signatures = signatures
		if err := c.AddToStoreNar(t.Context(), info, bytes.NewReader(archive), daemon.AddOptions{SkipSignatures: true}); err != nil {
			t.Fatal(err)
		}
		return info.Path
	}
	const signature = ":c2lnbmF0dXJl"
	leaked := signed(storetest.Text{Name: "app.toml", Contents: "key = '''\n" + key + "'''"})
	ours := signed(storetest.Text{Name: "from-our-cache", Contents: key + "ours"}, "ours-1"+signature)
	tests := signed(storetest.Text{Name: "python", Contents: key + "of a test"}, "cache.nixos.org-1"+signature)
	large := signed(storetest.Text{Name: "image", Contents: strings.Repeat("x", maxLeakFile) + key})
	plain := signed(storetest.Text{Name: "openssl", Contents: "-----BEGIN PRIVATE KEY-----\x00"})
	root := signed(storetest.Text{Name: "nixos-system", References: []storepath.Path{leaked, ours, tests, large, plain}})
	source := closure.NewLocalStore(closure.LocalOptions{Daemon: store.Options()})
	defer source.Close()
	leaks := &Leaks{Source: source}
	found, err := leaks.Find(t.Context(), root)
	want := []Leak{{leaked.String(), "a private key in PEM"}, {ours.String(), "a private key in PEM"}}
	slices.SortFunc(want, func(a, b Leak) int { return strings.Compare(a.File, b.File) })
	if diff := cmp.Diff(want, found); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if again, err := leaks.Find(t.Context(), root); err != nil || len(again) > 0 {
		t.Errorf("said twice: %v, %v", again, err)
	}
	news := signed(storetest.Text{Name: "app-2.toml", Contents: key + "second"})
	next := signed(storetest.Text{Name: "nixos-system", Contents: "2", References: []storepath.Path{leaked, ours, news}})
	leaks = &Leaks{Source: source}
	if found, err := leaks.Find(t.Context(), next, root); err != nil || len(found) != 1 || found[0].File != news.String() {
		t.Errorf("to a host that has the rest: %v, %v", found, err)
	}
	absent, _ := storetest.Prepare(t, storetest.Text{Name: "built-elsewhere"})
	if found, err := leaks.Find(t.Context(), absent.Path, absent.Path); err != nil || len(found) > 0 {
		t.Errorf("got %v, %v", found, err)
	}
}

// keySource is a store in which every path is a folder with a key in it.
type keySource struct{ key string }

func (s keySource) Closure(_ context.Context, roots ...storepath.Path) (*closure.Graph, error) {
	return closure.NewGraph(roots, []closure.PathInfo{{Path: roots[0], NarSize: 1}})
}

func (s keySource) Files(_ context.Context, _ storepath.Path, visit func(string, uint64, io.Reader) error) error {
	return visit("etc/app.toml", uint64(len(s.key)), strings.NewReader(s.key))
}

func TestADeploymentWarnsOfPrivateKeys(t *testing.T) {
	w := newWorld("a", "b")
	key := privateKey(t)
	report := w.run(t.Context(), t, func(d *Deployer, _ *Request) { d.Leaks = &Leaks{Source: keySource{key}} })
	if report.ExitCode() != ExitOK {
		t.Errorf("exit code %d", report.ExitCode())
	}
	var warned []string
	for _, e := range w.events {
		if e.Kind == plan.EventWarning {
			warned = append(warned, e.Host+": "+e.Message)
			if e.Hint == "" || strings.Contains(e.Message+e.Hint, "BEGIN") {
				t.Errorf("got %+v", e)
			}
		}
	}
	slices.Sort(warned)
	want := []string{
		"a: " + toplevel("a", 2) + "/etc/app.toml holds a private key in PEM: it is in the system, and every user of the host can read the store",
		"b: " + toplevel("b", 2) + "/etc/app.toml holds a private key in PEM: it is in the system, and every user of the host can read the store",
	}
	if diff := cmp.Diff(want, warned); diff != "" {
		t.Error(diff)
	}
}
