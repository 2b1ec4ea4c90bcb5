package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/storepath"
)

// push is a push whose units are all different: a batch, a large path with a base, another batch.
type push struct {
	*store
	items []Item
	units []Unit
	small []storepath.Info
	large Item
}

func makePush(t testing.TB) push {
	w := newWorld(12)
	s := newStore()
	noise := make([]byte, 2*SegmentSize+100)
	w.fill(noise)
	base := s.add(w.path("large"), file(noise))
	one := s.add(w.path("one"), file(w.text(900, nil)))
	patched := bytes.Clone(noise)
	patched[3<<20] ^= 1
	large := s.add(w.path("large"), file(patched), one.Path)
	two := s.add(w.path("two"), file(w.text(900, nil)), large.Path, one.Path)
	renewed := s.add(w.path("one"), bytes.Replace(s.nars[one.Path], []byte("="), []byte("-"), 1), large.Path)
	p := push{store: s, small: []storepath.Info{one, two, renewed}, large: Item{Info: large, Base: base}}
	p.items = []Item{{Info: one}, p.large, {Info: two}, {Info: renewed, Base: one}}
	p.units = packAll(t, s, p.items, Default)
	if len(p.units) != 5 {
		t.Fatalf("%d units", len(p.units))
	}
	return p
}

func TestASinkIsToldOfBases(t *testing.T) {
	p, sink := makePush(t), newRemember()
	if err := unpackAll(p, sink, p.units); err != nil {
		t.Fatal(err)
	}
	for _, item := range p.items {
		if got := sink.bases[item.Info.Path]; got != item.Base.Path {
			t.Errorf("%q: %q, not %q", item.Info.Path, got, item.Base.Path)
		}
	}
}

func (p push) order(numbers ...int) []Unit {
	var units []Unit
	for _, n := range numbers {
		units = append(units, p.units[n])
	}
	return units
}

func TestUnitsThatDoNotFollowEachOtherAreRefused(t *testing.T) {
	p := makePush(t)
	for name, test := range map[string]struct {
		order []int
		says  string
	}{
		"all":                          {[]int{0, 1, 2, 3, 4}, ""},
		"first segment missing":        {[]int{0, 2}, "without its first"},
		"second segment missing":       {[]int{0, 1, 3}, "instead of segment 1"},
		"segments exchanged":           {[]int{0, 1, 3, 2}, "instead of segment 1"},
		"segment repeated":             {[]int{0, 1, 2, 2}, "instead of segment 2"},
		"first segment repeated":       {[]int{0, 1, 1}, "another path begins"},
		"large path broken off":        {[]int{0, 1, 2, 4}, "another path begins"},
		"batch repeated":               {[]int{0, 0}, "came before"},
		"large path repeated":          {[]int{0, 1, 2, 3, 1}, "came before"},
		"segment after the last":       {[]int{0, 1, 2, 3, 3}, "without its first"},
		"end after the first segment":  {[]int{0, 1}, "after 1 of 3 segments"},
		"end after the second segment": {[]int{0, 1, 2}, "after 2 of 3 segments"},
	} {
		sink := &strictSink{remember: newRemember()}
		err := unpackAll(p, sink, p.order(test.order...))
		var format *FormatError
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.says != "" && (!errors.As(err, &format) || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: %v, not %q", name, err, test.says)
		}
		sink.check(t, name)
		if p.open != 0 {
			t.Errorf("%s: %d views are open", name, p.open)
		}
	}
}

// strictSink notices calls that never return and calls at once.
type strictSink struct {
	*remember
	began, ended int
}

func (s *strictSink) Path(ctx context.Context, info storepath.Info, base storepath.Path, nar io.Reader) error {
	if s.began != s.ended {
		return errors.New("two paths at once")
	}
	s.began++
	err := s.remember.Path(ctx, info, base, nar)
	s.ended++
	return err
}

func (s *strictSink) check(t *testing.T, name string) {
	t.Helper()
	if s.began != s.ended {
		t.Errorf("%s: %d calls of the sink, %d returned", name, s.began, s.ended)
	}
}

func TestAnyChangedByteOfAUnitIsNoticed(t *testing.T) {
	p := makePush(t)
	t.Run("units that stand for themselves", func(t *testing.T) { checkChanges(t, p.store, p.units) })
	s, units := noisePast(t)
	t.Run("units with a past", func(t *testing.T) { checkChanges(t, s, units) })
}

func checkChanges(t *testing.T, p *store, units []Unit) {
	for n, unit := range units {
		const header = 16
		for at, step := 0, 1; at < len(unit.Bytes); at += step {
			if at >= header {
				step = max(1, len(unit.Bytes)/40)
			}
			changed := bytes.Clone(unit.Bytes)
			changed[at] ^= 0x41
			u := NewUnpacker(context.Background(), p, newRemember(), diskSpool)
			for _, before := range units[:n] {
				if err := u.Unit(before.Bytes); err != nil {
					t.Fatal(err)
				}
			}
			if err := u.Unit(changed); err == nil {
				t.Errorf("unit %d, byte %d: no error", n, at)
			}
			u.Close()
		}
	}
}

// own is a sink that keeps no more of a path than its name, and takes those alone whose contents are right.
type own struct{ paths []storepath.Info }

func (o *own) Path(_ context.Context, info storepath.Info, _ storepath.Path, nar io.Reader) error {
	sum := sha256.New()
	n, err := io.Copy(sum, nar)
	if err == nil && (uint64(n) != info.NarSize || [sha256.Size]byte(sum.Sum(nil)) != info.NarHash) {
		err = errHash
	}
	if err == nil {
		o.paths = append(o.paths, info)
	}
	return err
}

// Checksums are against accidents. Whoever makes new ones may change each field: what comes of that is an error, or a path whose contents are those that it announces.
func TestAnyFieldOfAUnitMayLie(t *testing.T) {
	p := makePush(t)
	for n, unit := range p.units {
		// The contents themselves follow what is said of them. Segments take longer, and say less.
		most, changes := 20, []byte{1, 0x80, 0xff}
		if n > 0 && n < 4 {
			changes = changes[:1]
		}
		honest := take(t, unit)
		size := len(honest.raw) + len(honest.text) + min(len(honest.bodies), most)
		for at := range size {
			for _, change := range changes {
				checkLie(t, p, n, at, rewrite(t, unit, func(s *said) {
					all := slices.Concat(s.raw, s.text, s.bodies)
					all[at] ^= change
					raw, text := len(s.raw), len(s.raw)+len(s.text)
					s.raw, s.text, s.bodies = all[:raw], all[raw:text], all[text:]
				}))
			}
		}
	}
}

// checkLie unpacks one unit, changed, with the segments before it.
func checkLie(t *testing.T, p push, n, at int, changed Unit) {
	t.Helper()
	sink := &own{}
	units := []Unit{changed}
	if n < 4 {
		units = append(p.order(1, 2, 3)[:max(0, n-1)], changed)
	}
	var format *FormatError
	var path *PathError
	if err := unpackAll(p, sink, units); err != nil && !errors.As(err, &format) && !errors.As(err, &path) {
		t.Errorf("unit %d, byte %d: an error of no kind: %v", n, at, err)
	}
	if p.open != 0 {
		t.Errorf("unit %d, byte %d: %d views are open", n, at, p.open)
	}
	seen := map[storepath.Path]bool{}
	for _, info := range sink.paths {
		if seen[info.Path] {
			t.Errorf("unit %d, byte %d: %q came twice", n, at, info.Path)
		}
		seen[info.Path] = true
	}
}

func TestACutUnitIsRefused(t *testing.T) {
	p := makePush(t)
	unit := p.units[0].Bytes
	for n := range unit {
		if err := unpackAll(p, newRemember(), []Unit{{Bytes: unit[:n]}}); err == nil {
			t.Errorf("%d of %d bytes: no error", n, len(unit))
		}
	}
	if err := unpackAll(p, newRemember(), []Unit{{Bytes: append(bytes.Clone(unit), 0)}}); err == nil {
		t.Error("a byte more: no error")
	}
}

// said is what a unit says, before it is compressed.
type said struct {
	kind              byte
	raw, text, bodies []byte
}

// take takes a unit apart that was made without a past.
func take(t testing.TB, unit Unit) said {
	t.Helper()
	z, err := newDecompressor()
	if err != nil {
		t.Fatal(err)
	}
	defer z.close()
	p, err := split(unit.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	s := said{kind: p.kind, raw: bytes.Clone(p.raw)}
	if s.text, err = z.decompress(p.head, nil, nil, maxText); err == nil && len(p.bodies) > 0 {
		s.bodies, err = z.decompress(p.bodies, nil, nil, maxBodies)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s said) unit(t testing.TB) Unit {
	t.Helper()
	p := parts{kind: s.kind, raw: s.raw, head: compressed(t, s.text)}
	if len(s.bodies) > 0 {
		p.bodies = compressed(t, s.bodies)
	}
	return Unit{Bytes: p.join()}
}

// rewrite makes a unit with other contents from one.
func rewrite(t testing.TB, unit Unit, change func(s *said)) Unit {
	t.Helper()
	s := take(t, unit)
	change(&s)
	return s.unit(t)
}

func compressed(t testing.TB, content []byte) []byte {
	t.Helper()
	c, err := newCompressor(Default)
	if err != nil {
		t.Fatal(err)
	}
	return c.EncodeAll(content, nil)
}

func TestUnitsThatLieAreRefused(t *testing.T) {
	p := makePush(t)
	other := newWorld(13)
	item := func(size int, body int, base bool) entry {
		e := entry{info: storepath.Info{Path: other.path("lie"), NarSize: uint64(size)}, body: body}
		if base {
			e.base, e.baseSize = p.large.Base.Path, p.large.Base.NarSize
		}
		return e
	}
	made := func(kind byte, rest string, entries ...entry) Unit {
		raw, text, err := writeHead(entries)
		if err != nil {
			t.Fatal(err)
		}
		return said{kind, raw, append([]byte{0, 0}, text...), []byte(rest)}.unit(t)
	}
	// grounded is a batch, and segmentOn a segment, that was made with so many bytes of bases.
	grounded := func(size uint64, entries ...entry) Unit {
		return rewrite(t, made(kindBatch, "12345", entries...), func(s *said) { s.text = append(binary.AppendUvarint([]byte{0}, size), s.text[2:]...) })
	}
	segmentOn := func(size, from uint64, e entry) Unit {
		return rewrite(t, made(kindFirst, "12345", e), func(s *said) {
			s.text = append(binary.AppendUvarint(binary.AppendUvarint([]byte{0}, size), from), s.text[2:]...)
		})
	}
	onSmall := func(size uint64) entry {
		e := item(int(size), bodyPlain, false)
		e.base, e.baseSize = p.small[0].Path, p.small[0].NarSize
		return e
	}
	var three []entry
	for range 3 {
		three = append(three, item(SmallNAR, bodyPlain, false))
	}
	number := func(n uint64) string { return string(binary.AppendUvarint(nil, n)) }
	for name, test := range map[string]struct {
		units []Unit
		says  string
	}{
		"unknown kind":                   {[]Unit{made(9, "", item(0, bodyPlain, false))}, "unknown kind"},
		"small path too large":           {[]Unit{made(kindBatch, "", item(SmallNAR+1, bodyPlain, false))}, "too large for a batch"},
		"batch too large":                {[]Unit{made(kindBatch, "", three...)}, "too large for a batch"},
		"small path with less":           {[]Unit{made(kindBatch, "1234", item(5, bodyPlain, false))}, "ends within"},
		"small path with more":           {[]Unit{made(kindBatch, "123456", entry{info: storepath.Info{Path: other.path("lie"), NarSize: 5, NarHash: sha256.Sum256([]byte("12345"))}})}, "nothing uses"},
		"segment of a small path":        {[]Unit{made(kindFirst, "12345", item(5, bodyPlain, false))}, "come as segments"},
		"segment of two paths":           {[]Unit{made(kindFirst, "", item(5<<20, bodyPlain, false), item(5<<20, bodyPlain, false))}, "come as segments"},
		"segment with less":              {[]Unit{made(kindFirst, "1234", item(5<<20, bodyPlain, false))}, "has 4 bytes"},
		"segment beyond the base":        {[]Unit{made(kindFirst, number(zigzag(1<<39)), item(5<<20, bodySame, true))}, "the base has"},
		"segment before the base":        {[]Unit{made(kindFirst, number(zigzag(-1)), item(5<<20, bodySame, true))}, "the base has"},
		"segment at no number":           {[]Unit{made(kindFirst, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", item(5<<20, bodySame, true))}, "where it is"},
		"segment at a number and more":   {[]Unit{made(kindFirst, "\x00\x00", item(5<<20, bodySame, true))}, "where it is"},
		"delta against nothing":          {[]Unit{made(kindFirst, "", item(5<<20, bodyDelta, true))}, "where it is"},
		"delta beyond the base":          {[]Unit{made(kindFirst, number(1<<30)+number(5), item(5<<20, bodyDelta, true))}, "where it is"},
		"delta against more":             {[]Unit{made(kindFirst, number(5)+number(1<<30), item(5<<20, bodyDelta, true))}, "where it is"},
		"garbage as the delta":           {[]Unit{made(kindFirst, number(5)+number(50)+"garbage", item(5<<20, bodyDelta, true))}, "delta"},
		"garbage as a small delta":       {[]Unit{made(kindBatch, "garbage", item(200, bodyDelta, true))}, "delta"},
		"small delta with nothing":       {[]Unit{made(kindBatch, "", item(200, bodyDelta, true))}, "delta"},
		"small path beyond the base":     {[]Unit{made(kindBatch, "", entry{info: item(3000, 0, false).info, base: p.small[0].Path, baseSize: p.small[0].NarSize, body: bodySame})}, "the base has"},
		"base of another size":           {[]Unit{made(kindBatch, "", entry{info: item(300, 0, false).info, base: p.small[0].Path, baseSize: 7, body: bodySame})}, "not 7"},
		"base that is not there":         {[]Unit{made(kindBatch, "", entry{info: item(300, 0, false).info, base: other.path("gone"), baseSize: 7, body: bodySame})}, "there is no"},
		"large base that is not there":   {[]Unit{made(kindFirst, number(0), entry{info: item(5<<20, 0, false).info, base: other.path("gone"), baseSize: 7, body: bodySame})}, "there is no"},
		"same contents, another hash":    {[]Unit{made(kindBatch, "", entry{info: item(500, 0, false).info, base: p.small[0].Path, baseSize: p.small[0].NarSize, body: bodySame})}, "another hash"},
		"large contents, another hash":   {[]Unit{made(kindFirst, number(0), item(5<<20, bodySame, true))}, "another hash"},
		"further segment without number": {[]Unit{p.units[0], p.units[1], rewrite(t, p.units[2], func(s *said) { s.text = s.text[:3] })}, "which one"},
		"further segment without path":   {[]Unit{p.units[0], p.units[1], rewrite(t, p.units[2], func(s *said) { s.raw = s.raw[:5] })}, "which one"},
		"further segment of another":     {[]Unit{p.units[0], p.units[1], rewrite(t, p.units[2], func(s *said) { s.raw[0]++ })}, "instead of segment 1"},
		"further segment of no kind":     {[]Unit{p.units[0], p.units[1], rewrite(t, p.units[2], func(s *said) { s.text[3] = 3 })}, "does not exist"},
		"further segment and more":       {[]Unit{p.units[0], p.units[1], rewrite(t, p.units[2], func(s *said) { s.text = append(s.text, 0) })}, "which one"},
		"more said of paths":             {[]Unit{rewrite(t, p.units[0], func(s *said) { s.text = append(s.text, 0) })}, "nothing uses"},
		"a past before the first":        {[]Unit{rewrite(t, p.units[0], func(s *said) { s.text[0] = 1 })}, "last 1 bytes of the 0"},
		"more past than there is":        {[]Unit{p.units[0], rewrite(t, p.units[1], func(s *said) { s.text = append(binary.AppendUvarint(nil, p.small[0].NarSize+1), s.text[1:]...) })}, "before it"},
		"a past that is no number":       {[]Unit{rewrite(t, p.units[0], func(s *said) { s.text = bytes.Repeat([]byte{0xff}, 10) })}, "with what"},
		"nothing said at all":            {[]Unit{rewrite(t, p.units[0], func(s *said) { s.text = nil })}, "with what"},
		"ground that nothing names":      {[]Unit{rewrite(t, p.units[0], func(s *said) { s.text[1] = 5 })}, "5 bytes more"},
		"ground of less than a base":     {[]Unit{grounded(3, item(5, bodyPlain, true))}, "less than the base"},
		"ground of more than a base":     {[]Unit{grounded(p.small[0].NarSize+1, onSmall(5))}, "1 bytes more"},
		"too much ground":                {[]Unit{grounded(maxGround+1, onSmall(5))}, "with what"},
		"ground that is not there":       {[]Unit{grounded(7, entry{info: item(300, 0, false).info, base: other.path("gone"), baseSize: 7})}, "there is no"},
		"ground of another size":         {[]Unit{grounded(7, entry{info: item(300, 0, false).info, base: p.small[0].Path, baseSize: 7})}, "not 7"},
		"a segment without ground":       {[]Unit{segmentOn(5, 0, item(5<<20, bodyPlain, false))}, "and has none"},
		"a segment beyond ground":        {[]Unit{segmentOn(5, 1<<30, item(5<<20, bodyPlain, true))}, "the base has"},
		"a segment at no ground":         {[]Unit{segmentOn(5, 1<<62, item(5<<20, bodyPlain, true))}, "with what"},
	} {
		sink := &strictSink{remember: newRemember()}
		if err := unpackAll(p, sink, test.units); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, not %q", name, err, test.says)
		}
		sink.check(t, name)
		if p.open != 0 {
			t.Errorf("%s: %d views are open", name, p.open)
		}
	}
}

func TestAnErrorOfOnePathNamesIt(t *testing.T) {
	p := makePush(t)
	for at, want := range map[int]error{1 << 20: delta.ErrMismatch, SegmentSize + 1<<20: errHash} {
		wrong := newStore()
		maps.Copy(wrong.nars, p.nars)
		wrong.nars[p.large.Base.Path] = bytes.Clone(p.nars[p.large.Base.Path])
		wrong.nars[p.large.Base.Path][at] ^= 1
		var path *PathError
		err := unpackAll(wrong, newRemember(), p.units)
		if !errors.As(err, &path) || path.Path != p.large.Info.Path || !errors.Is(err, want) {
			t.Errorf("the base changed at %d: %v", at, err)
		}
	}
}

// failing is a sink that reads some bytes of a path, and then returns an error.
type failing struct {
	path  storepath.Path
	after int64
	err   error
	ended int
}

func (f *failing) Path(_ context.Context, info storepath.Info, _ storepath.Path, nar io.Reader) error {
	defer func() { f.ended++ }()
	if info.Path != f.path {
		_, err := io.Copy(io.Discard, nar)
		return err
	}
	_, _ = io.CopyN(io.Discard, nar, f.after)
	return f.err
}

func TestTheErrorOfASinkIsThatOfThePath(t *testing.T) {
	p := makePush(t)
	full := errors.New("the store is full")
	for _, info := range []storepath.Info{p.small[0], p.large.Info, p.small[1]} {
		for _, after := range []int64{0, 1, int64(info.NarSize) / 2, int64(info.NarSize)} {
			sink := &failing{path: info.Path, after: after, err: full}
			err := unpackAll(p, sink, p.units)
			var path *PathError
			if !errors.As(err, &path) || path.Path != info.Path || !errors.Is(err, full) {
				t.Errorf("%q after %d bytes: %v", info.Path, after, err)
			}
			if sink.ended == 0 {
				t.Errorf("%q after %d bytes: the sink has not returned", info.Path, after)
			}
		}
	}
}

func TestASinkThatDoesNotReadToTheEndIsWrong(t *testing.T) {
	p := makePush(t)
	err := unpackAll(p, &failing{path: p.large.Info.Path, after: 5}, p.units)
	var path *PathError
	if !errors.As(err, &path) || !errors.Is(err, errUnread) {
		t.Errorf("%v", err)
	}
}

func TestAfterAnErrorNothingIsTaken(t *testing.T) {
	p := makePush(t)
	u := NewUnpacker(context.Background(), p, newRemember(), diskSpool)
	defer u.Close()
	first := u.Unit(p.units[2].Bytes)
	if second := u.Unit(p.units[0].Bytes); first == nil || second != first || u.End() != first {
		t.Errorf("%v, then %v", first, second)
	}
}

func TestCloseEndsALargePath(t *testing.T) {
	p := makePush(t)
	sink := &failing{}
	u := NewUnpacker(context.Background(), p, sink, diskSpool)
	for _, unit := range p.units[:2] {
		if err := u.Unit(unit.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	u.Close()
	u.Close()
	if sink.ended != 2 || p.open != 0 {
		t.Errorf("%d paths ended, %d views are open", sink.ended, p.open)
	}
	if err := u.Unit(p.units[2].Bytes); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// stuck is a sink that waits for the context's end.
type stuck struct{ began chan struct{} }

func (s stuck) Path(ctx context.Context, info storepath.Info, _ storepath.Path, nar io.Reader) error {
	if info.NarSize <= SmallNAR {
		return nil
	}
	close(s.began)
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestTheEndOfTheContextEndsAUnit(t *testing.T) {
	p := makePush(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	sink := stuck{make(chan struct{})}
	u := NewUnpacker(ctx, p, sink, diskSpool)
	defer u.Close()
	if err := u.Unit(p.units[0].Bytes); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	go func() {
		<-sink.began
		cancel(cause)
	}()
	if err := u.Unit(p.units[1].Bytes); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	if err := u.Unit(p.units[2].Bytes); !errors.Is(err, cause) {
		t.Errorf("later: %v", err)
	}
}

func TestBombsAreRefusedBeforeTheyGrow(t *testing.T) {
	p := makePush(t)
	zeros := make([]byte, maxBodies+1)
	// The frame says less than it holds: the number in the header is that of the contents.
	frame := compressed(t, zeros[:maxBodies])
	at := bytes.Index(frame, binary.LittleEndian.AppendUint32(nil, maxBodies))
	if at < 0 {
		t.Fatal("the size is not found")
	}
	lying := bytes.Clone(frame)
	binary.LittleEndian.PutUint32(lying[at:], 1000)
	endless := bytes.Clone(frame)
	binary.LittleEndian.PutUint32(endless[at:], 1<<31)
	raw, text, err := writeHead([]entry{{info: p.small[0]}})
	if err != nil {
		t.Fatal(err)
	}
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, frame...)
	small := compressed(t, zeros[:1000])
	head := compressed(t, append([]byte{0, 0}, text...))
	for name, frame := range map[string][]byte{
		"too large": compressed(t, zeros), "lying": lying, "endless": endless, "skippable": skippable, "two frames": append(bytes.Clone(small), frame...), "none": nil,
	} {
		for _, unit := range []parts{{kindBatch, raw, head, frame}, {kindBatch, raw, frame, small}} {
			allocated := allocations(func() {
				if err := unpackAll(p, newRemember(), []Unit{{Bytes: unit.join()}}); err == nil {
					t.Errorf("%s: no error", name)
				}
			})
			if allocated > 16<<20 {
				t.Errorf("%s: %d bytes were allocated", name, allocated)
			}
		}
	}
}

// allocations returns how many bytes were allocated while something ran, whether they are still in use or not.
func allocations(run func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// allocatedUnpacking returns how many bytes an unpacker allocated while it took units.
func allocatedUnpacking(t *testing.T, s *store, units []Unit) uint64 {
	t.Helper()
	u := NewUnpacker(context.Background(), s, discard{}, diskSpool)
	defer u.Close()
	return allocations(func() {
		for _, unit := range units {
			if err := u.Unit(unit.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestTheMemoryOfAnUnpackerIsBounded(t *testing.T) {
	w := newWorld(14)
	s := newStore()
	noise := make([]byte, 5*SegmentSize)
	w.fill(noise)
	base := s.add(w.path("base"), file(noise))
	patched := bytes.Clone(noise)
	for i := 0; i < len(patched); i += 64 {
		patched[i]++
	}
	plain, changed := s.add(w.path("plain"), file(noise[1:])), s.add(w.path("changed"), file(patched))
	units := packAll(t, s, []Item{{Info: plain}, {Info: changed, Base: base}}, Fastest)
	if _, _, deltas := sumOf(units); deltas < changed.NarSize-100 {
		t.Fatalf("only %d bytes are deltas", deltas)
	}
	// Everything that is ever allocated counts, so nothing of it grows with the paths.
	allocated := allocatedUnpacking(t, s, units)
	if allocated > 24<<20 {
		t.Errorf("%d bytes were allocated for %d of NARs", allocated, plain.NarSize+changed.NarSize)
	}
}

func TestTheMemoryForNamesIsBounded(t *testing.T) {
	w := newWorld(15)
	s := newStore()
	var refs, olds []storepath.Path
	for range maxHashes/2 - 10 {
		refs, olds = append(refs, w.path("r")), append(olds, w.path("o"))
	}
	pairs := make(map[string]string)
	for i := range refs {
		pairs[olds[i].Hash()] = refs[i].Hash()
	}
	base := s.add(w.path("base"), file(w.text(2000, nil)))
	list := s.add(w.path("list"), s.nars[base.Path], refs...)
	units := packAll(t, s, []Item{{Info: list, Base: base, Refs: pairs}}, Fastest)
	if _, _, deltas := sumOf(units); deltas == 0 {
		t.Fatal("no base was used")
	}
	allocated := allocations(func() {
		if err := unpackAll(s, discard{}, units); err != nil {
			t.Fatal(err)
		}
	})
	if allocated > 24<<20 {
		t.Errorf("%d bytes were allocated for %d names", allocated, maxHashes)
	}
}
