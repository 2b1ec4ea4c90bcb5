package warm_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"fleet/closure/warm"
)

// recorder notes what was warmed.
type recorder struct {
	mu     sync.Mutex
	warmed []int
}

func (r *recorder) items(sizes ...uint64) []warm.Item {
	items := make([]warm.Item, len(sizes))
	for i, size := range sizes {
		items[i] = warm.Item{Size: size, Warm: func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.warmed = append(r.warmed, i)
		}}
	}
	return items
}

func (r *recorder) sorted() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.warmed))
}

func TestARunKeepsItsDistance(t *testing.T) {
	const half = warm.Window / 2
	for _, test := range []struct {
		name  string
		sizes []uint64
		// reached are told one after the other, negative ones are not.
		reached []int
		want    []int
	}{
		{"all at once what fits into the window", []uint64{half, half}, nil, []int{0, 1}},
		{"no more than the window", []uint64{half, half, 1}, nil, []int{0, 1}},
		{"more as the reader goes on", []uint64{half, half, half, half}, []int{1}, []int{0, 1, 2}},
		{"what is larger than the window, alone", []uint64{4 * half, 1}, nil, []int{0}},
		{"what follows it, once it is behind the reader", []uint64{4 * half, 1}, []int{1}, []int{0, 1}},
		{"not what the reader has passed", []uint64{half, half, half, half, half}, []int{4}, []int{0, 1, 4}},
		{"nothing for a reader that goes back", []uint64{half, half, half, half}, []int{1, 0}, []int{0, 1, 2}},
		{"nothing beyond the end", []uint64{1}, []int{7}, []int{0}},
		{"nothing of nothing", nil, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				run := warm.Start(t.Context(), r.items(test.sizes...))
				defer run.Close()
				synctest.Wait()
				for _, item := range test.reached {
					run.Reached(item)
					synctest.Wait()
				}
				if got := r.sorted(); !slices.Equal(got, test.want) {
					t.Errorf("warmed %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestARunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		run := warm.Start(ctx, r.items(warm.Window, warm.Window))
		synctest.Wait()
		cancel()
		synctest.Wait()
		run.Reached(1)
		run.Close()
		if got := r.sorted(); !slices.Equal(got, []int{0}) {
			t.Errorf("warmed %v, want the first alone", got)
		}
	})
}
