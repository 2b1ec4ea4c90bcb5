package proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// On a channel of a transfer each unit is a big-endian u32 number, a u32 length, and that many bytes. A length of zero ends the transfer, and its
// number says how many units there are; it comes over channel 0, as the last thing there.
const unitHeader = 8

// UnitWriter writes units to a channel. It must not be used concurrently.
type UnitWriter struct {
	w    io.Writer
	next uint64
}

// NewUnitWriter writes to w, which it does not close.
func NewUnitWriter(w io.Writer) *UnitWriter { return &UnitWriter{w: w} }

// Unit writes a unit. Its number is higher than that of the one before.
func (u *UnitWriter) Unit(number uint32, unit []byte) error {
	if len(unit) == 0 || len(unit) > math.MaxUint32 {
		return fmt.Errorf("write unit %d: it has %d bytes", number, len(unit))
	}
	if err := u.header(number, uint32(len(unit))); err != nil {
		return err
	}
	_, err := u.w.Write(unit)
	return err
}

// End says that the transfer has this many units. Nothing follows it.
func (u *UnitWriter) End(units uint32) error { return u.header(units, 0) }

func (u *UnitWriter) header(number, length uint32) error {
	if uint64(number) < u.next {
		return fmt.Errorf("write unit %d: unit %d came before", number, u.next-1)
	}
	u.next = uint64(number) + 1
	if length == 0 {
		u.next = math.MaxUint64
	}
	head := binary.BigEndian.AppendUint32(make([]byte, 0, unitHeader), number)
	_, err := u.w.Write(binary.BigEndian.AppendUint32(head, length))
	return err
}

// UnitHead is what comes before a unit. A length of zero is the transfer's end.
type UnitHead struct {
	Number uint32
	// Length is the unit's, in bytes.
	Length int
}

// UnitReader reads units from a channel. It holds nothing of them. It must not be used concurrently.
type UnitReader struct {
	r     io.Reader
	limit int
	next  uint64
	left  int
	ended bool
	err   error
}

// NewUnitReader reads units of at most limit bytes from r.
func NewUnitReader(r io.Reader, limit int) *UnitReader { return &UnitReader{r: r, limit: limit} }

// Next reads what comes before a unit; the unit is read with [UnitReader.Fill] then, to its end. It returns [io.EOF] where the channel has ended between two
// units, and [io.ErrUnexpectedEOF], wrapped, elsewhere.
func (u *UnitReader) Next() (UnitHead, error) {
	if u.err != nil {
		return UnitHead{}, u.err
	}
	head, err := u.head()
	u.err = err
	return head, err
}

func (u *UnitReader) head() (UnitHead, error) {
	if u.left > 0 {
		return UnitHead{}, fmt.Errorf("read units: %d bytes of unit %d were not read", u.left, u.next-1)
	}
	var text [unitHeader]byte
	if n, err := io.ReadFull(u.r, text[:]); err == io.EOF && n == 0 {
		return UnitHead{}, io.EOF
	} else if err != nil {
		return UnitHead{}, fmt.Errorf("read units: %w", err)
	}
	number, length := binary.BigEndian.Uint32(text[:4]), binary.BigEndian.Uint32(text[4:])
	switch {
	case u.ended:
		return UnitHead{}, errors.New("read units: something follows the end")
	case uint64(number) < u.next:
		return UnitHead{}, fmt.Errorf("read units: unit %d comes after unit %d", number, u.next-1)
	case uint64(length) > uint64(u.limit):
		return UnitHead{}, fmt.Errorf("read units: unit %d has %d bytes, the limit is %d", number, length, u.limit)
	}
	u.next, u.left, u.ended = uint64(number)+1, int(length), length == 0
	return UnitHead{Number: number, Length: int(length)}, nil
}

// Fill fills p, which is a part of the current unit or all of it.
func (u *UnitReader) Fill(p []byte) error {
	switch {
	case u.err != nil:
		return u.err
	case len(p) > u.left:
		u.err = fmt.Errorf("read units: %d bytes are wanted of the %d that are left of unit %d", len(p), u.left, u.next-1)
		return u.err
	}
	n, err := io.ReadFull(u.r, p)
	if u.left -= n; err != nil {
		u.err = fmt.Errorf("read unit %d: %w", u.next-1, unexpectedEnd(err))
	}
	return u.err
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
