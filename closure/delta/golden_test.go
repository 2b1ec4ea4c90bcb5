package delta

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden vectors anew; the old ones must stay decodable as long as the version is the same")

const vectors = "testdata/vectors.json"

// vector is a delta as docs/delta.md specifies it, for other implementations too.
type vector struct {
	Rule   string
	Base   []byte
	Refs   map[string]string `json:",omitempty"`
	Target []byte
	Delta  []byte
	// at is where the target was expected when the vector was made; a decoder knows nothing of it.
	at int64
}

func makeVectors(t *testing.T) []vector {
	const old, renewed = "0c4d6b8z1v2x3y5w7q9rsndfghijklmp", "1111111111111111111111111111111a"
	script := strings.Repeat("#!/nix/store/"+old+"-bash-5.2/bin/bash\nexec \"$@\"\n", 3)
	list := strings.Repeat("abcdefghijklmnopqrstuvwxyz\n", 40)
	made := []vector{
		{Rule: "empty"},
		{Rule: "literals alone", Target: []byte("hello")},
		{Rule: "copy alone", Base: []byte("hello"), Target: []byte("hello")},
		{Rule: "patch", Base: []byte(script), Target: []byte(strings.Replace(script, "exec", "eyec", 1))},
		{Rule: "reference map", Base: []byte(script), Target: []byte(strings.ReplaceAll(script, old, renewed)), Refs: map[string]string{old: renewed}},
		{Rule: "seek first", Base: []byte(list + script), Target: []byte(script), at: int64(len(list))},
		{Rule: "copies, literals, seeks and zstd", Base: []byte(list + script), Target: []byte(script + "new\n" + strings.Repeat("0123456789\n", 30) + list)},
	}
	for i, v := range made {
		refs := mustRefs(t, v.Refs)
		options := Options{BlockSize: MinBlockSize, Level: LevelNone}
		if strings.Contains(v.Rule, "zstd") {
			options.Level = LevelDefault
		}
		made[i].Delta, _ = roundTrip(t, example{base: v.Base, target: v.Target, refs: refs, at: v.at}, options)
	}
	return made
}

func TestGoldenVectors(t *testing.T) {
	if *update {
		text, err := json.MarshalIndent(makeVectors(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectors, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(vectors)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 7 {
		t.Errorf("%d vectors", len(all))
	}
	for _, v := range all {
		var out bytes.Buffer
		x := example{base: v.Base, target: v.Target, refs: mustRefs(t, v.Refs)}
		if err := Decode(&out, x.patch(v.Delta), Limits{}); err != nil || !bytes.Equal(out.Bytes(), v.Target) {
			t.Errorf("%s: %v, %q", v.Rule, err, out.Bytes())
		}
	}
}
