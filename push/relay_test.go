package push

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

var (
	takerKey = strings.Repeat("ab", 32)
	relayKey = strings.Repeat("cd", 32)
)

// taker is a target that says what it was told to take from, and then lines.
func taker(told *proto.TakeFrom, infos *[]proto.PathInfo, lines func(paths []string) string) proto.HandlerFunc {
	return func(_ context.Context, req *proto.Request) (any, error) {
		if err := json.NewEncoder(req.Stream).Encode(proto.TakeReady{Key: takerKey}); err != nil {
			return nil, err
		}
		from, wires, err := proto.ReadTake(req.Stream)
		if err != nil {
			return nil, err
		}
		*told, *infos = from, wires
		var paths []string
		for _, wire := range wires {
			paths = append(paths, wire.Path)
		}
		_, err = io.WriteString(req.Stream, lines(paths))
		return proto.ImportResult{}, err
	}
}

func reportOf(paths []string) string {
	var text strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&text, "{\"path\":%q}\n", path)
	}
	return text.String()
}

func takeRequest(root storepath.Path, offer func(peer string, paths []storepath.Path) (*Offer, error)) TakeRequest {
	return TakeRequest{
		PushRequest: PushRequest{Roots: []storepath.Path{root}}, Relay: "relay-1", Address: "gate.example.org",
		Offer: func(_ context.Context, peer string, paths []storepath.Path) (*Offer, error) {
			return offer(peer, paths)
		},
	}
}

func TestAHostIsToldWhatToTakeAndFromWhom(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 5, relayFrom/4)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := closure.ParseSigningKey("test-1:" + base64.StdEncoding.EncodeToString(key))
	if err != nil {
		t.Fatal(err)
	}
	h := newMemoryHost()
	h.info.Trusted = false
	var told proto.TakeFrom
	var infos []proto.PathInfo
	h.other = taker(&told, &infos, reportOf)
	var offered []storepath.Path
	request := takeRequest(root, func(peer string, paths []storepath.Path) (*Offer, error) {
		if peer != takerKey {
			t.Errorf("the offer is for the key %q", peer)
		}
		offered = paths
		return &Offer{Port: 7171, Key: relayKey, Addresses: []string{"192.0.2.1", "2001:db8::1"}}, nil
	})
	request.Signer = signer
	result, err := h.session(t, connectorTo(t, source, h)).Take(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	want := proto.TakeFrom{Relay: "relay-1", Addresses: []string{"gate.example.org", "192.0.2.1", "2001:db8::1"}, Port: 7171, Key: relayKey}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if len(infos) != 5 || len(offered) != 5 || result.Paths != 5 || result.NarBytes != 5*(relayFrom/4) {
		t.Errorf("%d infos, %d offered, %+v", len(infos), len(offered), result)
	}
	seen := map[string]bool{}
	for i, wire := range infos {
		info := source.infos[offered[i]]
		if wire.Path != info.Path.String() || wire.NarHash != hex.EncodeToString(info.NarHash[:]) || wire.NarSize != info.NarSize {
			t.Errorf("%+v is not %+v", wire, info)
		}
		if !slices.Equal(wire.Signatures, []string{signer.Sign(info)}) {
			t.Errorf("%s has the signatures %q", wire.Path, wire.Signatures)
		}
		for _, reference := range wire.References {
			if !seen[reference] {
				t.Errorf("%s comes before %s", wire.Path, reference)
			}
		}
		seen[wire.Path] = true
	}
}

func TestLittleIsNotTaken(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 3, relayFrom/4)
	h := newMemoryHost()
	result, err := h.session(t, connectorTo(t, source, h)).Take(t.Context(), takeRequest(root, func(string, []storepath.Path) (*Offer, error) {
		t.Error("the relay was asked")
		return nil, errors.New("no")
	}))
	if err != nil || result.Paths > 0 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestWhatATakerReportsIsChecked(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 5, relayFrom/4)
	for rule, lines := range map[string]func(paths []string) string{
		"no JSON":                       func([]string) string { return "path\x1b\n" },
		"a path that was not asked for": func([]string) string { return "{\"path\":\"/nix/store/\\u001b\"}\n" },
		"a path twice":                  func(paths []string) string { return reportOf([]string{paths[0], paths[0]}) },
		"too few":                       func(paths []string) string { return reportOf(paths[1:]) },
		"a line that does not end":      func([]string) string { return strings.Repeat("x", 128<<10) },
	} {
		t.Run(rule, func(t *testing.T) {
			h := newMemoryHost()
			h.other = taker(new(proto.TakeFrom), new([]proto.PathInfo), lines)
			_, err := h.session(t, connectorTo(t, source, h)).Take(t.Context(), takeRequest(root, func(string, []storepath.Path) (*Offer, error) {
				return &Offer{Port: 1, Key: relayKey}, nil
			}))
			failed, ok := errors.AsType[*RelayError](err)
			if !ok || failed.Host != "web" || failed.Relay != "relay-1" || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestATakeThatDoesNotGetOnEnds(t *testing.T) {
	hangs := func(ctx context.Context, req *proto.Request) (any, error) {
		if err := json.NewEncoder(req.Stream).Encode(proto.TakeReady{Key: takerKey}); err != nil {
			return nil, err
		}
		_, wires, err := proto.ReadTake(req.Stream)
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(req.Stream, reportOf([]string{wires[0].Path}))
		<-ctx.Done()
		return proto.ImportResult{}, err
	}
	breaks := hostileSession(t, func(_ context.Context, req *proto.Request) (any, error) {
		if err := json.NewEncoder(req.Stream).Encode(proto.OfferReady{Port: 7171, Key: relayKey}); err != nil {
			return nil, err
		}
		return nil, proto.Errorf(proto.CodeInternal, "the disk\x1b is gone")
	})
	for rule, tt := range map[string]struct {
		answer time.Duration
		offer  func(ctx context.Context) (*Offer, error)
		says   string
	}{
		"the host is silent": {time.Second, func(context.Context) (*Offer, error) { return &Offer{Port: 1, Key: relayKey}, nil }, errTimeout.Error()},
		"the offer breaks": {time.Hour, func(ctx context.Context) (*Offer, error) {
			return breaks.Offer(ctx, OfferRequest{Peer: takerKey, Port: 7171})
		}, "the relay has ended its offer: the disk"},
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			source := newMemoryStore()
			root := source.system(t, 5, relayFrom/4)
			h := newMemoryHost()
			h.other = hangs
			c := connectorTo(t, source, h)
			c.Timeouts.Answer = tt.answer
			request := takeRequest(root, nil)
			request.Offer = func(ctx context.Context, _ string, _ []storepath.Path) (*Offer, error) { return tt.offer(ctx) }
			result, err := h.session(t, c).Take(t.Context(), request)
			failed, ok := errors.AsType[*RelayError](err)
			if !ok || failed.Relay != "relay-1" || !strings.Contains(err.Error(), tt.says) || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("got %v", err)
			}
			if result.Paths != 1 {
				t.Errorf("%+v", result)
			}
		})
	}
}

func TestATakeDoesNotSubstitute(t *testing.T) {
	source := newMemoryStore()
	root := source.system(t, 5, relayFrom/4)
	h := newMemoryHost()
	h.other = taker(new(proto.TakeFrom), new([]proto.PathInfo), reportOf)
	request := takeRequest(root, func(string, []storepath.Path) (*Offer, error) { return &Offer{Port: 1, Key: relayKey}, nil })
	request.Substitute = true
	result, err := h.session(t, connectorTo(t, source, h)).Take(t.Context(), request)
	if err != nil || result.Paths != 5 || slices.Contains(h.requests(), proto.MethodSubstitute) {
		t.Errorf("%+v, %v after %q", result, err, h.requests())
	}
}

func TestWhatARelaySaysIsChecked(t *testing.T) {
	says := func(line string, hang bool) *Session {
		s := hostileSession(t, func(ctx context.Context, req *proto.Request) (any, error) {
			_, err := io.WriteString(req.Stream, line)
			if hang {
				<-ctx.Done()
			}
			return proto.ImportResult{}, err
		})
		return s
	}
	for rule, line := range map[string]string{
		"nothing":                  "",
		"no JSON":                  "port\x1b\n",
		"no port":                  `{"key":"` + relayKey + `"}` + "\n",
		"another port":             `{"port":22,"key":"` + relayKey + `"}` + "\n",
		"no key":                   `{"port":7171,"key":"\u001b"}` + "\n",
		"a line that does not end": strings.Repeat("x", 128<<10),
	} {
		for _, hang := range []bool{false, true} {
			offer, err := says(line, hang).Offer(t.Context(), OfferRequest{Peer: takerKey, Port: 7171})
			if offer != nil || err == nil || !strings.Contains(err.Error(), `"web"`) || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%s: %+v, %v", rule, offer, err)
			}
		}
	}
	addresses := []string{"192.0.2.1", "127.0.0.1", "::1", "0.0.0.0", "fe80::1", "224.0.0.1", "evil.example.org", "10.0.0.1:80", "2001:db8::1", ""}
	text, err := json.Marshal(proto.OfferReady{Port: 7171, Key: relayKey, Addresses: append(addresses, slices.Repeat([]string{"192.0.2.2"}, 50)...)})
	if err != nil {
		t.Fatal(err)
	}
	s := says(string(text)+"\n", true)
	s.c.Timeouts.Close = 50 * time.Millisecond
	offer, err := s.Offer(t.Context(), OfferRequest{Peer: takerKey, Port: 7171})
	if err != nil {
		t.Fatal(err)
	}
	defer offer.Close()
	if len(offer.Addresses) >= proto.MaxRelayAddresses || !slices.Equal(offer.Addresses[:3], []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"}) {
		t.Errorf("addresses: %q", offer.Addresses)
	}
}
