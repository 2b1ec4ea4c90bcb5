package push

import "context"

// once is a value that the first who asks for it makes, while others wait for it.
type once[T any] struct {
	made  chan struct{}
	value T
	err   error
}

func newOnce[T any]() *once[T] { return &once[T]{made: make(chan struct{})} }

// make makes the value; note is called before the others go on. Only who has made the once calls it.
func (o *once[T]) make(build func() (T, error), note func()) (T, error) {
	o.value, o.err = build()
	note()
	close(o.made)
	return o.value, o.err
}

// wait waits for the value. Where that could not be made it is tried again: whoever tried may have been interrupted.
func (o *once[T]) wait(ctx context.Context, build func() (T, error)) (T, error) {
	select {
	case <-o.made:
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	if o.err != nil {
		return build()
	}
	return o.value, nil
}
