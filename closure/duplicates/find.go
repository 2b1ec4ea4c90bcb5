// Package duplicates finds files that would be sent although their receiver has them: files that a path has twice, such as hard links, files of a path that is
// sent before, and files that have moved from a path that the receiver has under another name.
//
// What counts is contents, not names. Sizes are compared first, then a piece from the middle, then all of it: nothing is read of a file whose size no other one has. What
// is looked at and read is bounded, and only large paths and files are, since a copy of a small one saves less than it costs to find it.
package duplicates

import (
	"cmp"
	"context"
	"crypto/sha256"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"fleet/closure"
	"fleet/closure/nar"
	"fleet/closure/storepath"
)

const (
	// MinPath is the smallest path that is looked at, and MinFile the smallest file, in bytes.
	MinPath = 1 << 20
	MinFile = 64 << 10
	// maxFiles bounds the files that are compared. Each takes 24 bytes, some more where others have its size.
	maxFiles = 1 << 17
	// A receiver's paths are looked at up to so many times the size of those that are sent, or up to leastHave bytes: looking at them is one system call for each of
	// their files, and should take a small part of the time in which that would be sent.
	haveRatio = 8
	leastHave = 256 << 20
	// maxRead bounds what is read of files, in bytes: a second or two.
	maxRead = 1 << 30
	// sampleSize is the piece that is compared first, in bytes, and bufferSize that in which the rest is read.
	sampleSize = 4 << 10
	bufferSize = 256 << 10
)

// Views opens the NARs of store paths; a [closure.Source] does. Files are found in views that list them, as a [nar.View] does.
type Views interface {
	View(ctx context.Context, path storepath.Path) (closure.View, error)
}

// Request says what is compared with what.
type Request struct {
	// Sent are the paths that would be sent without a base, in the order in which they are sent.
	Sent []storepath.Info
	// Have are paths that the receiver has, those first that are the likelier to have lost files to others.
	Have []storepath.Info
	// Room is how many bytes of NARs the receiver may keep; [pack.MaxKept] at most.
	Room uint64
}

// Find plans which of the paths are made of what the receiver has or keeps. A path that cannot be read is left out: whoever packs it will say what is wrong.
// The only error is the cause of the context's end.
func Find(ctx context.Context, views Views, r Request) (*Plan, error) {
	sent := slices.Clone(r.Sent)
	f := finder{ctx: ctx, views: views, paths: sent}
	files := f.list(0, len(sent))
	if len(files) > 0 {
		f.paths = append(f.paths, f.candidates(r.Have)...)
		files = append(files, f.list(len(sent), len(f.paths))...)
	}
	bySize := make(map[int64][]file)
	for _, file := range files {
		bySize[file.size] = append(bySize[file.size], file)
	}
	classes := make([]class, 0, len(bySize))
	for _, files := range bySize {
		classes = append(classes, files)
	}
	classes = f.refine(useful(classes, len(sent)), len(sent), sample)
	classes = f.refine(within(classes, maxRead), len(sent), contents)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return choose(f.paths, len(sent), classes, r.Room), nil
}

// finder looks at paths. Those that are sent come first among paths.
type finder struct {
	ctx   context.Context
	views Views
	paths []storepath.Info
}

// file is one that is compared: where it is in the NAR of which of the paths.
type file struct {
	path     int
	at, size int64
}

// class are files that are equal as far as they were compared, sorted by path and place.
type class []file

func compareFiles(a, b file) int { return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.at, b.at)) }

// useful are the classes that save something: those of several files, of which one is sent. They are sorted, so that the plan depends on nothing else.
func useful(classes []class, sent int) []class {
	for _, c := range classes {
		slices.SortFunc(c, compareFiles)
	}
	classes = slices.DeleteFunc(classes, func(c class) bool { return len(c) < 2 || c[0].path >= sent })
	slices.SortFunc(classes, func(a, b class) int { return compareFiles(a[0], b[0]) })
	return classes
}

// within are the classes whose files have no more bytes than limit together, the largest files first.
func within(classes []class, limit int64) []class {
	slices.SortStableFunc(classes, func(a, b class) int { return cmp.Compare(b[0].size, a[0].size) })
	for i, c := range classes {
		if limit -= c[0].size * int64(len(c)); limit < 0 {
			return classes[:i]
		}
	}
	return classes
}

// candidates are those of the receiver's paths that are looked at. Files move mostly between paths of one origin, whose names begin alike: these come first.
func (f *finder) candidates(have []storepath.Info) []storepath.Info {
	total := uint64(0)
	origins := make(map[string]bool)
	for _, info := range f.paths {
		if info.NarSize >= MinPath {
			total += info.NarSize
			origins[origin(info)] = true
		}
	}
	have = slices.DeleteFunc(slices.Clone(have), func(info storepath.Info) bool { return info.NarSize < MinPath })
	rank := func(info storepath.Info) int {
		if origins[origin(info)] {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(have, func(a, b storepath.Info) int { return cmp.Compare(rank(a), rank(b)) })
	left := max(leastHave, haveRatio*total)
	for i, info := range have {
		if info.NarSize > left {
			return have[:i+1] // whatever its size, it may be the one
		}
		left -= info.NarSize
	}
	return have
}

// origin is the first word of a path's name.
func origin(info storepath.Info) string {
	word, _, _ := strings.Cut(info.Path.Name(), "-")
	return word
}

// list finds the large files of the paths from one number to another.
func (f *finder) list(from, to int) []file {
	lists := make([][]file, to-from)
	f.each(from, to, func(path int) {
		if f.paths[path].NarSize >= MinPath {
			f.open(path, func(view fileView) { lists[path-from] = listed(view, path) })
		}
	})
	var files []file
	for _, list := range lists {
		if len(files)+len(list) <= maxFiles {
			files = append(files, list...)
		}
	}
	return files
}

func listed(view fileView, path int) (files []file) {
	for found := range view.Files() {
		if found.Size >= MinFile && len(files) < maxFiles {
			files = append(files, file{path, found.Offset, found.Size})
		}
	}
	return files
}

// each calls do for the paths from one number to another, for several at once.
func (f *finder) each(from, to int, do func(path int)) {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for path := from; path < to; path++ {
		group.Go(func() error {
			if f.ctx.Err() == nil {
				do(path)
			}
			return nil
		})
	}
	_ = group.Wait() // nothing that it does returns an error
}

// fileView is a NAR that knows where its files are.
type fileView interface {
	io.ReaderAt
	Files() iter.Seq[nar.File]
}

// open calls use with the NAR of a path, unless that cannot be read, or is not what the store says.
func (f *finder) open(path int, use func(fileView)) {
	view, err := f.views.View(f.ctx, f.paths[path].Path)
	if err != nil {
		return
	}
	defer view.Close() // nothing was written
	if files, ok := view.(fileView); ok && uint64(view.Size()) == f.paths[path].NarSize {
		use(files)
	}
}

type digest = [sha256.Size]byte

// refine parts classes by what digest says of their files, and leaves out files that cannot be read.
func (f *finder) refine(classes []class, sent int, digestOf func(context.Context, io.ReaderAt, file) (digest, error)) []class {
	type member struct {
		file
		class int
		sum   digest
		known bool
	}
	byPath := make([][]member, len(f.paths))
	for i, c := range classes {
		for _, file := range c {
			byPath[file.path] = append(byPath[file.path], member{file: file, class: i})
		}
	}
	f.each(0, len(f.paths), func(path int) {
		if len(byPath[path]) == 0 {
			return
		}
		f.open(path, func(view fileView) {
			for i := range byPath[path] {
				m := &byPath[path][i]
				sum, err := digestOf(f.ctx, view, m.file)
				m.sum, m.known = sum, err == nil
			}
		})
	})
	type key struct {
		class int
		sum   digest
	}
	parts := make(map[key]class)
	for _, members := range byPath {
		for _, m := range members {
			if k := (key{m.class, m.sum}); m.known {
				parts[k] = append(parts[k], m.file)
			}
		}
	}
	refined := make([]class, 0, len(parts))
	for _, c := range parts {
		refined = append(refined, c)
	}
	return useful(refined, sent)
}

// sample is the digest of a piece from the middle of a file, where headers do not make all files of a kind alike.
func sample(ctx context.Context, view io.ReaderAt, f file) (digest, error) {
	return contents(ctx, view, file{at: f.at + f.size/2, size: min(sampleSize, f.size-f.size/2)})
}

// contents is the digest of all of a file.
func contents(ctx context.Context, view io.ReaderAt, f file) (sum digest, err error) {
	hash := sha256.New()
	buffer := make([]byte, min(bufferSize, f.size))
	for off := int64(0); off < f.size; off += int64(len(buffer)) {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		buffer = buffer[:min(int64(len(buffer)), f.size-off)]
		if n, err := view.ReadAt(buffer, f.at+off); n < len(buffer) {
			return sum, err
		}
		_, _ = hash.Write(buffer) // a hash takes everything
	}
	return digest(hash.Sum(nil)), nil
}
