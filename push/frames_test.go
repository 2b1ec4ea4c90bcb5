package push

import (
	"testing"

	"fleet/push/pack"
)

func TestCompressionFitsTheLink(t *testing.T) {
	for _, tt := range []struct {
		link string
		rate float64
		want pack.Level
	}{
		{"10 Mbit/s", 1.2e6, pack.Best}, {"20 Mbit/s", 2.4e6, pack.Default}, {"100 Mbit/s", 12e6, pack.Default}, {"300 Mbit/s", 36e6, pack.Fastest}, {"1 Gbit/s", 115e6, pack.None},
	} {
		t.Run(tt.link, func(t *testing.T) {
			if got := levelFor(tt.rate); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

// whole takes everything at once.
type whole struct{}

func (whole) Write(p []byte) (int, error) { return len(p), nil }

func TestWhatBuffersTakeIsNotMeasured(t *testing.T) {
	g := newGauge(whole{})
	for sent := 0; sent < buffered; sent += 1 << 20 {
		if _, err := g.Write(make([]byte, 1<<20)); err != nil || g.level != pack.Default {
			t.Fatalf("level %d, %v", g.level, err)
		}
	}
	for range 3 {
		if _, err := g.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if g.level != pack.None {
		t.Errorf("level %d", g.level)
	}
}
