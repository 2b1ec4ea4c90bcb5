// Package warm has the operating system read files a little before they are needed.
//
// Whoever makes or takes a push reads thousands of small files, one after the other. From a cold disk that is mostly waiting: for each of them a directory, an inode and a
// block. Several that look ahead wait at the same time, and who reads finds the files in memory.
package warm

import (
	"context"
	"sync"
)

const (
	// Window is how far ahead of its reader a [Run] is, in bytes: more than is read while a disk answers, and little beside what a host has.
	Window = 32 << 20
	// MaxPath is how much of one path is read ahead, in bytes: a large one is read in sequence, which the operating system sees.
	MaxPath = 8 << 20
	// readers is how many look ahead at once.
	readers = 8
)

// Item is something that will be read.
type Item struct {
	// Size is how much is read of it, in bytes.
	Size uint64
	// Warm has it read into memory. That is no more than a hint, so it has no error.
	Warm func()
}

// Run looks ahead through a list of items. It is safe for concurrent use.
type Run struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	items   []Item
	// next is the item that is warmed next, ahead how much is read of those from reached to there, in bytes.
	next, reached int
	ahead         uint64
	closed        bool
}

// Start begins to warm items, in their order. The caller closes the Run; the end of ctx does, too.
func Start(ctx context.Context, items []Item) *Run {
	r := &Run{items: items}
	r.changed = sync.NewCond(&r.mu)
	ctx, r.cancel = context.WithCancel(ctx)
	context.AfterFunc(ctx, r.end)
	for range min(readers, len(items)) {
		r.group.Go(func() {
			for item, ok := r.take(); ok; item, ok = r.take() {
				item.Warm()
			}
		})
	}
	return r
}

// Reached says that an item is being read by now. Those before it need not be warmed any more.
func (r *Run) Reached(item int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; r.reached < min(item, len(r.items)); r.reached++ {
		if r.reached < r.next {
			r.ahead -= r.items[r.reached].Size
		}
	}
	r.next = max(r.next, r.reached)
	r.changed.Broadcast()
}

// Close ends the Run, and waits for what is being warmed.
func (r *Run) Close() {
	r.end()
	r.cancel()
	r.group.Wait()
}

func (r *Run) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.changed.Broadcast()
}

// take waits until it is time for the next item.
func (r *Run) take() (Item, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.closed || r.next >= len(r.items) {
			return Item{}, false
		}
		// What is larger than the window is warmed alone.
		item := r.items[r.next]
		if r.ahead == 0 || r.ahead+item.Size <= Window {
			r.next++
			r.ahead += item.Size
			return item, true
		}
		r.changed.Wait()
	}
}
