package push

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/closure"
	"fleet/closure/chunk"
	"fleet/closure/delta"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// signedNAR is the smallest path whose base is worth a signature, and worthAsking how much of such paths has to be missing before the host is asked for
	// anything: the names of what it holds are some hundred KiB. Both in bytes of NARs. Of a small path, name, question and answer are some 100 bytes.
	signedNAR   = chunk.MinSize
	worthAsking = 4 << 20
	// A base may be so many times as large as its path: signatures are 0.09 % of it, 0.35 % at most. maxSignedBase bounds one base, maxSigned all of a push, in bytes of
	// NARs: what is kept of a signature, and what a host can make us read.
	maxBaseRatio  = 8
	maxSignedBase = 4 << 30
	maxSigned     = 16 << 30
)

// withSignatures adds to a survey what the host holds itself: bases for paths for which our store has none, with what the paths have in common with them. What the host
// says of that is believed as little as anything; a lie costs bytes.
func (t *transfer) withSignatures(ctx context.Context, l *link, asked *survey, m manifest) (*survey, error) {
	if m.plain || len(asked.strangers) == 0 || narSizes(asked.lone(m)) < worthAsking {
		return asked, nil
	}
	signed, err := t.askSignatures(ctx, l, asked, m)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && isLost(err):
		return nil, err
	case err != nil:
		t.s.warn(t.request.Step, "the host cannot say what it has of what is new, so that is sent whole: "+oneLine(err.Error()))
	}
	return signed, nil
}

func narSizes(infos []closure.PathInfo) (size uint64) {
	for _, info := range infos {
		size += info.NarSize
	}
	return size
}

// lone are the missing paths that are worth a signature and have no base.
func (s *survey) lone(m manifest) []closure.PathInfo {
	var lone []closure.PathInfo
	for _, place := range m.missing {
		info, _ := s.graph.Info(s.paths[place])
		if _, ok := s.predecessors[info.Path]; !ok && info.NarSize >= signedNAR && !m.whole[info.Path] {
			lone = append(lone, info)
		}
	}
	return lone
}

// askSignatures returns the survey with what could be learned, also where there is an error.
func (t *transfer) askSignatures(ctx context.Context, l *link, asked *survey, m manifest) (*survey, error) {
	lone := asked.lone(m)
	var holdings proto.HoldingsResult
	if err := l.ask(ctx, proto.MethodHoldings, proto.HoldingsRequest{Toplevels: pathStrings(asked.strangers)}, &holdings); err != nil {
		return asked, err
	}
	have, err := parseHoldings(holdings.Paths)
	if err != nil {
		return asked, err
	}
	signed := asked.withHoldings(have)
	paths := signed.signable(lone)
	if narSizes(paths) < worthAsking {
		return asked, nil
	}
	c := t.s.c
	r := &signatureReader{
		source: c.Source, cuts: &c.cuts, survey: signed, paths: paths, copies: make([][]delta.Copy, len(paths)), silence: c.Timeouts.withDefaults().Answer,
	}
	err = r.read(ctx, l)
	for i, info := range paths {
		signed.foreign[info.Path] = r.copies[i]
	}
	return signed, err
}

// parseHoldings checks what a host says that it has.
func parseHoldings(lines proto.Lines) ([]closure.PathInfo, error) {
	infos := make([]closure.PathInfo, len(lines))
	for i, line := range lines {
		name, size, _ := strings.Cut(line, " ")
		var err error
		if infos[i].Path, err = storepath.ParseBase(name); err != nil {
			return nil, err
		}
		if infos[i].NarSize, err = strconv.ParseUint(size, 10, 63); err != nil {
			return nil, fmt.Errorf("%q has %.40q bytes", infos[i].Path, size)
		}
	}
	return infos, nil
}

// withHoldings is the survey with the host's own paths as predecessors, where there is no other. Nothing is known of their contents yet.
func (s *survey) withHoldings(have []closure.PathInfo) *survey {
	with := s.withAll()
	with.paths, with.predecessors = s.paths, maps.Clone(s.predecessors)
	with.foreign = make(map[storepath.Path][]delta.Copy)
	for path, base := range closure.ChooseBases(s.infos(s.paths), have) {
		if _, known := with.predecessors[path]; !known {
			with.predecessors[path], with.foreign[path] = base, nil
		}
	}
	return with
}

// signable are those of paths that have a base among the host's own of a sensible size.
func (s *survey) signable(lone []closure.PathInfo) []closure.PathInfo {
	var paths []closure.PathInfo
	left := uint64(maxSigned)
	for _, info := range lone {
		base, ok := s.predecessors[info.Path]
		if !ok || base.NarSize > maxSignedBase || base.NarSize/maxBaseRatio > info.NarSize || base.NarSize > left {
			continue
		}
		left -= base.NarSize
		paths = append(paths, info)
	}
	return paths
}

// base is what the delta of a path is made against, and what the two have in common where only the host has the base.
func (s *survey) base(path storepath.Path) (base closure.PathInfo, copies []delta.Copy, ok bool) {
	base, ok = s.predecessors[path]
	copies, foreign := s.foreign[path]
	return base, copies, ok && (!foreign || len(copies) > 0)
}

// signatureReader compares paths with what the host says of their bases.
type signatureReader struct {
	source closure.Source
	cuts   *cuts
	survey *survey
	paths  []closure.PathInfo
	// copies are what each of paths has in common with its base.
	copies [][]delta.Copy
	// silence is how long a signature may take.
	silence time.Duration
}

// request asks for the signatures of the paths' bases.
func (r *signatureReader) request() proto.SignaturesRequest {
	key := r.cuts.secret()
	request := proto.SignaturesRequest{Key: key[:]}
	places := make(map[string]int)
	for _, info := range r.paths {
		base := r.survey.predecessors[info.Path]
		line := base.Path.Base()
		refs := r.survey.refs(info, base)
		for _, from := range slices.Sorted(maps.Keys(refs)) {
			pair := from + " " + refs[from]
			place, known := places[pair]
			if !known {
				place = len(request.Pairs)
				places[pair], request.Pairs = place, append(request.Pairs, pair)
			}
			line += " " + strconv.Itoa(place)
		}
		request.Bases = append(request.Bases, line)
	}
	return request
}

// read reads the signatures as they come, and compares meanwhile.
func (r *signatureReader) read(ctx context.Context, l *link) error {
	client, err := l.data(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("ask the agent on %q for %s: %w", l.s.spec.Target.Host, proto.MethodSignatures, errTimeout)
	timer := time.AfterFunc(r.silence, func() { cancel(silent) })
	defer timer.Stop()
	stream, err := client.Open(ctx, proto.MethodSignatures, r.request())
	if err != nil {
		return err
	}
	defer stream.Cancel()
	if err := stream.CloseWrite(); err != nil && !errors.Is(err, proto.ErrEnded) {
		return err
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	defer func() { _ = group.Wait() }() // what it returns, the packer will find too
	in := bufio.NewReaderSize(stream, 64<<10)
	for i, info := range r.paths {
		timer.Reset(r.silence)
		signature, err := readSignature(in, r.survey.predecessors[info.Path])
		timer.Stop() // what follows is our own time
		if err != nil {
			return err
		}
		if signature != nil {
			group.Go(func() error {
				chunks, err := r.cuts.get(ctx, r.source, info)
				r.copies[i] = signature.Match(chunks)
				return err
			})
		}
	}
	return nil
}

// readSignature reads the signature of a base; nil where the host has none.
func readSignature(in *bufio.Reader, base closure.PathInfo) (*chunk.Signature, error) {
	kind, err := in.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case kind == proto.NoSignature:
		return nil, nil
	case kind != proto.SignatureFollows:
		return nil, fmt.Errorf("what it says of %q is no signature", base.Path)
	}
	return chunk.Read(in, int64(base.NarSize))
}
