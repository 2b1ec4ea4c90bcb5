package daemon_test

import (
	"errors"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

func TestSubstitutersAreUsedWhereAsked(t *testing.T) {
	store := storetest.New(t)
	base, left, right, top := store.Diamond(store.Connect())
	cache := "file://" + t.TempDir()
	err := run.Run(t.Context(), run.Cmd{Argv: []string{"nix", "--extra-experimental-features", "nix-command", "--store", store.Root, "copy", "--no-check-sigs", "--to", cache, top.Path.String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONFIG", "substituters = "+cache+"\nrequire-sigs = false")
	missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
	all := []storepath.Path{base.Path, left.Path, right.Path, top.Path}
	storepath.Sort(all)

	target := storetest.New(t)
	c := target.Connect()
	served, err := c.QuerySubstitutable(t.Context(), []storepath.Path{missing.Path, left.Path})
	want := []storepath.Path{base.Path, left.Path}
	storepath.Sort(want)
	if d := diff(want, served); err != nil || d != "" {
		t.Errorf("before: %v %s", err, d)
	}
	for _, test := range []struct {
		opts daemon.ValidPathsOptions
		want []storepath.Path
	}{{daemon.ValidPathsOptions{}, nil}, {daemon.ValidPathsOptions{Substitute: true}, all}} {
		valid, err := c.QueryValidPaths(t.Context(), append([]storepath.Path{missing.Path}, all...), test.opts)
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(test.want, valid); d != "" {
			t.Errorf("%+v: %s", test.opts, d)
		}
	}
	target.Nix("--verify-path", top.Path.String())

	single := storetest.New(t).Connect()
	if err := single.EnsurePath(t.Context(), top.Path); err != nil {
		t.Error(err)
	}
	closure, err := single.QueryClosure(t.Context(), []storepath.Path{top.Path})
	if err != nil || len(closure) != 4 {
		t.Errorf("%d paths, %v", len(closure), err)
	}
	var refused *daemon.Error
	if err := single.EnsurePath(t.Context(), missing.Path); !errors.As(err, &refused) {
		t.Error(err)
	}
}
