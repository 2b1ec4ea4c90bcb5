package proto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testToken = "0123456789abcdef"

// pair connects a client with an agent over a pipe without any buffer, which is the hardest one for deadlocks.
func pair(t *testing.T, h Handler) (*Client, <-chan error) {
	t.Helper()
	before := runtime.NumGoroutine()
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), b, testToken, h) }()
	c, err := NewClient(context.Background(), a, Hello{Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		noLeak(t, before)
	})
	return c, served
}

// noLeak waits until as many goroutines run as before.
func noLeak(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("goroutines leaked: %d before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

type sumResult struct {
	Bytes uint64 `json:"bytes"`
	Sum   uint64 `json:"sum"`
}

type sizesRequest struct {
	Sizes []int  `json:"sizes"`
	Seed  uint64 `json:"seed"`
}

// testHandler echoes, sums, sends, fails and waits.
func testHandler() Handler {
	return HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
		switch req.Method {
		case "echo":
			_, err := io.Copy(req.Stream, req.Stream)
			return nil, err
		case "params":
			var v map[string]string
			if err := req.Decode(&v); err != nil {
				return nil, err
			}
			return v, nil
		case "strict":
			var v struct{ Known string }
			return nil, req.Decode(&v)
		case "sum":
			h := fnv.New64a()
			n, err := io.Copy(h, req.Stream)
			return sumResult{uint64(n), h.Sum64()}, err
		case "send":
			var p sizesRequest
			if err := req.Decode(&p); err != nil {
				return nil, err
			}
			sum, err := writeRandom(req.Stream, p)
			return sum, err
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		case "locked":
			return nil, &Error{Code: CodeLocked, Message: "locked by ann", Data: json.RawMessage(`{"owner":"ann"}`), Remedy: "wait"}
		case "early":
			return "enough", nil
		case "lateWrite":
			_, _ = io.ReadFull(req.Stream, make([]byte, 1))
			return nil, errors.New("plain text")
		}
		return nil, Errorf(CodeUsage, "unknown method %q", req.Method)
	})
}

func writeRandom(w io.Writer, p sizesRequest) (sumResult, error) {
	h := fnv.New64a()
	r := rand.New(rand.NewPCG(p.Seed, 1))
	var total uint64
	for _, size := range p.Sizes {
		buf := make([]byte, size)
		for i := range buf {
			buf[i] = byte(r.Uint32())
		}
		h.Write(buf)
		n, err := w.Write(buf)
		total += uint64(n)
		if err != nil {
			return sumResult{}, err
		}
	}
	return sumResult{total, h.Sum64()}, nil
}

func TestCallCarriesParametersResultsAndErrors(t *testing.T) {
	c, served := pair(t, testHandler())
	ctx := t.Context()
	want := map[string]string{"a": "b", "long": strings.Repeat("x", 3*MaxFrame)}
	var got map[string]string
	if err := c.Call(ctx, "params", want, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	err := c.Call(ctx, "locked", nil, nil)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != CodeLocked || string(e.Data) != `{"owner":"ann"}` || e.Hint() != "wait" {
		t.Errorf("got %#v", err)
	}
	if !errors.Is(err, &Error{Code: CodeLocked}) || errors.Is(err, &Error{Code: CodeToken}) {
		t.Error("errors.Is does not go by the code")
	}
	if err := c.Call(ctx, "strict", map[string]int{"other": 1}, nil); CodeOf(err) != CodeUsage {
		t.Errorf("unknown parameter: %v", err)
	}
	if err := c.Call(ctx, "nothing", nil, nil); CodeOf(err) != CodeUsage {
		t.Errorf("unknown method: %v", err)
	}
	c.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve after a goodbye: %v", err)
	}
	if err := c.Call(ctx, "params", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("call after Close: %v", err)
	}
}

func TestMessageAboveTheLimitIsRefusedBeforeItIsSent(t *testing.T) {
	c, _ := pair(t, testHandler())
	err := c.Call(t.Context(), "params", map[string]string{"x": strings.Repeat("x", MaxMessage)}, nil)
	if CodeOf(err) != CodeUsage {
		t.Errorf("got %v", err)
	}
	if err := c.Call(t.Context(), "early", nil, nil); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
}

func TestTwentyThousandPathsFitIntoARequest(t *testing.T) {
	c, _ := pair(t, HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		var p MissingRequest
		err := req.Decode(&p)
		result := MissingResult{Missing: []int{}}
		for i, path := range p.Paths {
			if strings.HasPrefix(path, fmt.Sprintf("%032d-", i)) {
				result.Missing = append(result.Missing, i)
			}
		}
		return result, err
	}))
	var want MissingRequest
	for i := range 20000 {
		want.Paths = append(want.Paths, fmt.Sprintf("%032d-some-package-with-a-name-1.2.3", i))
	}
	var got MissingResult
	if err := c.Call(t.Context(), MethodMissing, want, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Missing) != len(want.Paths) {
		t.Errorf("%d of %d paths have arrived", len(got.Missing), len(want.Paths))
	}
}

func TestStreamsOfAnySizesArriveWholeInBothDirections(t *testing.T) {
	c, _ := pair(t, testHandler())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for i := range 12 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		p := sizesRequest{Seed: r.Uint64()}
		for range 1 + r.IntN(30) {
			p.Sizes = append(p.Sizes, r.IntN(1<<r.IntN(19)))
		}
		wg.Go(func() { sendSum(t, c, p) })
		wg.Go(func() { receiveSum(t, c, p, r) })
	}
	wg.Wait()
}

func sendSum(t *testing.T, c *Client, p sizesRequest) {
	s, err := c.Open(t.Context(), "sum", nil)
	if err != nil {
		t.Error(err)
		return
	}
	want, err := writeRandom(s, p)
	if err != nil {
		t.Error(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Error(err)
	}
	var got sumResult
	if err := s.Result(&got); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func receiveSum(t *testing.T, c *Client, p sizesRequest, r *rand.Rand) {
	s, err := c.Open(t.Context(), "send", p)
	if err != nil {
		t.Error(err)
		return
	}
	h := fnv.New64a()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{s}, make([]byte, 1+r.IntN(100000)))
	if err != nil {
		t.Error(err)
	}
	var want sumResult
	if err := s.Result(&want); err != nil || want != (sumResult{uint64(n), h.Sum64()}) {
		t.Errorf("got %d bytes, %v, want %v", n, err, want)
	}
}

func TestAnUnreadStreamIsBoundedAndDelaysNoOther(t *testing.T) {
	c, _ := pair(t, testHandler())
	slow, err := c.Open(t.Context(), "send", sizesRequest{Sizes: []int{3 * Window}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "early", nil, nil); err != nil {
		t.Fatal(err)
	}
	sendSum(t, c, sizesRequest{Sizes: []int{5 * Window}})
	slow.mu.Lock()
	buffered := slow.unread.size
	slow.mu.Unlock()
	if buffered > Window {
		t.Errorf("%d bytes are buffered", buffered)
	}
	if n, err := io.Copy(io.Discard, slow); err != nil || n != 3*Window {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestWriteEndsWhenTheAgentEndsTheStream(t *testing.T) {
	c, _ := pair(t, testHandler())
	s, err := c.Open(t.Context(), "lateWrite", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(make([]byte, 4*Window))
	if !errors.Is(err, ErrEnded) {
		t.Errorf("write: %v", err)
	}
	if err := s.Result(nil); CodeOf(err) != CodeInternal || err.Error() != "plain text" {
		t.Errorf("result: %v", err)
	}
}

func TestCancelEndsTheHandlerAndFreesThePlace(t *testing.T) {
	c, _ := pair(t, testHandler())
	for range 3 * MaxStreams {
		s, err := c.Open(t.Context(), "wait", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Cancel()
		s.Cancel()
		if err := s.Result(nil); CodeOf(err) != CodeCancelled {
			t.Fatalf("result: %v", err)
		}
		if _, err := s.Write([]byte("x")); CodeOf(err) != CodeCancelled {
			t.Fatalf("write: %v", err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("operator pressed ctrl-c")
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	if err := c.Call(ctx, "wait", nil, nil); !errors.Is(err, cause) {
		t.Errorf("cancelled call: %v", err)
	}
}

func TestOpenWaitsForAFreePlace(t *testing.T) {
	c, _ := pair(t, testHandler())
	var streams []*Stream
	for range MaxStreams {
		s, err := c.Open(t.Context(), "wait", nil)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Open(ctx, "wait", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open above the limit: %v", err)
	}
	streams[0].Cancel()
	if err := c.Call(t.Context(), "early", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestALostConnectionEndsEverything(t *testing.T) {
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), b, testToken, testHandler()) }()
	c, err := NewClient(t.Context(), a, Hello{Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Open(t.Context(), "wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := s.Result(nil); !errors.Is(err, ErrLost) {
		t.Errorf("result: %v", err)
	}
	<-c.Done()
	if !errors.Is(c.Err(), ErrLost) {
		t.Errorf("client: %v", c.Err())
	}
	if err := <-served; !errors.Is(err, ErrLost) {
		t.Errorf("serve: %v", err)
	}
}

func TestTheEndOfServeSaysGoodbye(t *testing.T) {
	a, b := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, b, testToken, testHandler()) }()
	c, err := NewClient(t.Context(), a, Hello{Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(t.Context(), "early", nil, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-c.Done()
	if !errors.Is(c.Err(), errBye) || !errors.Is(c.Err(), ErrLost) {
		t.Errorf("client: %v", c.Err())
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}
