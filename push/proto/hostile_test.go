package proto

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHello(t *testing.T) {
	for name, tc := range map[string]struct {
		hello   Hello
		code    ErrorCode
		message string
	}{
		"another version names both": {Hello{Version: 7, Token: testToken}, CodeVersion, "protocol version 7 on the operator's side, 2 on the host"},
		"a wrong token is refused":   {Hello{Token: "other"}, CodeToken, "the session token is wrong"},
		"no token is refused":        {Hello{}, CodeToken, "the session token is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- Serve(context.Background(), b, testToken, testHandler()) }()
			_, err := NewClient(t.Context(), a, tc.hello)
			if CodeOf(err) != tc.code || err.Error() != tc.message {
				t.Errorf("client: %v", err)
			}
			if err := <-served; CodeOf(err) != tc.code {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

func TestAnEmptyTokenOpensNothing(t *testing.T) {
	a, b := net.Pipe()
	go Serve(context.Background(), b, "", testHandler())
	if _, err := NewClient(t.Context(), a, Hello{}); CodeOf(err) != CodeToken {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoAgentIsQuoted(t *testing.T) {
	a, b := net.Pipe()
	go io.Copy(io.Discard, b)
	go b.Write([]byte("Welcome to Ubuntu!\n"))
	_, err := NewClient(t.Context(), a, Hello{Token: testToken})
	if err == nil || !strings.Contains(err.Error(), `Welcome to Ubuntu!`) {
		t.Errorf("got %v", err)
	}
}

func TestSilenceEndsAConnection(t *testing.T) {
	t.Run("a peer that never says hello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go io.Copy(io.Discard, b)
			start := time.Now()
			_, err := NewClient(t.Context(), a, Hello{Token: testToken})
			if !errors.Is(err, ErrLost) || time.Since(start) != defaultTiming().hello {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
			b.Close()
		})
	})
	t.Run("a peer that stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				b.Read(make([]byte, maxHello))
				writeHello(b, Hello{})
				io.Copy(io.Discard, b)
			}()
			c, err := NewClient(t.Context(), a, Hello{Token: testToken})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Call(t.Context(), "wait", nil, nil); !errors.Is(err, ErrLost) {
				t.Errorf("got %v", err)
			}
			c.Close()
		})
	})
	t.Run("a peer that does not even read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				b.Read(make([]byte, maxHello))
				writeHello(b, Hello{})
			}()
			c, err := NewClient(t.Context(), a, Hello{Token: testToken})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Call(t.Context(), "wait", nil, nil); !errors.Is(err, ErrLost) {
				t.Errorf("got %v", err)
			}
			c.Close()
			b.Close()
		})
	})
	t.Run("pings keep an idle connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go Serve(t.Context(), b, testToken, testHandler())
			c, err := NewClient(t.Context(), a, Hello{Token: testToken})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(24 * time.Hour)
			if err := c.Call(t.Context(), "early", nil, nil); err != nil {
				t.Error(err)
			}
			c.Close()
		})
	})
}

func TestBrokenRulesEndTheConnection(t *testing.T) {
	frames := func(fs ...frame) []byte {
		var b bytes.Buffer
		for _, f := range fs {
			writeFrame(&b, f.typ, f.stream, f.payload)
		}
		return b.Bytes()
	}
	open := frame{frameOpen, 1, []byte(`{"method":"wait"}`)}
	for name, raw := range map[string][]byte{
		"an unknown type":              frames(frame{99, 0, nil}),
		"a frame above the limit":      {0xff, 0xff, 0xff, 0xff, byte(frameData), 0, 0, 0, 1},
		"data for no stream":           frames(frame{frameData, 5, []byte("x")}),
		"empty data":                   frames(open, frame{frameData, 1, nil}),
		"a stream opened twice":        frames(open, open),
		"a stream number that shrinks": frames(frame{frameOpen, 2, open.payload}, open),
		"two ends of data":             frames(open, frame{frameEOF, 1, nil}, frame{frameEOF, 1, nil}),
		"data after the end of data":   frames(open, frame{frameEOF, 1, nil}, frame{frameData, 1, []byte("x")}),
		"too much credit":              frames(open, frame{frameCredit, 1, []byte{0, 0, 0, 1}}),
		"a result from a client":       frames(open, frame{frameResult, 1, []byte("null")}),
		"a second hello":               frames(frame{frameHello, 0, []byte("{}")}),
		"a request that is no JSON":    frames(frame{frameOpen, 1, []byte("{")}),
		"data above the credit": frames(append([]frame{open},
			func() (fs []frame) {
				for range Window/MaxFrame + 1 {
					fs = append(fs, frame{frameData, 1, make([]byte, MaxFrame)})
				}
				return fs
			}()...)...),
		"too many streams": frames(func() (fs []frame) {
			for i := range maxServed + 1 {
				fs = append(fs, frame{frameOpen, uint32(i + 1), open.payload})
			}
			return fs
		}()...),
		"a message above the limit": frames(func() (fs []frame) {
			for range MaxMessage/MaxFrame + 1 {
				fs = append(fs, frame{frameMore, 1, make([]byte, MaxFrame)})
			}
			return fs
		}()...),
	} {
		t.Run(name, func(t *testing.T) {
			var in bytes.Buffer
			writeHello(&in, Hello{Token: testToken})
			in.Write(raw)
			before := runtime.NumGoroutine()
			err := Serve(t.Context(), &script{Reader: &in}, testToken, testHandler())
			if _, ok := errors.AsType[*protocolError](err); !ok || !errors.Is(err, ErrLost) {
				t.Errorf("got %v", err)
			}
			noLeak(t, before)
		})
	}
}

// script is a peer that has said all that it will ever say, and reads everything.
type script struct{ io.Reader }

func (*script) Write(p []byte) (int, error) { return len(p), nil }
func (*script) Close() error                { return nil }

func TestAnswersTakeNoMoreMemoryThanTheyStandFor(t *testing.T) {
	list := []byte(`{"paths":[` + strings.Repeat("{},", MaxMessage/4) + `{}]}`)
	var result ClosureResult
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := json.Unmarshal(list, &result); err == nil {
		t.Error("a list of nothing was taken")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
		t.Errorf("decoding took %d bytes", took)
	}
	want := ClosureResult{Paths: []PathInfo{{Path: "/nix/store/x", NarHash: strings.Repeat("0a", 32), NarSize: 1, References: []string{}}}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &result); err != nil || !reflect.DeepEqual(result, want) {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestAnAnswerThatIsLargerThanItsMethodNeedsEndsTheConnection(t *testing.T) {
	h := HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		if req.Method == "error" {
			return nil, Errorf(CodeInternal, "%s", strings.Repeat("x", 2<<20))
		}
		return strings.Repeat("x", 2<<20), nil
	})
	for method, params := range map[string]string{"status": "", "error": "", MethodMissing: strings.Repeat("x", 3<<20), MethodClosure: ""} {
		client, _ := pair(t, h)
		err := client.Call(t.Context(), method, params, nil)
		if large := method == MethodMissing || method == MethodClosure; large != (err == nil) || (!large && !errors.Is(err, ErrLost)) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestTheBoundOfAnAnswerIsThatOfItsMethod(t *testing.T) {
	for name, tc := range map[string]struct {
		method  string
		request int
		want    int
	}{
		"most methods say little":                     {MethodInfo, 100, maxAnswer},
		"who is asked much may answer as much":        {MethodMissing, 5 << 20, 5 << 20},
		"a closure is as large as it is":              {MethodClosure, 100, MaxMessage},
		"so is what a host holds":                     {MethodHoldings, 100, MaxMessage},
		"a value is sealed to many owners":            {MethodSecretsRun, 100, MaxMessage},
		"values are sealed to more than they came in": {MethodSecretsRewrap, 5 << 20, MaxMessage},
		"a value that is shown is one value":          {MethodSecretsOpen, 5 << 20, maxSecretValue},
		"what is wrong with a part is a sentence":     {MethodSecretsVerify, 100, maxAnswer},
		"what a system cannot read is a list":         {MethodSecretsPreflight, 100, maxAnswer},
	} {
		if got := answerLimit(tc.method, tc.request); got != tc.want {
			t.Errorf("%s: got %d, want %d", name, got, tc.want)
		}
	}
}
