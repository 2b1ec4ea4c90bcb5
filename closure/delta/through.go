package delta

import (
	"fmt"
	"io"
)

// View is a base seen through a reference map: itself a base, and as long. Whoever makes deltas against pieces of it, or has no
// need for one because the target is the view, reads it like a file. It keeps a buffer, so it must not be used concurrently.
type View struct {
	view view
}

// NewView returns the base as it is seen through refs, which may be nil.
func NewView(base Base, refs *Refs) *View {
	v := &View{}
	v.view.reset(base, refs)
	return v
}

// Size is that of the base, in bytes.
func (v *View) Size() int64 { return v.view.size }

// ReadAt is that of [io.ReaderAt]. It reads up to 31 bytes more of the base on either side.
func (v *View) ReadAt(data []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("delta: read the base at %d", off)
	}
	n := int(max(0, min(int64(len(data)), v.view.size-off)))
	if n > 0 {
		if err := v.view.read(data[:n], off); err != nil {
			return 0, err
		}
	}
	if n < len(data) {
		return n, io.EOF
	}
	return n, nil
}
