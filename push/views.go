package push

import (
	"container/list"
	"context"
	"sync"

	"fleet/closure"
	"fleet/closure/pack"
	"fleet/closure/storepath"
)

// maxViews is how many views of large paths are kept while nobody uses them. Each holds the structure of a NAR and a few open files.
const maxViews = 16

// viewCache opens the paths of a store for packers. The views of large paths are shared and kept for a while, since each of their segments is a unit, and opening one
// walks over all of its files.
type viewCache struct {
	ctx    context.Context
	source closure.Source

	mu    sync.Mutex
	views map[storepath.Path]*sharedView
	// unused are the views that are open and that nobody uses, used last first.
	unused *list.List
}

type sharedView struct {
	closure.View
	path  storepath.Path
	users int
	place *list.Element
}

func newViewCache(ctx context.Context, source closure.Source) *viewCache {
	return &viewCache{ctx: ctx, source: source, views: make(map[storepath.Path]*sharedView), unused: list.New()}
}

// Open implements [pack.Views].
func (c *viewCache) Open(path storepath.Path) (pack.View, error) {
	if view := c.known(path); view != nil {
		return &viewHandle{View: view, cache: c}, nil
	}
	opened, err := c.source.View(c.ctx, path)
	if err != nil || opened.Size() <= pack.SmallNAR {
		return opened, err
	}
	return &viewHandle{View: c.keep(path, opened), cache: c}, nil
}

// known returns a view that is open.
func (c *viewCache) known(path storepath.Path) *sharedView {
	c.mu.Lock()
	defer c.mu.Unlock()
	view := c.views[path]
	if view != nil {
		c.take(view)
	}
	return view
}

func (c *viewCache) take(view *sharedView) {
	view.users++
	if view.place != nil {
		c.unused.Remove(view.place)
		view.place = nil
	}
}

// keep makes an open view one that is shared. Where somebody else was faster, that one is used.
func (c *viewCache) keep(path storepath.Path, opened closure.View) *sharedView {
	c.mu.Lock()
	defer c.mu.Unlock()
	view := c.views[path]
	if view != nil {
		_ = opened.Close() // nothing was written
	} else {
		view = &sharedView{View: opened, path: path}
		c.views[path] = view
	}
	c.take(view)
	return view
}

func (c *viewCache) release(view *sharedView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if view.users--; view.users > 0 {
		return
	}
	view.place = c.unused.PushFront(view)
	c.trim(maxViews)
}

// close closes what nobody uses.
func (c *viewCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim(0)
}

func (c *viewCache) trim(most int) {
	for c.unused.Len() > most {
		view := c.unused.Remove(c.unused.Back()).(*sharedView)
		delete(c.views, view.path)
		_ = view.View.Close() // nothing was written
	}
}

// viewHandle is one use of a shared view.
type viewHandle struct {
	closure.View
	cache *viewCache
	once  sync.Once
}

// Close gives the view back.
func (h *viewHandle) Close() error {
	h.once.Do(func() { h.cache.release(h.View.(*sharedView)) })
	return nil
}
