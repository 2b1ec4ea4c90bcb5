package push

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/push/transport"
)

//go:embed script/upload.sh
var uploadScript string

// maxExport bounds a helper's closure, in bytes: the helper is one static file of a few megabytes.
const maxExport = 512 << 20

// gzipLevel is where a first connection is not kept waiting for the compression: three times as fast as gzip's own default, for a tenth more bytes.
const gzipLevel = 3

// export is a helper's closure in the form that `nix-store --import` takes.
type export struct {
	// size and sum (SHA-256, hexadecimal) are of the plain form.
	size int64
	sum  string
	// packed is the gzip form, since every host can be expected to unpack that.
	packed []byte
	// solo says that it holds one path alone.
	solo bool
}

// exportCache makes each helper's export once, however many hosts need it.
type exportCache struct {
	mu    sync.Mutex
	known map[storepath.Path]*export
}

func (x *exportCache) get(ctx context.Context, source closure.Source, helper storepath.Path) (*export, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.known[helper]; e != nil {
		return e, nil
	}
	e, err := makeExport(ctx, source, helper)
	if err != nil {
		return nil, fmt.Errorf("export helper %q: %w", helper, err)
	}
	if x.known == nil {
		x.known = map[storepath.Path]*export{}
	}
	x.known[helper] = e
	return e, nil
}

func makeExport(ctx context.Context, source closure.Source, helper storepath.Path) (*export, error) {
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzipLevel)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	count := &countingWriter{w: io.MultiWriter(zip, sum), limit: maxExport}
	graph, err := source.Closure(ctx, helper)
	if err != nil {
		return nil, err
	}
	if err := closure.WriteExport(ctx, count, source, graph); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return &export{size: count.n, sum: hex.EncodeToString(sum.Sum(nil)), packed: packed.Bytes(), solo: graph.Len() == 1}, nil
}

// upload is a helper's export on a host. Its folder is there until the channel is closed.
type upload struct {
	ch     transport.Channel
	dir    string
	export *export
}

// close lets the host remove the folder. It may be called on nil and more than once.
func (u *upload) close() {
	if u != nil {
		_ = u.ch.Close() // the host removes the folder at whatever end
	}
}

// send brings the helper's export into a fresh folder of the login user.
func (b *bootstrap) send(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.c.Timeouts.withDefaults().Upload, errTimeout)
	defer cancel()
	e, err := b.c.exports.get(ctx, b.c.Source, b.helper)
	if err != nil {
		return err
	}
	var body io.Reader = bytes.NewReader(e.packed)
	wire, how := int64(len(e.packed)), "gzip"
	if b.found.Tools["gzip"] == "" {
		if body, err = gzip.NewReader(body); err != nil {
			return err
		}
		wire, how = e.size, "cat"
	}
	b.progress("sending the helper (%s)", formatBytes(uint64(wire)))
	marker := randomName("fleet-")
	command := transport.Quote("/bin/sh", "-c", compact(uploadScript), "fleet", marker,
		strconv.FormatInt(wire, 10), strconv.FormatInt(e.size, 10), how)
	ch, err := b.conn.Start(ctx, command, transport.ChannelOptions{})
	if err != nil {
		return err
	}
	dir, err := b.receive(ctx, ch, marker, body)
	if err != nil {
		ch.Close() // the first error counts
		return err
	}
	b.upload = &upload{ch: ch, dir: dir, export: e}
	return nil
}

// receive writes body to the upload's channel and returns the folder that the host made for it.
func (b *bootstrap) receive(ctx context.Context, ch transport.Channel, marker string, body io.Reader) (string, error) {
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	errs := drain(ch.Stderr())
	go func() {
		// Where the host stops reading, its answer or the end of its output says why.
		_, _ = io.Copy(ch, body)
	}()
	lines := bufio.NewScanner(io.LimitReader(ch, maxProbe))
	for lines.Scan() {
		rest, ours := strings.CutPrefix(strings.TrimSuffix(lines.Text(), "\r"), marker+" ")
		if !ours {
			continue
		}
		if dir, ok := strings.CutPrefix(rest, "dir="); ok && isPlainPath(dir) {
			return dir, nil
		}
		return "", &BootstrapError{Host: b.host(), Reason: "the host did not take the helper (" + oneLine(rest) + ")", Output: errs(), Unable: rest == "error=mktemp"}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	var exit *transport.ExitError
	if err := ch.Wait(); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return "", &BootstrapError{Host: b.host(), Reason: "the host did not take the helper", Output: errs()}
}

// countingWriter counts what passes, up to a limit.
type countingWriter struct {
	w        io.Writer
	n, limit int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if c.n+int64(len(p)) > c.limit {
		return 0, fmt.Errorf("more than %d bytes", c.limit)
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
