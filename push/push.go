package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// maxCorrupt is how often a push is repeated because data arrived damaged.
const maxCorrupt = 3

// PushRequest asks for the closures of paths to be made valid on a host.
type PushRequest struct {
	Roots []storepath.Path
	// RootName names the GC root that protects them there until the next push of the same name: one path component. With
	// several roots, the second is <RootName>-2, and so on. Empty sets none.
	RootName string
	// Substitute lets the host's own substituters serve first.
	Substitute bool
	// Signer signs what the host would otherwise refuse; nil where no key is configured.
	Signer *closure.SigningKey
	// Step is what progress is reported as; empty means push.
	Step plan.Step
}

// PushResult is what a push moved.
type PushResult struct {
	// Paths and NarBytes are what we sent and the host has acknowledged, not what was there already or substituted.
	Paths, NarBytes uint64
	// WireBytes is what went through the session's channels meanwhile, in both directions, without SSH's own part.
	WireBytes uint64
}

// Push makes the closures of the request's roots valid on the host. It goes on with what is missing after a broken connection.
// Errors beside those of the connection: [*CorruptError], [*NotTrustedError], [*StoreFullError], [*AgentError], and the source's own.
func (s *Session) Push(ctx context.Context, request PushRequest) (PushResult, error) {
	graph, err := s.c.Source.Closure(ctx, request.Roots...)
	if err != nil {
		return PushResult{}, err
	}
	if request.Step == "" {
		request.Step = plan.StepPush
	}
	t := newTransfer(s, request, graph)
	err = t.repeat(ctx, t.round)
	return t.result(), t.explain(err)
}

func newTransfer(s *Session, request PushRequest, graph *closure.Graph) *transfer {
	return &transfer{
		s: s, request: request, graph: graph, damaged: map[storepath.Path]bool{}, progress: newProgress(s, request.Step),
	}
}

// repeat does work over as many connections as it takes, and again where a path arrived damaged for the first time.
func (t *transfer) repeat(ctx context.Context, work func(context.Context, *link) (bool, error)) error {
	for {
		err := t.s.resume(ctx, work)
		path, again := t.again(err)
		if !again {
			return err
		}
		t.s.warn(t.request.Step, fmt.Sprintf("%s arrived damaged, sending it again", path))
	}
}

// transfer is one push across connections.
type transfer struct {
	s        *Session
	request  PushRequest
	graph    *closure.Graph
	progress *progress
	// need is what was missing at first, in bytes.
	need        uint64
	counted     bool
	substituted bool
	// damaged are the paths that arrived damaged once.
	damaged map[storepath.Path]bool
}

func (t *transfer) result() PushResult {
	paths, bytes := t.progress.counts()
	return PushResult{Paths: paths, NarBytes: bytes, WireBytes: t.progress.wire()}
}

// round does what is left of the push over one connection.
func (t *transfer) round(ctx context.Context, l *link) (progress bool, err error) {
	before, _ := t.progress.counts()
	defer func() { now, _ := t.progress.counts(); progress = now > before }()
	infos, err := t.missing(ctx, l)
	if err != nil {
		return false, err
	}
	if len(infos) > 0 {
		if err := t.send(ctx, l, infos); err != nil {
			return false, err
		}
	}
	return false, t.root(ctx, l)
}

// missing asks for what the host lacks, references first, in one round trip; the agent protects all of it from then on.
func (t *transfer) missing(ctx context.Context, l *link) ([]closure.PathInfo, error) {
	order := t.graph.Topological()
	var names proto.Lines
	for _, path := range order {
		names = append(names, path.Base())
	}
	var result proto.MissingResult
	if err := l.ask(ctx, proto.MethodMissing, proto.MissingRequest{Paths: names}, &result); err != nil {
		return nil, err
	}
	missing := make(map[string]bool, len(result.Missing))
	for _, place := range result.Missing {
		if place < 0 || place >= len(order) {
			return nil, &proto.Error{Code: proto.CodeInternal, Message: "the host misses paths that it was not asked for"}
		}
		missing[order[place].String()] = true
	}
	if t.request.Substitute && !t.substituted && len(missing) > 0 {
		left := proto.SubstituteResult{}
		if err := l.ask(ctx, proto.MethodSubstitute, proto.SubstituteRequest{Paths: slices.Sorted(maps.Keys(missing))}, &left); err != nil {
			return nil, err
		}
		t.substituted = true
		clear(missing)
		for _, name := range left.Missing {
			missing[name] = true
		}
	}
	var infos []closure.PathInfo
	var size uint64
	for _, path := range order {
		if name := path.String(); missing[name] {
			info, _ := t.graph.Info(path)
			infos = append(infos, info)
			size += info.NarSize
			delete(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, &proto.Error{Code: proto.CodeInternal, Message: "the host misses paths that it was not asked for"}
	}
	return infos, t.prepare(infos, size)
}

// prepare checks, before anything is sent, that the host will take it.
func (t *transfer) prepare(infos []closure.PathInfo, size uint64) error {
	if !t.counted {
		t.counted, t.need = true, size
	}
	t.progress.expect(uint64(len(infos)), size)
	info := t.s.Info()
	if len(infos) > 0 && size > info.StoreFree && info.StoreFree > 0 {
		t.s.warn(t.request.Step, fmt.Sprintf("%s are to be imported, the store's file system has %s free", formatBytes(size), formatBytes(info.StoreFree)))
	}
	if info.Trusted {
		return nil
	}
	// A daemon that does not tell whom it trusts answers at the first path.
	refuse := &NotTrustedError{Host: t.s.spec.Target.Host, User: t.s.user()}
	for i := range infos {
		if t.request.Signer != nil {
			// The graph shares its slices with other pushes.
			infos[i].Signatures = append(slices.Clone(infos[i].Signatures), t.request.Signer.Sign(infos[i]))
		} else if len(infos[i].Signatures) == 0 && infos[i].CA == "" && !info.TrustUnknown {
			if refuse.Count++; refuse.Count == 1 {
				refuse.Path = infos[i].Path
			}
		}
	}
	if refuse.Count > 0 {
		return refuse
	}
	return nil
}

// root protects what was pushed until the next push.
func (t *transfer) root(ctx context.Context, l *link) error {
	if t.request.RootName == "" {
		return nil
	}
	for i, path := range t.request.Roots {
		name := t.request.RootName
		if i > 0 {
			name = fmt.Sprintf("%s-%d", name, i+1)
		}
		if err := l.ask(ctx, proto.MethodRoot, proto.RootRequest{Name: name, Path: path.String()}, nil); err != nil {
			return err
		}
	}
	return nil
}

// again reports whether err is a damaged path that may be sent once more.
func (t *transfer) again(err error) (storepath.Path, bool) {
	corrupt, ok := errors.AsType[*CorruptError](err)
	if !ok || corrupt.Host == "" || t.damaged[corrupt.Path] || len(t.damaged) >= maxCorrupt {
		return storepath.Path{}, false
	}
	t.damaged[corrupt.Path] = true
	return corrupt.Path, true
}

// explain makes an agent's error into the type that says what to do.
func (t *transfer) explain(err error) error {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok {
		return err
	}
	host := t.s.spec.Target.Host
	switch answer.Code {
	case proto.CodeStoreFull:
		return &StoreFullError{Host: host, Need: t.need, Free: t.s.Info().StoreFree, Reason: oneLine(answer.Message)}
	case proto.CodeNotTrusted:
		e := &NotTrustedError{Host: host, User: t.s.user(), Path: errorPath(answer), Count: 1}
		if t.request.Signer != nil {
			e.Key = t.request.Signer.PublicKey().String()
		}
		return e
	}
	return t.s.answer(proto.MethodImport, err)
}

// errorPath is the path that an agent's error concerns, the zero Path where it names none.
func errorPath(answer *proto.Error) storepath.Path {
	var data proto.PathData
	if json.Unmarshal(answer.Data, &data) != nil {
		return storepath.Path{}
	}
	// A path that does not parse is as good as none.
	path, _ := storepath.Parse(data.Path)
	return path
}
