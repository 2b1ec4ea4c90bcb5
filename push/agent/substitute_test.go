package agent

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"fleet/closure/daemon"
	"fleet/closure/run"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// binaryCache serves samples to the daemons that are started from now on, as a binary cache that waits before each NAR until it may answer. A NAR in gone is not there,
// although the cache says that it is.
type binaryCache struct {
	asked chan string
	may   chan struct{}
	gone  bool
}

func newBinaryCache(t *testing.T, samples ...sample) *binaryCache {
	t.Helper()
	store, dir := storetest.New(t), t.TempDir()
	c := store.Connect()
	for _, s := range samples {
		if err := c.AddToStoreNar(t.Context(), infoOf(t, s.info), bytes.NewReader(s.nar), daemon.AddOptions{SkipSignatures: true}); err != nil {
			t.Fatal(err)
		}
	}
	argv := append([]string{"nix", "--extra-experimental-features", "nix-command", "--store", store.Root, "copy", "--no-check-sigs", "--to", "file://" + dir}, paths(samples)...)
	if err := run.Run(t.Context(), run.Cmd{Argv: argv}); err != nil {
		t.Fatal(err)
	}
	cache := &binaryCache{asked: make(chan string, 100), may: make(chan struct{})}
	files := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			cache.asked <- r.URL.Path
			select {
			case <-cache.may:
			case <-r.Context().Done():
			}
			if cache.gone {
				http.NotFound(w, r)
				return
			}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Setenv("HOME", t.TempDir()) // Nix remembers there what caches have
	t.Setenv("NIX_CONFIG", "substituters = "+server.URL+"\nrequire-sigs = false")
	return cache
}

// substituting begins to substitute samples and checks what is served.
func substituting(t *testing.T, client *proto.Client, samples []sample, served ...int) {
	t.Helper()
	var result proto.SubstituteResult
	if err := client.Call(t.Context(), proto.MethodSubstitute, proto.SubstituteRequest{Paths: lines(paths(samples))}, &result); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(result.Served, served) {
		t.Fatalf("%v are served, not %v", result.Served, served)
	}
}

func TestAPushWaitsForWhatIsSubstitutedMeanwhile(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	cache := newBinaryCache(t, samples[:2]...)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	substituting(t, client, samples, 0, 1)
	<-cache.asked

	alone := newSample(t, "d", "needs nothing")
	pushed := make(chan error, 1)
	other := client
	go func() {
		_, err := push(t, other, []sample{alone, samples[2]})
		pushed <- err
	}()
	for len(missing(t, client, paths([]sample{alone}))) > 0 { // it does not wait for anything
	}
	select {
	case err := <-pushed:
		t.Fatalf("what it refers to was not substituted yet, and the push has ended: %v", err)
	default:
	}
	close(cache.may)
	if err := <-pushed; err != nil {
		t.Fatal(err)
	}
	var result proto.SubstitutedResult
	if err := client.Call(t.Context(), proto.MethodSubstituted, struct{}{}, &result); err != nil || result.Missing != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := missing(t, client, paths(samples)); len(left) > 0 {
		t.Errorf("%v are missing", left)
	}
}

func TestACacheThatDoesNotGiveWhatItSays(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	cache := newBinaryCache(t, samples[:2]...)
	cache.gone = true
	close(cache.may)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	substituting(t, client, samples, 0, 1)
	if _, err := push(t, client, samples[2:]); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("a path whose references nobody has: %v", err)
	}
	var result proto.SubstitutedResult
	if err := client.Call(t.Context(), proto.MethodSubstituted, struct{}{}, &result); err != nil || result.Missing != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := push(t, client, samples); err != nil {
		t.Error(err)
	}
}

func TestNobodySubstitutesAnything(t *testing.T) {
	storetest.RequireNix(t)
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	err := client.Call(t.Context(), proto.MethodSubstituted, struct{}{}, nil)
	if proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("before it was begun: %v", err)
	}
	substituting(t, client, chain(t))
	var result proto.SubstitutedResult
	if err := client.Call(t.Context(), proto.MethodSubstituted, struct{}{}, &result); err != nil || result.Missing != 0 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestTheEndOfASessionEndsItsSubstitution(t *testing.T) {
	storetest.RequireNix(t)
	samples := chain(t)
	cache := newBinaryCache(t, samples[:1]...)
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	substituting(t, client, samples, 0)
	<-cache.asked
	s.close() // hangs where it does not
}
