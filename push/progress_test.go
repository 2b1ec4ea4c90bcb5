package push

import (
	"math"
	"testing"
	"time"
)

func TestASpeedIsWhatWasSeenLately(t *testing.T) {
	begun := time.Unix(1000, 0)
	for _, tt := range []struct {
		rule string
		// counts are what is there every half second, from the first on.
		counts []uint64
		want   float64
	}{
		{"nothing is known at once", []uint64{100}, 0},
		{"nor after half a second", []uint64{0, 100}, 0},
		{"a steady one", []uint64{0, 100, 200, 300, 400}, 200},
		{"that begins anywhere", []uint64{5000, 5100, 5200, 5300}, 200},
		{"nothing moves", []uint64{0, 0, 0, 0}, 0},
		{"it stops after a while", append([]uint64{0, 100, 200, 300, 400, 500, 600, 700, 800}, make800(20)...), 8},
		{"it becomes faster", []uint64{0, 0, 0, 0, 0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 11000, 12000, 13000}, 1760},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var s speed
			got := 0.0
			for i, count := range tt.counts {
				got = s.at(begun.Add(time.Duration(i)*500*time.Millisecond), count)
			}
			if math.Abs(got-tt.want) > 0.1*tt.want+1 {
				t.Errorf("%.1f, want %.1f", got, tt.want)
			}
		})
	}
}

// make800 is a count that stays at 800.
func make800(n int) []uint64 {
	counts := make([]uint64, n)
	for i := range counts {
		counts[i] = 800
	}
	return counts
}
