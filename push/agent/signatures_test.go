package agent

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"fleet/closure/chunk"
	"fleet/closure/delta"
	"fleet/closure/storepath"
	"fleet/closure/storetest"
	"fleet/push/proto"
)

// askSignatures returns what the agent says of bases.
func askSignatures(t *testing.T, client *proto.Client, request proto.SignaturesRequest) ([]byte, error) {
	t.Helper()
	stream, err := client.Open(t.Context(), proto.MethodSignatures, request)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(stream)
	if err != nil {
		return data, err
	}
	return data, stream.Result(nil)
}

func TestSignaturesDescribeBasesAsTheyAreSeen(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, s := connect(t, host)
	l := newLoad(t, t.Name())
	if _, _, err := pushUnits(t, client, t.Name(), l); err != nil {
		t.Fatal(err)
	}
	var holdings proto.HoldingsResult
	last := l.infos[len(l.infos)-1]
	stranger, _ := storetest.Prepare(t, storetest.Text{Name: "stranger"})
	request := proto.HoldingsRequest{Toplevels: []string{stranger.Path.String(), last.Path.String()}}
	if err := client.Call(t.Context(), proto.MethodHoldings, request, &holdings); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, info := range l.infos {
		want = append(want, fmt.Sprint(info.Path.Base(), " ", info.NarSize))
	}
	slices.Sort(want)
	if !slices.Equal(holdings.Paths, want) {
		t.Errorf("it holds %q, not %q", holdings.Paths, want)
	}

	first, large := l.infos[0], l.infos[5]
	if _, agreed := s.base(large.Path); agreed {
		t.Error("a base was agreed on before")
	}
	key := chunk.Key{7}
	renewed := strings.Repeat("1", 32)
	got, err := askSignatures(t, client, proto.SignaturesRequest{
		Key: key[:], Pairs: proto.Lines{stranger.Path.Hash() + " " + renewed, l.infos[4].Path.Hash() + " " + renewed},
		Bases: proto.Lines{large.Path.Base() + " 0 1", stranger.Path.Base(), first.Path.Base(), large.Path.Base()},
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := bytes.ReplaceAll(l.nars[large.Path], []byte(l.infos[4].Path.Hash()), []byte(renewed))
	expected := slices.Concat(signatureOf(t, key, seen), []byte{proto.NoSignature}, signatureOf(t, key, l.nars[first.Path]), signatureOf(t, key, l.nars[large.Path]))
	if !bytes.Equal(got, expected) {
		t.Errorf("%d bytes of signatures, %d expected, or others", len(got), len(expected))
	}
	for path, want := range map[storepath.Path]bool{large.Path: true, first.Path: true, stranger.Path: false, last.Path: false} {
		if _, agreed := s.base(path); agreed != want {
			t.Errorf("%s may be a base: %t", path, agreed)
		}
	}
}

// signatureOf is what the agent should say of a NAR.
func signatureOf(t *testing.T, key chunk.Key, archive []byte) []byte {
	t.Helper()
	text := []byte{proto.SignatureFollows}
	err := chunk.NewCutter(key).Cut(bytes.NewReader(archive), int64(len(archive)), func(c chunk.Chunk) error {
		text = chunk.Append(text, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAQuestionForSignaturesThatMakesNoSenseIsRefused(t *testing.T) {
	host := testHost(t)
	chrootStore(t, host)
	client, _ := connect(t, host)
	info, _ := storetest.Prepare(t, storetest.Text{Name: "any"})
	name, hash := info.Path.Base(), info.Path.Hash()
	key := make([]byte, proto.SignatureKeySize)
	for what, request := range map[string]proto.SignaturesRequest{
		"no key":              {Bases: proto.Lines{name}},
		"a short key":         {Key: key[1:], Bases: proto.Lines{name}},
		"no path":             {Key: key, Bases: proto.Lines{"../" + name}},
		"a place that is not": {Key: key, Pairs: proto.Lines{hash + " " + hash}, Bases: proto.Lines{name + " 1"}},
		"a place below":       {Key: key, Pairs: proto.Lines{hash + " " + hash}, Bases: proto.Lines{name + " -1"}},
		"a pair of one":       {Key: key, Pairs: proto.Lines{hash}, Bases: proto.Lines{name + " 0"}},
		"a pair of no hashes": {Key: key, Pairs: proto.Lines{"a b"}, Bases: proto.Lines{name + " 0"}},
	} {
		if got, err := askSignatures(t, client, request); proto.CodeOf(err) != proto.CodeUsage {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

func FuzzParseRefs(f *testing.F) {
	hash := strings.Repeat("a", 32)
	f.Add("name 0 1", hash+" "+strings.Repeat("b", 32), hash)
	f.Add("name", "", " ")
	f.Fuzz(func(t *testing.T, line, one, other string) {
		refs, err := parseRefs(line, proto.Lines{one, other})
		if err == nil && refs.Len() > 2 || refs.Len() > delta.MaxRefs {
			t.Errorf("%d pairs of two", refs.Len())
		}
	})
}
