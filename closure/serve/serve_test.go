package serve_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/closure/nar"
	"fleet/closure/run"
	"fleet/closure/serve"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
)

// server is a real nix-store --serve as a connection.
type server struct {
	*run.Process
	cancel context.CancelFunc
	close  sync.Once
	said   bytes.Buffer
}

func start(t *testing.T, store *storetest.Store, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{cancel: cancel}
	process, err := run.Start(ctx, run.Cmd{
		Argv: append([]string{"nix-store", "--store", store.Root, "--serve"}, args...), PipeStdin: true, PipeStdout: true, Stderr: &s.said,
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s.Process = process
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *server) Read(p []byte) (int, error)  { return s.Stdout.Read(p) }
func (s *server) Write(p []byte) (int, error) { return s.Stdin.Write(p) }

func (s *server) Close() error {
	s.close.Do(func() {
		_ = s.Stdin.Close()
		_ = s.Stdout.Close()
		timer := time.AfterFunc(2*time.Second, s.cancel)
		defer timer.Stop()
		_ = s.Wait()
		s.cancel()
	})
	return nil
}

func connect(t *testing.T, s io.ReadWriteCloser) *serve.Conn {
	t.Helper()
	c, err := serve.NewConn(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// from reads NARs of a store.
func from(store *storetest.Store) func(storepath.Info, io.Writer) error {
	return func(info storepath.Info, w io.Writer) error { return nar.Dump(w, store.RealPath(info.Path)) }
}

func valid(t *testing.T, c *serve.Conn, paths ...storepath.Path) []storepath.Path {
	t.Helper()
	found, err := c.QueryValidPaths(t.Context(), paths, serve.QueryOptions{Lock: true})
	if err != nil {
		t.Fatal(err)
	}
	storepath.Sort(found)
	return found
}

func TestPathsAreAddedWithoutWaitingForEach(t *testing.T) {
	source, target := storetest.New(t), storetest.New(t)
	base, left, right, top := source.Diamond(source.Connect())
	top.Signatures = []string{"test-1:AAAA"}
	infos := []storepath.Info{base, left, right, top}
	paths := []storepath.Path{base.Path, left.Path, right.Path, top.Path}
	c := connect(t, start(t, target, "--write"))
	if found := valid(t, c, paths...); len(found) > 0 {
		t.Fatalf("an empty store has %v", found)
	}
	var added []storepath.Info
	if err := c.Add(t.Context(), infos, from(source), func(info storepath.Info) { added = append(added, info) }); err != nil {
		t.Fatal(err)
	}
	if len(added) != len(infos) || added[0].Path != base.Path || added[3].Path != top.Path {
		t.Errorf("added %v", added)
	}
	storepath.Sort(paths)
	if found := valid(t, c, paths...); !slices.Equal(found, paths) {
		t.Errorf("valid are %v", found)
	}
	// What is there already is read past.
	if err := c.Add(t.Context(), infos, from(source), func(storepath.Info) {}); err != nil {
		t.Error(err)
	}
	// A collection spares what was locked.
	target.Nix("--gc")
	got, err := target.Connect().QueryPathInfos(t.Context(), []storepath.Path{top.Path})
	if err != nil {
		t.Fatal(err)
	}
	if info := got[top.Path]; info.NarHash != top.NarHash || !slices.Equal(info.References, top.References) || !slices.Equal(info.Signatures, top.Signatures) {
		t.Errorf("registered as %+v", info)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	target.Nix("--gc")
	if out := target.Nix("--check-validity", "--print-invalid", top.Path.String()); strings.TrimSpace(out) != top.Path.String() {
		t.Error("the lock outlives the connection")
	}
}

func TestSubstitutersAreUsedWhereAsked(t *testing.T) {
	source := storetest.New(t)
	base, left, right, top := source.Diamond(source.Connect())
	cache := "file://" + t.TempDir()
	err := run.Run(t.Context(), run.Cmd{Argv: []string{"nix", "--extra-experimental-features", "nix-command", "--store", source.Root, "copy", "--no-check-sigs", "--to", cache, top.Path.String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONFIG", "substituters = "+cache+"\nrequire-sigs = false")
	missing, _ := storetest.Prepare(t, storetest.Text{Name: "missing"})
	paths := []storepath.Path{base.Path, left.Path, right.Path, top.Path}
	c := connect(t, start(t, storetest.New(t), "--write"))
	asked := append(slices.Clone(paths), missing.Path)
	if found := valid(t, c, asked...); len(found) > 0 {
		t.Fatalf("an empty store has %v", found)
	}
	found, err := c.QueryValidPaths(t.Context(), asked, serve.QueryOptions{Lock: true, Substitute: true})
	storepath.Sort(found)
	storepath.Sort(paths)
	if err != nil || !slices.Equal(found, paths) {
		t.Errorf("valid are %v, %v", found, err)
	}
}

// Answers and requests cross in numbers that no pipe holds.
func TestManyPaths(t *testing.T) {
	target := storetest.New(t)
	var infos []storepath.Info
	archives := map[storepath.Path][]byte{}
	for i := range 600 {
		text := storetest.Text{Name: "many", Contents: strings.Repeat(string(rune('a'+i%26)), 100+i)}
		if i > 0 {
			text.References = []storepath.Path{infos[i-1].Path}
		}
		info, archive := storetest.Prepare(t, text)
		infos, archives[info.Path] = append(infos, info), archive
	}
	c := connect(t, start(t, target, "--write"))
	count := 0
	err := c.Add(t.Context(), infos, func(info storepath.Info, w io.Writer) error {
		_, err := w.Write(archives[info.Path])
		return err
	}, func(storepath.Info) { count++ })
	if err != nil || count != len(infos) {
		t.Errorf("%d were added: %v", count, err)
	}
	target.Nix("--verify", "--check-contents")
}

func TestAServersEndIsToldApartFromOurErrors(t *testing.T) {
	source := storetest.New(t)
	base, left, right, _ := source.Diamond(source.Connect())
	broken := errors.New("the disk is gone")
	wrong := left
	wrong.NarHash[0] ^= 1
	for name, tt := range map[string]struct {
		args  []string
		infos []storepath.Info
		nar   func(storepath.Info, io.Writer) error
		// added is how many paths are, ours says that the error is a SourceError, and says what the server prints.
		added int
		ours  bool
		says  string
	}{
		"a wrong hash":      {[]string{"--write"}, []storepath.Info{base, wrong, right}, from(source), 1, false, "hash mismatch"},
		"a missing path":    {[]string{"--write"}, []storepath.Info{left, base}, from(source), 0, false, "is not valid"},
		"a read-only store": {nil, []storepath.Info{base}, from(source), 0, false, "not allowed"},
		"an unreadable NAR": {[]string{"--write"}, []storepath.Info{base, left}, func(info storepath.Info, w io.Writer) error {
			if info.Path == left.Path {
				return broken
			}
			return from(source)(info, w)
		}, 1, true, ""},
		"a short NAR": {[]string{"--write"}, []storepath.Info{base}, func(storepath.Info, io.Writer) error { return nil }, 0, true, ""},
		"a long NAR": {[]string{"--write"}, []storepath.Info{base}, func(_ storepath.Info, w io.Writer) error {
			_, err := w.Write(make([]byte, base.NarSize+1))
			return err
		}, 0, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := storetest.New(t)
			s := start(t, target, tt.args...)
			c := connect(t, s)
			err := c.Add(t.Context(), tt.infos, tt.nar, func(storepath.Info) {})
			_, ours := errors.AsType[*serve.SourceError](err)
			_, ended := errors.AsType[*serve.EndedError](err)
			if ours != tt.ours || ended == tt.ours {
				t.Errorf("error %v", err)
			}
			_ = s.Close()
			if !strings.Contains(s.said.String(), tt.says) {
				t.Errorf("it printed %q", s.said.String())
			}
			for i, info := range tt.infos {
				out := target.Nix("--check-validity", "--print-invalid", info.Path.String())
				if added := strings.TrimSpace(out) == ""; added && i >= tt.added {
					t.Errorf("%s was added", info.Path)
				}
			}
		})
	}
}

func TestAContextEndsWhatHangs(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	silent := errors.New("silent")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, silent)
	defer cancel()
	if _, err := serve.NewConn(ctx, ours); !errors.Is(err, silent) {
		t.Errorf("error %v", err)
	}
}

// script answers whatever is asked with fixed bytes.
type script struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func answer(data []byte) *script {
	return &script{Reader: bytes.NewReader(data), closed: make(chan struct{})}
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func numbers(values ...uint64) (data []byte) {
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, v)
	}
	return data
}

func TestHandshakeRefusesOthers(t *testing.T) {
	for name, tt := range map[string]struct {
		data []byte
		want any
	}{
		"nothing":       {nil, new(*serve.EndedError)},
		"a login shell": {[]byte("Welcome to this machine!\n"), new(*serve.FaultError)},
		"cut":           {numbers(0x5452eecb), new(*serve.EndedError)},
		"too old":       {numbers(0x5452eecb, 2<<8|4), new(*serve.VersionError)},
		"too new":       {numbers(0x5452eecb, 3<<8), new(*serve.VersionError)},
	} {
		t.Run(name, func(t *testing.T) {
			s := answer(tt.data)
			_, err := serve.NewConn(t.Context(), s)
			if err == nil || !errors.As(err, tt.want) {
				t.Errorf("error %v", err)
			}
			select {
			case <-s.closed:
			default:
				t.Error("the connection was left open")
			}
		})
	}
}

// FuzzServer gives us a hostile server: nothing that it says may hang, take memory that it did not send, or be taken for what was not asked for.
func FuzzServer(f *testing.F) {
	p, err := storepath.Parse("/nix/store/00000000000000000000000000000000-a")
	if err != nil {
		f.Fatal(err)
	}
	text := p.String()
	path := append(numbers(uint64(len(text))), text+strings.Repeat("\x00", -len(text)&7)...)
	hello := numbers(0x5452eecb, 2<<8|7)
	f.Add(slices.Concat(hello, numbers(0, 1)))
	f.Add(slices.Concat(hello, numbers(1), path, numbers(1)))
	f.Add(slices.Concat(hello, numbers(2), path, path))
	f.Add(slices.Concat(hello, numbers(1<<60)))
	f.Add(slices.Concat(hello, numbers(1, 1<<62)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := serve.NewConn(t.Context(), answer(data))
		if err != nil {
			return
		}
		valid, err := c.QueryValidPaths(t.Context(), []storepath.Path{p}, serve.QueryOptions{})
		if err != nil {
			return
		}
		if len(valid) > 1 || len(valid) == 1 && valid[0] != p {
			t.Fatalf("%v are valid", valid)
		}
		info := storepath.Info{Path: p, NarSize: 3}
		added := 0
		err = c.Add(t.Context(), []storepath.Info{info, info}, func(_ storepath.Info, w io.Writer) error {
			_, err := w.Write([]byte("nar"))
			return err
		}, func(storepath.Info) { added++ })
		if (err == nil) != (added == 2) {
			t.Fatalf("%d were added: %v", added, err)
		}
	})
}
