package push

import (
	"math"
	"slices"
	"time"

	"fleet/closure/pack"
)

// kind tells units apart whose compression costs and brings different things.
type kind int

const (
	// kindPlain are units of paths without a predecessor, kindDelta those of which most have one.
	kindPlain kind = iota
	kindDelta
	kinds
)

// kindOf is a unit's kind.
func kindOf(spec pack.Spec) kind {
	var based, all uint64
	for _, item := range spec.Items {
		all += item.Info.NarSize
		switch {
		case item.Base.Path.IsZero():
		case len(item.Copies) == 0:
			based += item.Info.NarSize
		default: // all else of it is compressed as if there were no base
			for _, c := range item.Copies {
				based += uint64(c.Size)
			}
		}
	}
	if 2*based > all {
		return kindDelta
	}
	return kindPlain
}

// cost is what a level does to units: speed in bytes of NARs a second of one worker, ratio in bytes sent for a byte of NARs.
type cost struct {
	speed, ratio float64
}

// costs are the levels' costs, from none to the best.
type costs [pack.Best + 1]cost

// expectedCosts are those before anything was measured: one core of a server, and programs (docs/units.md). What counts is how they are to each other.
func expectedCosts() costs {
	return costs{
		pack.Stored:  {800e6, 1.001},
		pack.Fastest: {150e6, 0.415},
		pack.Default: {115e6, 0.355},
		pack.Better:  {45e6, 0.285},
		pack.Best:    {10e6, 0.265},
	}
}

// costMeter learns what levels cost: how fast each is, and how well the units of this push compress. Each level has had other units, and units differ more than levels
// do, so most of what is learned is one factor for all levels. The zero value has measured nothing.
type costMeter struct {
	// nar and spent are what each level has had, in bytes of NARs and seconds of a worker; units long ago count less.
	nar, spent [pack.Best + 1]float64
	// sent is what the units have come to, foreseen what they would have come to as one expects, in bytes; units long ago count less.
	sent, foreseen float64
}

const (
	// costMemory is after how many bytes of NARs a unit counts for a third in what is remembered.
	costMemory = 32 << 20
	// ratioDoubt, in bytes of units, and speedDoubt, in seconds, are how much of what one expects is set against what was measured, so that a tiny unit does not
	// decide, nor how long the first one has waited for a disk. levelDoubt, in bytes of NARs, sets what all levels have shown against what one of them has.
	ratioDoubt = 64 << 10
	speedDoubt = 0.1
	levelDoubt = 4 << 20
	// mostSlower is how many times as slow as what is known a unit is taken to be at most: a machine that has slept would seem to be slow for long. One that is slow
	// shows it by more than one unit.
	mostSlower = 3
)

// add takes a unit that one worker has made.
func (m *costMeter) add(level pack.Level, unit pack.Unit, spent time.Duration) {
	if unit.NAR == 0 || spent <= 0 {
		return
	}
	nar := float64(unit.NAR)
	took := min(spent.Seconds(), mostSlower*nar/m.costs()[level].speed)
	keep := math.Exp(-nar / costMemory)
	for other := range m.nar {
		m.nar[other], m.spent[other] = keep*m.nar[other], keep*m.spent[other]
	}
	m.nar[level] += nar
	m.spent[level] += took
	if level == pack.Stored {
		return // what is not compressed says nothing of how well it would be
	}
	m.sent = keep*m.sent + float64(len(unit.Bytes))
	m.foreseen = keep*m.foreseen + nar*expectedCosts()[level].ratio
}

// costs returns what is known.
func (m *costMeter) costs() costs {
	result := expectedCosts()
	expected, spent := speedDoubt, speedDoubt
	for level, nar := range m.nar {
		expected += nar / result[level].speed
		spent += m.spent[level]
	}
	slowness := spent / expected
	ratio := (m.sent + ratioDoubt) / (m.foreseen + ratioDoubt)
	for level := range result {
		foreseen := levelDoubt / result[level].speed * slowness
		result[level].speed = (m.nar[level] + levelDoubt) / (m.spent[level] + foreseen)
		if pack.Level(level) != pack.Stored {
			result[level].ratio *= ratio
		}
	}
	return result
}

// sameSpeed is from what part of the highest speed on a level is as fast: less is noise, and of levels that are as fast the one that sends least is best.
const sameSpeed = 0.97

// chooseLevel returns the level at which a push is over first: that of the highest speed, in bytes of NARs, of what is slower, the link or the workers; and of several
// with that speed the one that sends least. The link takes rate bytes/s, 0 where that is not known yet; workers is how many workers this push can count on. Their speed is
// what they had while the machine did all else that it has to do, so nothing is taken off it.
func chooseLevel(c costs, rate, workers float64, k kind) pack.Level {
	if rate <= 0 {
		return pack.Default
	}
	var through [pack.Best + 1]float64
	for level := range through {
		// A delta is hardly slower to make at a higher level, and a small one is not worth to be larger.
		if k == kindDelta && pack.Level(level) < pack.Default {
			continue
		}
		at := workers
		if pack.Level(level) == pack.Best {
			at = min(workers, maxBest)
		}
		through[level] = min(at*c[level].speed, rate/max(c[level].ratio, 1e-6))
	}
	fastest, best := slices.Max(through[:]), pack.Best
	for through[best] < sameSpeed*fastest {
		best--
	}
	return best
}

// acceptable says whether a unit that was made at a level will do where another one is wanted. Making it again would cost more than it brings, unless
// it is much larger.
func acceptable(have, want pack.Level) bool { return have >= want-1 }

// levelOf is the level next to one of the zstd program's, 1 to 22.
func levelOf(zstd int) pack.Level {
	switch {
	case zstd <= 2:
		return pack.Fastest
	case zstd <= 5:
		return pack.Default
	case zstd <= 9:
		return pack.Better
	}
	return pack.Best
}

const (
	// A host with a round trip below nearTrip, of which some milliseconds are the host's, is supposed to be in the same network, and reached at nearRate; one above farTrip
	// is somewhere else, and reached at farRate. Both in bytes/s, and of what is usual there the faster, since few bytes are lost over a slow link by a level that is
	// soon changed.
	nearTrip = 12 * time.Millisecond
	nearRate = 125e6
	farTrip  = 15 * time.Millisecond
	farRate  = 10e6
)

// supposedRate is what a link may carry, in bytes/s, by its round trip alone; 0 where that says nothing, or is not known.
func supposedRate(trip time.Duration) float64 {
	switch {
	case trip <= 0:
		return 0
	case trip < nearTrip:
		return nearRate
	case trip > farTrip:
		return farRate
	}
	return 0
}

const (
	// pieceTime is the time over which the link is measured, or less where it has carried pieceBytes; pieces is how many measurements are remembered.
	pieceTime  = 100 * time.Millisecond
	pieceBytes = 4 << 20
	pieces     = 16
	// firstBytes are not measured: buffers on the way take them at once.
	firstBytes = 1 << 20
)

// linkMeter measures how fast a link is from what the host says it has received, over the time in which something was under way.
//
// A host that imports more slowly than the link carries holds the link up. So what counts is how fast the link is while it is used: of the last measurements
// not the mean, but one of the fastest.
type linkMeter struct {
	// since is when what is under way was looked at last, the zero time where nothing is.
	since time.Time
	// spent and bytes are those of the piece that is being measured.
	spent time.Duration
	bytes int64
	total int64
	rates []float64
}

// idle says that nothing is under way: the time until the next unit says nothing of the link.
func (m *linkMeter) idle() { m.since = time.Time{} }

// begin says that something is under way from now on.
func (m *linkMeter) begin(now time.Time) {
	if m.since.IsZero() {
		m.since = now
	}
}

// received takes what the host has received more, in bytes.
func (m *linkMeter) received(now time.Time, bytes int64) {
	m.begin(now)
	m.spent += now.Sub(m.since)
	m.since = now
	if m.total += bytes; m.total < firstBytes {
		m.spent, m.bytes = 0, 0
		return
	}
	if m.bytes += bytes; m.spent < pieceTime && m.bytes < pieceBytes || m.spent == 0 {
		return
	}
	m.rates = append(m.rates, float64(m.bytes)/m.spent.Seconds())
	if len(m.rates) > pieces {
		m.rates = m.rates[1:]
	}
	m.spent, m.bytes = 0, 0
}

// rate is the link's speed in bytes/s, 0 where it is not known yet.
func (m *linkMeter) rate() float64 {
	if len(m.rates) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(m.rates))
	return sorted[len(sorted)*4/5]
}

// channelWindow is what one SSH channel carries in a round trip, in bytes: the window of both OpenSSH and x/crypto/ssh, and of a stream of ours.
const channelWindow = 2 << 20

// wantChannels is how many channels a link needs that has carried rate bytes/s over have of them, with a round trip of rtt. A channel carries its window in
// a round trip, so where the channels are nearly full there may be room for more.
func wantChannels(rate float64, rtt time.Duration, have, most int) int {
	needed := rate * rtt.Seconds() / channelWindow
	if needed < 0.7*float64(have) {
		return have
	}
	return min(max(have, int(needed*1.4)+1), 2*have, most)
}
