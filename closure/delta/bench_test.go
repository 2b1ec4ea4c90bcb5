package delta

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/closure/run"
)

// BenchmarkDelta measures pairs of files: the encoder at its levels, and the programs that are installed. It
// reports the bytes that are sent as a percentage of the target's ("%bytes").
//
//	go test -run '^$' -bench Delta -benchtime 1x ./closure/delta
//
// FLEET_DELTA_PAIRS adds pairs, "old:new" separated by spaces, for instance files of two releases.
func BenchmarkDelta(b *testing.B) {
	dir := b.TempDir()
	for _, p := range benchPairs(b, dir) {
		b.Run(p.name, func(b *testing.B) {
			for name, level := range map[string]Level{"fast": LevelFast, "default": LevelDefault, "better": LevelBetter, "best": LevelBest} {
				b.Run("encode "+name, func(b *testing.B) { benchEncode(b, p.example, level) })
			}
			b.Run("decode", func(b *testing.B) { benchDecode(b, p.example) })
			benchPrograms(b, dir, p.example)
		})
	}
}

type benchPair struct {
	name string
	example
}

func benchPairs(b *testing.B, dir string) []benchPair {
	var pairs []benchPair
	if old, err := os.ReadFile("/usr/lib/x86_64-linux-gnu/libc.so.6"); err == nil {
		x := rebuild(old)
		pairs = append(pairs, benchPair{"rebuilt with a map", x}, benchPair{"rebuilt without a map", example{base: x.base, target: x.target}})
	}
	if old, patched, err := buildPair(dir); err == nil {
		pairs = append(pairs, benchPair{"patched program", example{base: old, target: patched}})
	}
	for _, pair := range strings.Fields(os.Getenv("FLEET_DELTA_PAIRS")) {
		from, to, _ := strings.Cut(pair, ":")
		old, err := os.ReadFile(from)
		if err != nil {
			b.Fatal(err)
		}
		target, err := os.ReadFile(to)
		if err != nil {
			b.Fatal(err)
		}
		pairs = append(pairs, benchPair{filepath.Base(to), example{base: old, target: target}})
	}
	return pairs
}

// rebuild plants store paths in a file, every 20 KB or so, and renews their hashes.
func rebuild(data []byte) example {
	r := rand.New(rand.NewPCG(20, 26))
	pairs := map[string]string{}
	var hashes []string
	for range 20 {
		hashes = append(hashes, hashOf(r))
		pairs[hashes[len(hashes)-1]] = hashOf(r)
	}
	x := example{base: bytes.Clone(data), target: bytes.Clone(data)}
	for at := 5000; at+50 < len(data); at += 1 + r.IntN(40_000) {
		hash := hashes[r.IntN(len(hashes))]
		copy(x.base[at:], "/nix/store/"+hash+"-")
		copy(x.target[at:], "/nix/store/"+pairs[hash]+"-")
	}
	x.refs, _ = NewRefs(pairs)
	return x
}

// buildPair builds fleet-helper twice; the second time one file has another function and a larger constant.
func buildPair(dir string) (old, patched []byte, err error) {
	const file = "push/probe.go"
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, nil, err
	}
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, nil, err
	}
	changed := strings.Replace(string(source), "64 << 10", "65 << 10", 1) + `
// CountBlanks is what the patch adds.
func CountBlanks(text string) (n int) {
	for _, c := range text {
		if c == ' ' || c == '\t' {
			n += 1 + len(text)/7
		}
	}
	return n
}

var _ = []any{CountBlanks}
`
	copied, overlay := filepath.Join(dir, "probe.go"), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, file): copied}})
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(copied, []byte(changed), 0o644); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(overlay, text, 0o644); err != nil {
		return nil, nil, err
	}
	build := func(name string, args ...string) ([]byte, error) {
		out := filepath.Join(dir, name)
		argv := append([]string{"go", "build", "-C", root, "-trimpath", "-ldflags=-s -w", "-o", out}, args...)
		if err := run.Run(context.Background(), run.Cmd{Argv: append(argv, "./cmd/fleet-helper")}); err != nil {
			return nil, err
		}
		return os.ReadFile(out)
	}
	if old, err = build("old-helper"); err != nil {
		return nil, nil, err
	}
	patched, err = build("new-helper", "-overlay", overlay)
	return old, patched, err
}

func benchEncode(b *testing.B, x example, level Level) {
	e, err := NewEncoder(Options{Level: level})
	if err != nil {
		b.Fatal(err)
	}
	var out bytes.Buffer
	b.SetBytes(int64(len(x.target)))
	for b.Loop() {
		out.Reset()
		if _, err := e.Encode(&out, x.input()); err != nil {
			b.Fatal(err)
		}
	}
	reportBytes(b, out.Len(), x)
}

func benchDecode(b *testing.B, x example) {
	delta, _ := roundTrip(b, x, Options{})
	d, err := NewDecoder(Limits{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(x.target)))
	for b.Loop() {
		if err := d.Decode(&countingWriter{}, x.patch(delta)); err != nil {
			b.Fatal(err)
		}
	}
}

func reportBytes(b *testing.B, size int, x example) {
	b.ReportMetric(100*float64(size)/float64(len(x.target)), "%bytes")
}

// benchPrograms runs what is installed of the programs that one would take instead.
func benchPrograms(b *testing.B, dir string, x example) {
	old, target := filepath.Join(dir, "old"), filepath.Join(dir, "target")
	if err := os.WriteFile(old, x.base, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(target, x.target, 0o644); err != nil {
		b.Fatal(err)
	}
	for _, argv := range [][]string{
		{"zstd", "-3"}, {"zstd", "-19"},
		{"zstd", "-3", "--long=27", "--patch-from=" + old}, {"zstd", "-19", "--long=27", "--patch-from=" + old},
		{"xz", "-6"}, {"bsdiff"}, {"xdelta3", "-9", "-e", "-c", "-s", old},
	} {
		name := argv[0] + " " + strings.TrimSuffix(strings.Join(argv[1:min(3, len(argv))], " "), " --long=27")
		if len(argv) > 3 && argv[0] == "zstd" {
			name += " patch-from"
		}
		if !installed(argv[0]) {
			continue
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(x.target)))
			size := 0
			for b.Loop() {
				size = runProgram(b, argv, dir, old, target)
			}
			reportBytes(b, size, x)
		})
	}
}

func installed(program string) bool {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

func runProgram(b *testing.B, argv []string, dir, old, target string) int {
	if argv[0] == "bsdiff" {
		out := filepath.Join(dir, "bsdiff")
		if err := run.Run(context.Background(), run.Cmd{Argv: []string{"bsdiff", old, target, out}}); err != nil {
			b.Fatal(err)
		}
		info, err := os.Stat(out)
		if err != nil {
			b.Fatal(err)
		}
		return int(info.Size())
	}
	var out countingWriter
	argv = append(append([]string{}, argv...), target)
	if argv[0] != "xdelta3" {
		argv = append(argv, "--stdout")
	}
	if err := run.Run(context.Background(), run.Cmd{Argv: argv, Stdout: &out}); err != nil {
		b.Fatal(err)
	}
	return int(out.n)
}
