package push

import (
	"slices"
	"testing"
	"time"

	"fleet/closure/pack"
	"fleet/closure/storepath"
)

func TestTheLevelFollowsTheLink(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		rate    float64
		workers float64
		kind    kind
		want    pack.Level
	}{
		{"nothing is known", 0, 2, kindPlain, pack.Default},
		{"10 Mbit/s", 1.25e6, 2, kindPlain, pack.Best},
		{"20 Mbit/s", 2.5e6, 2, kindPlain, pack.Best},
		{"100 Mbit/s", 12.5e6, 2, kindPlain, pack.Better},
		{"100 Mbit/s, and 32 cores: but few at the best level", 12.5e6, 32, kindPlain, pack.Better},
		{"30 Mbit/s, and 32 cores", 3.75e6, 32, kindPlain, pack.Best},
		{"300 Mbit/s", 37e6, 2, kindPlain, pack.Default},
		{"1 Gbit/s", 125e6, 2, kindPlain, pack.Fastest},
		{"10 Gbit/s", 1.25e9, 2, kindPlain, pack.Stored},
		{"1 Gbit/s, and 16 cores", 125e6, 16, kindPlain, pack.Better},
		{"deltas on a fast link", 1e9, 2, kindDelta, pack.Default},
		{"far away, before the link was measured", supposedRate(40 * time.Millisecond), 2, kindPlain, pack.Better},
		{"near, before the link was measured", supposedRate(time.Millisecond), 2, kindPlain, pack.Fastest},
		{"neither", supposedRate(13 * time.Millisecond), 2, kindPlain, pack.Default},
		{"16 hosts that share nothing", 12.5e6, 2.0 / 16, kindPlain, pack.Fastest},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got := chooseLevel(expectedCosts(), tt.rate, tt.workers, tt.kind); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// measuredUnit is a unit of so many bytes for each byte of its NARs.
func measuredUnit(nar uint64, ratio float64) pack.Unit {
	return pack.Unit{Bytes: make([]byte, int(float64(nar)*ratio)), NAR: nar}
}

func TestSpeedsOfLevelsAreLearned(t *testing.T) {
	e := expectedCosts()
	const unit = 8 << 20
	made := func(level pack.Level, slowness float64) time.Duration {
		return time.Duration(slowness * unit / e[level].speed * float64(time.Second))
	}
	type step struct {
		level pack.Level
		nar   uint64
		spent time.Duration
	}
	units := func(n int, level pack.Level, slowness float64) []step {
		return slices.Repeat([]step{{level, unit, made(level, slowness)}}, n)
	}
	for _, tt := range []struct {
		rule  string
		steps []step
		level pack.Level
		// least and most are the speed, as a part of what one expects.
		least, most float64
	}{
		{"nothing was measured", nil, pack.Default, 1, 1},
		{"as one expects", units(4, pack.Default, 1), pack.Default, 0.999, 1.001},
		{"a slow machine", units(8, pack.Default, 3), pack.Default, 0.3, 0.4},
		{"a slow machine is slow at levels that were not used", units(8, pack.Default, 3), pack.Best, 0.3, 0.45},
		{"a tiny unit that waited for the disk", []step{{pack.Better, 10_000, 40 * time.Millisecond}}, pack.Better, 0.9, 1},
		{"a level that is slower than the others are", slices.Concat(units(8, pack.Default, 1), units(4, pack.Best, 4)), pack.Best, 0.2, 0.35},
		{"what is not used for long is judged by what is used", slices.Concat(units(2, pack.Better, 10), units(20, pack.Default, 1)), pack.Better, 0.75, 1},
		{"a machine that has slept", slices.Concat(units(4, pack.Default, 1), []step{{pack.Default, unit, 15 * time.Second}}), pack.Default, 0.6, 1},
		{"a machine that is very slow", units(12, pack.Default, 20), pack.Default, 0.05, 0.1},
		{"a unit without contents", []step{{pack.Default, 0, time.Second}}, pack.Default, 1, 1},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var m costMeter
			for _, s := range tt.steps {
				m.add(s.level, measuredUnit(s.nar, 0.3), s.spent)
			}
			if got := m.costs()[tt.level].speed / e[tt.level].speed; got < tt.least || got > tt.most {
				t.Errorf("%.3f as fast as one expects, want %v to %v", got, tt.least, tt.most)
			}
		})
	}
}

// Levels are never compared by units that one of them alone has compressed.
func TestWhatCompressesBadlyDoesSoAtAllLevels(t *testing.T) {
	e := expectedCosts()
	const unit = 8 << 20
	for _, tt := range []struct {
		rule   string
		level  pack.Level
		ratios []float64
		// least and most are the factor that is learned.
		least, most float64
	}{
		{"as one expects", pack.Best, []float64{e[pack.Best].ratio, e[pack.Best].ratio}, 0.999, 1.001},
		{"hard units", pack.Best, slices.Repeat([]float64{2 * e[pack.Best].ratio}, 4), 1.9, 2},
		{"easy units", pack.Fastest, slices.Repeat([]float64{e[pack.Fastest].ratio / 2}, 4), 0.5, 0.55},
		{"hard units after easy ones", pack.Better, slices.Concat(slices.Repeat([]float64{0.1 * e[pack.Better].ratio}, 20), slices.Repeat([]float64{e[pack.Better].ratio}, 20)), 0.95, 1},
		{"what was not compressed", pack.Stored, slices.Repeat([]float64{1}, 4), 1, 1},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			var m costMeter
			for _, ratio := range tt.ratios {
				m.add(tt.level, measuredUnit(unit, ratio), time.Second)
			}
			c := m.costs()
			for level := pack.Fastest; level <= pack.Best; level++ {
				if factor := c[level].ratio / e[level].ratio; factor < tt.least || factor > tt.most {
					t.Errorf("%v: %v as many bytes as one expects, want %v to %v", level, factor, tt.least, tt.most)
				}
			}
			if c[pack.Stored].ratio != e[pack.Stored].ratio {
				t.Errorf("what is not compressed has %v", c[pack.Stored].ratio)
			}
		})
	}
}

func TestAHardUnitDoesNotMakeABetterLevelSeemWorse(t *testing.T) {
	var m costMeter
	e := expectedCosts()
	spent := func(level pack.Level) time.Duration {
		return time.Duration(8 << 20 / e[level].speed * float64(time.Second))
	}
	m.add(pack.Better, measuredUnit(8<<20, 0.2), spent(pack.Better))
	for range 3 { // the best level has had nothing but hard units
		m.add(pack.Best, measuredUnit(8<<20, 0.5), spent(pack.Best))
	}
	if got := chooseLevel(m.costs(), 1.25e6, 2, kindPlain); got != pack.Best {
		t.Errorf("%v over 10 Mbit/s", got)
	}
}

func TestATinyUnitDoesNotSayHowOthersCompress(t *testing.T) {
	var m costMeter
	m.add(pack.Default, measuredUnit(2000, 1), time.Millisecond)
	if got, want := m.costs()[pack.Default].ratio, expectedCosts()[pack.Default].ratio; got > 1.1*want {
		t.Errorf("%v, want hardly more than %v", got, want)
	}
}

func TestTheLinksSpeed(t *testing.T) {
	begun := time.Unix(1000, 0)
	t.Run("is not what buffers take", func(t *testing.T) {
		var m linkMeter
		m.begin(begun)
		m.received(begun.Add(time.Microsecond), firstBytes/2)
		if m.rate() != 0 {
			t.Errorf("%v", m.rate())
		}
	})
	t.Run("is what comes in the time", func(t *testing.T) {
		var m linkMeter
		for i := range 40 {
			m.received(begun.Add(time.Duration(i)*50*time.Millisecond), 500_000)
		}
		if got := m.rate(); got < 9.5e6 || got > 10.5e6 {
			t.Errorf("%v, want 10 MB/s", got)
		}
	})
	t.Run("is not that of a host that is slow at times", func(t *testing.T) {
		var m linkMeter
		now := begun
		for i := range 40 {
			now = now.Add(100 * time.Millisecond)
			if i%2 == 0 {
				now = now.Add(400 * time.Millisecond)
			}
			m.received(now, 2_000_000)
		}
		if got := m.rate(); got < 18e6 {
			t.Errorf("%v, want 20 MB/s", got)
		}
	})
	t.Run("is not measured while nothing is under way", func(t *testing.T) {
		var m linkMeter
		m.received(begun, firstBytes)
		for i := range 10 {
			m.idle()
			now := begun.Add(time.Duration(i+1) * 10 * time.Second)
			m.begin(now)
			m.received(now.Add(100*time.Millisecond), 1_000_000)
		}
		if got := m.rate(); got < 9e6 {
			t.Errorf("%v, want 10 MB/s", got)
		}
	})
}

func TestALinkThatIsFasterThanAllWorkersIsMeasured(t *testing.T) {
	var m linkMeter
	now := time.Unix(1000, 0)
	for range 100 { // a unit is over long before the next one is made
		m.begin(now)
		m.received(now.Add(5*time.Millisecond), 2_000_000)
		m.idle()
		now = now.Add(50 * time.Millisecond)
	}
	if got := m.rate(); got < 390e6 || got > 410e6 {
		t.Errorf("%v, want 400 MB/s", got)
	}
}

func TestChannelsAreAsManyAsTheLinkNeeds(t *testing.T) {
	for _, tt := range []struct {
		rule       string
		rate       float64
		rtt        time.Duration
		have, want int
	}{
		{"nothing is known", 0, 0, 1, 1},
		{"a local network", 100e6, time.Millisecond, 1, 1},
		{"100 Mbit/s over 20 ms", 12.5e6, 20 * time.Millisecond, 1, 1},
		{"a channel that is full", 20e6, 100 * time.Millisecond, 1, 2},
		{"two that are full", 40e6, 100 * time.Millisecond, 2, 3},
		{"two that carry what one would", 20e6, 100 * time.Millisecond, 2, 2},
		{"never more than a server allows", 1e9, time.Second, 6, 8},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got := wantChannels(tt.rate, tt.rtt, tt.have, 8); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
	have := 1
	for range 8 {
		have = wantChannels(float64(have)*0.95*channelWindow/0.1, 100*time.Millisecond, have, 8)
	}
	if have != 8 {
		t.Errorf("a link that is never full ends at %d channels", have)
	}
}

func TestKindsOfUnits(t *testing.T) {
	path, err := storepath.Parse(testHelper)
	if err != nil {
		t.Fatal(err)
	}
	plain := pack.Item{Info: storepath.Info{Path: path, NarSize: 100}}
	based := plain
	based.Base, based.Info.NarSize = storepath.Info{Path: path}, 200
	if kindOf(pack.Spec{Items: []pack.Item{plain, based}}) != kindDelta || kindOf(pack.Spec{Items: []pack.Item{plain}}) != kindPlain {
		t.Error("kinds are mixed up")
	}
}
