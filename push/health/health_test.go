package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fleet/closure/run"
	"fleet/push/proto"
)

// fails says that err is there and holds all texts.
func fails(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("passed, wanted %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v, wanted %q", err, text)
		}
	}
}

func TestAnAddressThatAcceptsIsHealthy(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := Try(t.Context(), "port", proto.HealthCheck{TCP: address}, Looker{}); err != nil {
		t.Error(err)
	}
	listener.Close()
	fails(t, Try(t.Context(), "port", proto.HealthCheck{TCP: address}, Looker{}), `health check "port" (tcp `+address+`)`, "refused")
}

func TestAStatusDecidesAndNoRedirectIsFollowed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // not for us
	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("\x1b[31mno database\x1b[0m\n"))
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	defer server.Close()
	try := func(path string, status int) error {
		return Try(t.Context(), "web", proto.HealthCheck{HTTP: &proto.HTTPCheck{URL: server.URL + path, Status: status}, TimeoutSeconds: 1}, Looker{})
	}
	for _, tc := range []struct {
		path   string
		status int
	}{{"/ok", 0}, {"/ok", 204}, {"/away", 302}, {"/broken", 503}, {"/none", 404}} {
		if err := try(tc.path, tc.status); err != nil {
			t.Errorf("%s: %v", tc.path, err)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("a redirect was followed: asked %d times", asked.Load())
	}
	fails(t, try("/ok", 200), "answered 204, wanted 200")
	fails(t, try("/away", 0), "answered 302, wanted 200 to 299", "/ok", "not followed")
	if err := try("/broken", 0); err == nil || !strings.HasSuffix(err.Error(), "answered 503, wanted 200 to 299: no database") {
		t.Error(err)
	}
	fails(t, try("/slow", 0), "did not answer within 1s")
}

func TestAPasswordInAURLIsNotTold(t *testing.T) {
	for _, url := range []string{"http://user:hunter2@127.0.0.1:1/", "http://user:hunter2@[::1"} {
		err := Try(t.Context(), "web", proto.HealthCheck{HTTP: &proto.HTTPCheck{URL: url}}, Looker{})
		fails(t, err)
		if strings.Contains(err.Error(), "hunter2") {
			t.Error(err)
		}
	}
}

func TestAProgramSucceedsByItsExitStatus(t *testing.T) {
	l := Looker{Command: Program(run.RunnerFunc(run.Run), run.Cmd{Dir: "/"})}
	try := func(timeout int, argv ...string) error {
		return Try(t.Context(), "c", proto.HealthCheck{Command: argv, TimeoutSeconds: timeout}, l)
	}
	if err := try(0, "true"); err != nil {
		t.Error(err)
	}
	fails(t, try(0, "sh", "-c", `printf '\033[1mreason\033[0m\n\n'; exit 3`), `health check "c" (command sh -c`, "exit status 3: reason")
	fails(t, try(0, "/does/not/exist"), "/does/not/exist")
	fails(t, try(0, "sh", "-c", "kill -9 $$"), "killed by")
	begun := time.Now()
	fails(t, try(1, "sleep", "60"), "did not answer within 1s")
	if time.Since(begun) > 10*time.Second {
		t.Error("it was waited for")
	}
	// What it prints is bounded, and its end is what counts.
	fails(t, try(0, "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo last; exit 1"), "exit status 1: last")
}

func TestWhatCannotBeLookedAtFromHereFails(t *testing.T) {
	fails(t, Try(t.Context(), "u", proto.HealthCheck{Unit: "sshd.service"}, Looker{}), "nobody can look")
	fails(t, Try(t.Context(), "u", proto.HealthCheck{}, Looker{}), "nobody can look")
}

// countdown fails so often.
func countdown(n int) Looker {
	return Looker{Unit: func(context.Context, string) error {
		if n--; n >= 0 {
			return errors.New("not yet")
		}
		return nil
	}}
}

func TestACheckIsTriedUntilItsTimeIsOver(t *testing.T) {
	check := proto.HealthCheck{Unit: "a.service", TimeoutSeconds: 10, IntervalSeconds: 3}
	for _, tc := range []struct {
		failures int
		passes   bool
		after    time.Duration
	}{
		{0, true, 0},
		{1, true, 3 * time.Second},
		{3, true, 9 * time.Second},
		{4, false, 9 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			err := Await(t.Context(), "u", check, countdown(tc.failures))
			if (err == nil) != tc.passes || time.Since(begun) != tc.after {
				t.Errorf("%d failures: %v after %s", tc.failures, err, time.Since(begun))
			}
			if err != nil && err.Error() != `health check "u" (unit a.service): not yet; it was tried for 9s` {
				t.Error(err)
			}
		})
	}
}

func TestALookThatHangsIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		l := Looker{Unit: func(ctx context.Context, _ string) error {
			looks++
			if looks == 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		if err := Await(t.Context(), "u", proto.HealthCheck{Unit: "a.service", TimeoutSeconds: 60}, l); err != nil || looks != 3 {
			t.Errorf("%v after %d looks", err, looks)
		}
		l.Unit = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		begun := time.Now()
		err := Await(t.Context(), "u", proto.HealthCheck{Unit: "a.service", TimeoutSeconds: 5}, l)
		fails(t, err, "did not answer within 5s")
		if passed := time.Since(begun); passed > 8*time.Second {
			t.Errorf("it took %s", passed)
		}
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		fails(t, Await(ctx, "u", proto.HealthCheck{Unit: "a.service"}, countdown(1000)))
		if time.Since(begun) != time.Second {
			t.Errorf("after %s", time.Since(begun))
		}
	})
}

func TestWhatIsForeignIsCleaned(t *testing.T) {
	l := Looker{Unit: func(context.Context, string) error { return errors.New("a\x1b[2Jb\nc" + strings.Repeat("x", 1000)) }}
	err := Try(t.Context(), "u", proto.HealthCheck{Unit: "a.service"}, l)
	if text := err.Error(); strings.ContainsAny(text, "\x1b\n") || len(text) > 600 || !strings.Contains(text, "ab c") {
		t.Errorf("%q", text)
	}
}
