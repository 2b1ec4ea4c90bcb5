package agent

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// unitOf is a unit of a size that says its number.
func unitOf(number uint32, size int) []byte {
	unit := make([]byte, size)
	unit[0] = byte(number)
	return unit
}

// arrivals lets units arrive over channels, each in order, as the dice fall, and returns them as they are taken.
func arrivals(t *testing.T, dice *rand.Rand, channels [][]uint32, sizes []int) []byte {
	t.Helper()
	var r reorder
	var taken []byte
	at, reading := make([]int, len(channels)), make([]bool, len(channels))
	for steps := 0; len(taken) < len(sizes); steps++ {
		if steps > 100000 {
			t.Fatalf("nothing goes on after %d units of %d", len(taken), len(sizes))
		}
		if dice.IntN(3) == 0 {
			if r.size > 0 {
				r.done()
			} else if unit, ok := r.take(); ok {
				taken = append(taken, unit[0])
			}
			continue
		}
		c := dice.IntN(len(channels))
		if at[c] == len(channels[c]) {
			continue
		}
		number := channels[c][at[c]]
		if reading[c] {
			r.put(number, unitOf(number, sizes[number]))
			reading[c] = false
			at[c]++
		} else if ok, err := r.admit(number, sizes[number]); err != nil {
			t.Fatal(err)
		} else {
			reading[c] = ok
		}
		if r.used > maxHeld+slices.Max(sizes) {
			t.Fatalf("%d bytes are held", r.used)
		}
	}
	if r.done(); r.used != 0 {
		t.Errorf("%d bytes are counted that nobody holds", r.used)
	}
	return taken
}

func TestUnitsAreTakenInOrderWhateverTheirWay(t *testing.T) {
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 5))
		sizes := make([]int, 1+dice.IntN(100))
		channels := make([][]uint32, 1+dice.IntN(8))
		for i := range sizes {
			// Some are so large that three fill what may be held.
			sizes[i] = 1 + dice.IntN([]int{100, 100, 12 << 20}[dice.IntN(3)])
			c := dice.IntN(len(channels))
			channels[c] = append(channels[c], uint32(i))
		}
		taken := arrivals(t, dice, channels, sizes)
		for i, got := range taken {
			if got != byte(i) {
				t.Fatalf("seed %d: unit %d in the place of unit %d", seed, got, i)
			}
		}
	}
}

func TestUnitsThatCannotBeRightAreRefused(t *testing.T) {
	fill := func(r *reorder) {
		for _, n := range []uint32{0, 1, 3} {
			if ok, err := r.admit(n, 1); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		r.put(0, unitOf(0, 1))
		r.put(1, unitOf(1, 1))
		r.take()
	}
	for name, tc := range map[string]struct {
		number uint32
		end    uint32
	}{
		"one that was taken":                {number: 0},
		"one that is held":                  {number: 1},
		"one that is coming":                {number: 3},
		"one above the number of all units": {number: 5, end: 5},
	} {
		var r reorder
		fill(&r)
		if tc.end > 0 {
			if err := r.finish(tc.end); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := r.admit(tc.number, 1); ok || err == nil {
			t.Errorf("%s was admitted", name)
		}
	}
	for _, end := range []uint32{0, 1, 3} {
		var r reorder
		fill(&r)
		if r.finish(end) == nil {
			t.Errorf("%d units were believed, and more have come", end)
		}
	}
	var r reorder
	fill(&r)
	if err := r.finish(4); err != nil {
		t.Error(err)
	}
	if r.finish(5) == nil {
		t.Error("a second number of units was believed")
	}
}

func TestWhatComesTooEarlyWaits(t *testing.T) {
	var r reorder
	if ok, _ := r.admit(maxAhead, 1); ok {
		t.Error("a unit far ahead was admitted")
	}
	for n := uint32(1); n <= 4; n++ {
		if ok, _ := r.admit(n, 8<<20); !ok {
			t.Fatalf("unit %d was not admitted", n)
		}
	}
	if ok, _ := r.admit(5, 8<<20); ok {
		t.Error("a unit above the bound was admitted")
	}
	if ok, _ := r.admit(0, 8<<20); !ok {
		t.Error("the unit that all wait for was not admitted")
	}
	r.put(0, make([]byte, 8<<20))
	r.put(1, make([]byte, 8<<20))
	r.take()
	if ok, _ := r.admit(5, 1); ok {
		t.Error("there is no room before the unit was used")
	}
	if r.done(); r.used != 32<<20 {
		t.Errorf("%d bytes are held", r.used)
	}
}

func TestARestartForgetsWhatLiesBehindAGap(t *testing.T) {
	var r reorder
	for _, n := range []uint32{0, 1, 2, 4, 5} {
		if ok, err := r.admit(n, 10); !ok || err != nil {
			t.Fatal(err)
		}
		if n != 5 {
			r.put(n, unitOf(n, 10))
		}
	}
	r.take()
	if next := r.restart(); next != 3 || r.used != 30 {
		t.Errorf("unit %d is expected, and %d bytes are held", next, r.used)
	}
	for _, n := range []uint32{3, 4, 5} {
		if ok, err := r.admit(n, 10); !ok || err != nil {
			t.Errorf("unit %d: %v, %v", n, ok, err)
		}
	}
}
