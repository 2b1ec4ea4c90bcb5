package delta

import (
	"fmt"
	"io"
)

// Copy says that the target has at Target, for Size bytes, what the base's view has at Base.
type Copy struct {
	Target, Base, Size int64
}

// Assemble writes the delta of a target of which it is known what it has in common with a base of that size, so that the base is not needed. Copies are
// in the order of the target and do not overlap there; what none of them covers is literal. Of the options, those of the search do not apply.
func (e *Encoder) Assemble(dst io.Writer, base int64, target []byte, copies []Copy) (Stats, error) {
	size := int64(len(target))
	if base < 0 || base > MaxSize || size > MaxSize {
		return Stats{}, fmt.Errorf("delta: assemble: a base of %d bytes and a target of %d, not up to %d", base, size, int64(MaxSize))
	}
	e.out.reset(dst, e.options.BlockSize)
	e.out.header = e.header(base, size, nil)
	err := e.assemble(base, target, copies)
	return e.out.stats, err
}

func (e *Encoder) assemble(base int64, target []byte, copies []Copy) error {
	at, size := int64(0), int64(len(target))
	for _, c := range copies {
		if c.Size <= 0 || c.Target < at || c.Target > size-c.Size || c.Base < 0 || c.Base > base-c.Size {
			return fmt.Errorf("delta: assemble: a copy of %d bytes from %d of %d to %d of %d, behind %d", c.Size, c.Base, base, c.Target, size, at)
		}
		if err := e.out.literal(target[at:c.Target]); err != nil {
			return err
		}
		at = c.Target + c.Size
		// The base has the same bytes there, so none is patched.
		same := target[c.Target:at]
		if err := e.out.copied(same, same, c.Base); err != nil {
			return err
		}
	}
	if err := e.out.literal(target[at:]); err != nil {
		return err
	}
	return e.out.end()
}
