package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"fleet/closure/daemon"
	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

func bufferedPipe() (net.Conn, net.Conn) { return net.Pipe() }

// sample is a path that exists nowhere yet.
type sample struct {
	info proto.PathInfo
	nar  []byte
}

// newSample makes a path whose contents and name are made of its letter: a store path's hash part need not be that of its contents.
func newSample(t *testing.T, letter, contents string, refs ...string) sample {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, contents)
	var b bytes.Buffer
	if err := nar.Dump(&b, file); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return sample{nar: b.Bytes(), info: proto.PathInfo{
		Path: "/nix/store/" + strings.Repeat(letter, 32) + "-fleet-test-" + letter, NarHash: hex.EncodeToString(sum[:]),
		NarSize: uint64(b.Len()), References: append([]string{}, refs...),
	}}
}

func chain(t *testing.T) []sample {
	a := newSample(t, "a", "first")
	b := newSample(t, "b", "second", a.info.Path)
	c := newSample(t, "c", strings.Repeat("third ", 1<<20), a.info.Path, b.info.Path)
	return []sample{a, b, c}
}

// push sends samples and returns which were acknowledged, and how that ended.
func push(t *testing.T, client *proto.Client, samples []sample) ([]string, error) {
	t.Helper()
	l := &load{nars: make(map[storepath.Path][]byte)}
	for _, s := range samples {
		info := infoOf(t, s.info)
		l.infos = append(l.infos, info)
		l.nars[info.Path] = s.nar
	}
	l.pack(t, nil)
	h, result, err := pushUnits(t, client, rand.Text(), l)
	if err == nil && int(result.Paths) != len(samples) {
		t.Errorf("%d paths in the result, want %d", result.Paths, len(samples))
	}
	return h.paths, err
}

func paths(samples []sample) []string {
	var out []string
	for _, s := range samples {
		out = append(out, s.info.Path)
	}
	return out
}

// lines are paths without the store's folder.
func lines(paths []string) proto.Lines {
	var lines proto.Lines
	for _, path := range paths {
		lines = append(lines, strings.TrimPrefix(path, "/nix/store/"))
	}
	return lines
}

func missing(t *testing.T, client *proto.Client, want []string) []string {
	t.Helper()
	request := proto.MissingRequest{Paths: lines(want)}
	var result proto.MissingResult
	if err := client.Call(t.Context(), proto.MethodMissing, request, &result); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, place := range result.Missing {
		left = append(left, want[place])
	}
	return left
}

func TestPathsArriveInAnEmptyStore(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	samples := chain(t)
	if diff := cmp.Diff(paths(samples), missing(t, client, paths(samples))); diff != "" {
		t.Errorf("before: %s", diff)
	}
	acked, err := push(t, client, samples)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(paths(samples), acked); diff != "" {
		t.Errorf("acks: %s", diff)
	}
	if left := missing(t, client, paths(samples)); len(left) != 0 {
		t.Errorf("still missing: %q", left)
	}
	if got := read(t, store.Root+samples[0].info.Path); got != "first" {
		t.Errorf("contents: %q", got)
	}
	if _, err := push(t, client, samples); err != nil {
		t.Errorf("again: %v", err)
	}
	checkClosure(t, client, samples)
	checkExport(t, client, samples)
}

func checkClosure(t *testing.T, client *proto.Client, samples []sample) {
	t.Helper()
	var got proto.ClosureResult
	if err := client.Call(t.Context(), proto.MethodClosure, proto.ClosureRequest{Roots: []string{samples[2].info.Path}}, &got); err != nil {
		t.Fatal(err)
	}
	var want []proto.PathInfo
	for _, s := range samples {
		want = append(want, s.info)
	}
	if diff := cmp.Diff(want, got.Paths); diff != "" {
		t.Errorf("closure: %s", diff)
	}
}

func checkExport(t *testing.T, client *proto.Client, samples []sample) {
	t.Helper()
	stream, err := client.Open(t.Context(), proto.MethodExport,
		proto.ExportRequest{Paths: []string{samples[2].info.Path, samples[1].info.Path, samples[0].info.Path}})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := proto.NewImportReader(stream)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, s := range samples {
		info, body, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.info, info); diff != "" {
			t.Errorf("export: %s", diff)
		}
		if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, s.nar) {
			t.Errorf("export of %s: %d bytes, %v", info.Path, len(data), err)
		}
	}
	if _, _, err := reader.Next(); err != io.EOF {
		t.Errorf("end of export: %v", err)
	}
	if err := stream.Result(nil); err != nil {
		t.Error(err)
	}
}

func TestRootsAreReplacedAtOnce(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	samples := chain(t)
	if _, err := push(t, client, samples); err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		if err := client.Call(t.Context(), proto.MethodRoot, proto.RootRequest{Name: "prod-web", Path: s.info.Path}, nil); err != nil {
			t.Fatal(err)
		}
		if target, _ := os.Readlink(filepath.Join(host.NixVar, "gcroots/fleet/prod-web")); target != s.info.Path {
			t.Errorf("root leads to %q", target)
		}
	}
	checkRootGroups(t, client, filepath.Join(host.NixVar, "gcroots/fleet"), samples[0].info.Path)
	for _, bad := range []proto.RootRequest{
		{Name: "../x", Path: samples[0].info.Path}, {Name: ".", Path: samples[0].info.Path}, {Name: "", Path: samples[0].info.Path},
		{Name: ".txn-t1", Path: samples[0].info.Path}, {Name: "ok", Path: "/etc"},
		{Name: "prod-web", Group: "p", Path: samples[0].info.Path}, {Name: "prod-web", Group: "test", Path: samples[0].info.Path},
	} {
		if err := client.Call(t.Context(), proto.MethodRoot, bad, nil); proto.CodeOf(err) != proto.CodeUsage {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	gone := proto.RootRequest{Name: "ok", Path: "/nix/store/" + strings.Repeat("z", 32) + "-gone"}
	if err := client.Call(t.Context(), proto.MethodRoot, gone, nil); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("a path that is not valid: %v", err)
	}
}

// checkRootGroups sets roots of two groups, and looks which of them a request for one group removes.
func checkRootGroups(t *testing.T, client *proto.Client, dir, path string) {
	t.Helper()
	request := proto.RootRequest{Name: "relay:a:web", Path: path, Group: "relay:a:", Keep: []string{"relay:a:db", "relay:a:none"}}
	for _, name := range []string{"relay:a:web", "relay:a:db", "relay:a:gone", "relay:ab:gone", "relay:b:gone", "other"} {
		if err := client.Call(t.Context(), proto.MethodRoot, proto.RootRequest{Name: name, Path: path}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "relay:a:folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := client.Call(t.Context(), proto.MethodRoot, request, nil); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if want := []string{"other", "prod-web", "relay:a:db", "relay:a:folder", "relay:a:web", "relay:ab:gone", "relay:b:gone"}; !slices.Equal(left, want) {
		t.Errorf("the roots %q are left, want %q", left, want)
	}
}

func TestReferencesFirst(t *testing.T) {
	p := func(letter string) storepath.Path {
		path, err := storepath.Parse("/nix/store/" + strings.Repeat(letter, 32) + "-x")
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	in := []storepath.Info{
		{Path: p("a"), References: []storepath.Path{p("a"), p("c"), p("d")}},
		{Path: p("b"), References: []storepath.Path{p("a"), p("z")}},
		{Path: p("c"), References: []storepath.Path{p("d")}},
		{Path: p("d"), References: []storepath.Path{p("d")}},
	}
	var got []storepath.Path
	for _, info := range referencesFirst(in) {
		got = append(got, info.Path)
	}
	want := []storepath.Path{p("d"), p("c"), p("a"), p("b")}
	if diff := cmp.Diff(pathTextsInOrder(want), pathTextsInOrder(got)); diff != "" {
		t.Error(diff)
	}
}

func pathTextsInOrder(in []storepath.Path) (out []string) {
	for _, p := range in {
		out = append(out, p.String())
	}
	return out
}

// builder is a derivation that needs nothing but a shell of this machine.
func instantiate(t *testing.T, script string) string {
	t.Helper()
	expr := `derivation { allowSubstitutes = false; preferLocalBuild = true; name = "fleet-agent-test"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ` +
		"''" + script + "''" + ` ]; }`
	out, err := run.Output(t.Context(), run.Cmd{Argv: []string{"nix-instantiate", "--expr", expr}})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func build(t *testing.T, client *proto.Client, drv string) (proto.BuildResult, string, error) {
	t.Helper()
	stream, err := client.Open(t.Context(), proto.MethodBuild, proto.BuildRequest{Drv: drv})
	if err != nil {
		t.Fatal(err)
	}
	log, _ := io.ReadAll(stream)
	var result proto.BuildResult
	err = stream.Result(&result)
	return result, string(log), err
}

func TestBuildStreamsItsLogAndRootsItsOutput(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	client, s := connect(t, host)
	drv := instantiate(t, "echo hello from the build; echo built $$ > $out; : "+t.Name()+filepath.Base(s.dir)+filepath.Base(host.Run))
	result, log, err := build(t, client, drv)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Outputs) != 1 || !strings.HasSuffix(result.Outputs[0], "-fleet-agent-test") {
		t.Errorf("outputs: %q", result.Outputs)
	}
	if target, err := os.Readlink(filepath.Join(s.dir, "build-1")); err != nil || target != result.Outputs[0] {
		t.Errorf("root: %q, %v", target, err)
	}
	if !strings.Contains(log, "@nix {") {
		t.Errorf("log: %q", log)
	}
	failing := instantiate(t, "echo it is broken; exit 3")
	_, log, err = build(t, client, failing)
	if proto.CodeOf(err) != proto.CodeBuildFailed || !strings.Contains(err.Error(), "failed with exit code 3") {
		t.Errorf("failing build: %v\n%s", err, log)
	}
	if _, _, err := build(t, client, result.Outputs[0]); proto.CodeOf(err) != proto.CodeUsage {
		t.Errorf("no derivation: %v", err)
	}
}

func TestInfoDescribesTheHost(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	client, _ := connect(t, host)
	var info proto.HostInfo
	if err := client.Call(t.Context(), proto.MethodInfo, nil, &info); err != nil {
		t.Fatal(err)
	}
	if !info.Root || !info.Trusted || info.NixVersion == "" || info.StoreFree == 0 || info.CPUs == 0 ||
		info.BootID != "11111111-2222-3333-4444-555555555555" || !strings.HasSuffix(info.System, "-linux") {
		t.Errorf("%+v", info)
	}
	if info.Current != "" || info.Profile != "" || info.BootDefault != "" || info.Lock != nil {
		t.Errorf("an empty host has systems: %+v", info)
	}
}

func TestAFullStoreIsNamed(t *testing.T) {
	storetest.RequireNix(t)
	requireRoot(t)
	dir := smallDisk(t, "3m")
	host := testHost(t)
	host.OpenStore = func(ctx context.Context) (*daemon.Conn, error) {
		return daemon.Open(ctx, daemon.Options{Store: dir})
	}
	client, _ := connect(t, host)
	_, err := push(t, client, chain(t))
	if e, ok := errors.AsType[*proto.Error](err); !ok || e.Code != proto.CodeStoreFull || !strings.Contains(e.Remedy, "nix-collect-garbage") {
		t.Errorf("got %v", err)
	}
	if free := freeBytes(t, dir); free < 1<<20 {
		t.Errorf("the path that did not fit still fills the store: %d bytes are free", free)
	}
}

func TestAnUntrustedUserIsToldWhatToConfigure(t *testing.T) {
	storetest.RequireNix(t)
	t.Setenv("NIX_CONFIG", "substituters =\ntrusted-users = nobody")
	store := storetest.New(t)
	socket := store.Socket()
	host := testHost(t)
	host.OpenStore = func(ctx context.Context) (*daemon.Conn, error) {
		return daemon.Dial(ctx, socket, daemon.ConnOptions{})
	}
	client, _ := connect(t, host)
	samples := chain(t)
	_, err := push(t, client, samples)
	e, ok := errors.AsType[*proto.Error](err)
	if !ok || e.Code != proto.CodeNotTrusted {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"trusted-users", "trusted-public-keys"} {
		if !strings.Contains(e.Remedy, want) {
			t.Errorf("the remedy does not name %s: %s", want, e.Remedy)
		}
	}
}

// smallDisk is a folder of a file system of that size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func freeBytes(t *testing.T, dir string) uint64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Bavail * uint64(st.Bsize)
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("FLEET_REQUIRE_ALL") == "1" {
		t.Fatal("root is needed")
	}
	t.Skip("root is needed")
}
