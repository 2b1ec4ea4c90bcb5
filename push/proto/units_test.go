package proto

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

const unitLimit = 1 << 20

// readUnits reads a channel to its end, and writes back what it has read.
func readUnits(raw []byte) (back []byte, err error) {
	var out bytes.Buffer
	w, r := NewUnitWriter(&out), NewUnitReader(bytes.NewReader(raw), unitLimit)
	for {
		head, err := r.Next()
		if err != nil {
			return out.Bytes(), err
		}
		unit := make([]byte, head.Length)
		if err := r.Fill(unit); err != nil {
			return out.Bytes(), err
		}
		if head.Length == 0 {
			err = w.End(head.Number)
		} else {
			err = w.Unit(head.Number, unit)
		}
		if err != nil {
			return out.Bytes(), errors.Join(errors.New("what was read cannot be written"), err)
		}
	}
}

func unitBytes(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewUnitWriter(&b)
	if err := errors.Join(w.Unit(0, []byte("first")), w.Unit(3, bytes.Repeat([]byte("x"), unitLimit)), w.Unit(7, []byte("y")), w.End(9)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnitsComeAsTheyWereWritten(t *testing.T) {
	raw := unitBytes(t)
	if back, err := readUnits(raw); err != io.EOF || !bytes.Equal(raw, back) {
		t.Errorf("%d bytes of %d, %v", len(back), len(raw), err)
	}
}

func TestAChannelThatIsCutIsSeen(t *testing.T) {
	raw := unitBytes(t)
	between := map[int]bool{0: true, 13: true, 13 + 8 + unitLimit: true, 13 + 8 + unitLimit + 9: true}
	for _, cut := range []int{0, 1, 7, 8, 12, 13, 14, 21, 100, 13 + 8 + unitLimit - 1, 13 + 8 + unitLimit, 13 + 8 + unitLimit + 9, len(raw) - 1} {
		_, err := readUnits(raw[:cut])
		if want := between[cut]; want != (err == io.EOF) || want == errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestWhatIsNoUnitIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ raw, want string }{
		"a number that comes again": {"\x00\x00\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x01\x00\x00\x00\x01x", "unit 1 comes after unit 1"},
		"a number that shrinks":     {"\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x01\x00\x00\x00\x01x", "unit 1 comes after unit 2"},
		"an end before its units":   {"\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x02\x00\x00\x00\x00", "unit 2 comes after unit 2"},
		"something after the end":   {"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01x", "something follows the end"},
		"a unit above the limit":    {"\x00\x00\x00\x00\x00\x10\x00\x01" + strings.Repeat("x", unitLimit+1), "has 1048577 bytes"},
		"a unit without an end":     {"\x00\x00\x00\x00\xff\xff\xff\xffxxx", "has 4294967295 bytes"},
	} {
		if _, err := readUnits([]byte(tc.raw)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWriterKeepsTheOrder(t *testing.T) {
	w := NewUnitWriter(io.Discard)
	if err := w.Unit(4, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"the same number": w.Unit(4, []byte("x")), "a lower number": w.Unit(3, []byte("x")), "an empty unit": w.Unit(5, nil), "an end too early": w.End(4),
	} {
		if err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if err := w.End(5); err != nil {
		t.Fatal(err)
	}
	if err := w.Unit(6, []byte("x")); err == nil {
		t.Error("a unit after the end was written")
	}
}

func TestAUnitIsReadBeforeTheNext(t *testing.T) {
	r := NewUnitReader(bytes.NewReader(unitBytes(t)), unitLimit)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.Fill(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err == nil {
		t.Error("the next unit was read before the end of the first")
	}
	r = NewUnitReader(bytes.NewReader(unitBytes(t)), unitLimit)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.Fill(make([]byte, 6)); err == nil {
		t.Error("more than the unit was read")
	}
}

func FuzzUnitReader(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01x\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02x"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		back, err := readUnits(raw)
		if !bytes.HasPrefix(raw, back) {
			t.Fatal("what was read does not write back")
		}
		if err == io.EOF && len(back) != len(raw) {
			t.Fatalf("%d bytes of %d were read without an error", len(back), len(raw))
		}
	})
}
