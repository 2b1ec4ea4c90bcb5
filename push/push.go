package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

const (
	// maxCorrupt is how often data is sent again because it arrived damaged.
	maxCorrupt = 6
	// maxDeltas is after how many damaged paths the host's store is not trusted any more: no base is used.
	maxDeltas = 3
)

// PushRequest asks for the closures of paths to be made valid on a host.
type PushRequest struct {
	Roots []storepath.Path
	// RootName names the GC root that protects them there until the next push of the same name: one path component. With
	// several roots, the second is <RootName>-2, and so on. Empty sets none.
	RootName string
	// RootGroup, where it is set, is what the names of some roots on the host begin with, RootName too. Of them, those in RootKeep stay, and the others are removed.
	RootGroup string
	RootKeep  []string
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
	// Notices are what a person should know although the push has worked.
	Notices []string
}

// Push makes the closures of the request's roots valid on the host. It goes on with what is missing after a broken connection.
// Errors beside those of the connection: [*CorruptError], [*NotTrustedError], [*StoreFullError], [*AgentError], and the source's own.
func (s *Session) Push(ctx context.Context, request PushRequest) (PushResult, error) {
	graph, err := s.closures(ctx, request.Roots)
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

// closures returns the graph of what roots need. What the host has is asked of our store at the same time, so that it is known when the two are compared.
func (s *Session) closures(ctx context.Context, roots []storepath.Path) (graph *closure.Graph, err error) {
	var group sync.WaitGroup
	for _, toplevel := range s.claimed() {
		group.Go(func() { _, _ = s.c.Source.Closure(ctx, toplevel) }) // the survey asks again, and takes what is known
	}
	graph, err = s.c.Source.Closure(ctx, roots...)
	group.Wait()
	return graph, err
}

// claimed are the toplevels that the host says it has.
func (s *Session) claimed() []storepath.Path {
	host := s.Info()
	return Toplevels(host.Current, host.Profile, host.Booted, host.BootDefault)
}

func newTransfer(s *Session, request PushRequest, graph *closure.Graph) *transfer {
	return &transfer{s: s, request: request, graph: graph, damaged: map[storepath.Path]bool{}, progress: newProgress(s, request.Step)}
}

// repeat does work over as many connections as it takes, and again where a path arrived damaged for the first time, or lacks what it refers to.
func (t *transfer) repeat(ctx context.Context, work func(context.Context, *link) (bool, error)) error {
	for {
		err := t.s.resume(ctx, work)
		if t.leftOut(err) || t.unkept(err) {
			continue
		}
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
	// shipment is what is being sent, nil where that has to be found out first.
	shipment *shipment
	// need is what was missing at first, in bytes.
	need    uint64
	counted bool
	// substituting says that the host's substituters are serving what was not sent, and substituted that they have.
	substituting, substituted bool
	// substitutor is the agent that was asked to substitute last.
	substitutor agentRef
	// asksAll says that what the host is known to have is asked for, too.
	asksAll bool
	// alone says that the host could not keep what later paths were made of.
	alone bool
	// damaged are the paths that arrived damaged once.
	damaged map[storepath.Path]bool
	// units is how many units the host has received.
	units int
}

func (t *transfer) result() PushResult {
	paths, bytes := t.progress.counts()
	return PushResult{Paths: paths, NarBytes: bytes, WireBytes: t.progress.wire()}
}

// round does what is left of the push over one connection.
func (t *transfer) round(ctx context.Context, l *link) (progress bool, err error) {
	defer l.openData(ctx, t.brings())()
	before, _ := t.progress.counts()
	units := t.units
	defer func() { now, _ := t.progress.counts(); progress = now > before || t.units > units }()
	sent, err := t.goOn(ctx, l)
	for rooted := false; err == nil && !rooted; {
		if sent && !t.substituting {
			return false, t.root(ctx, l)
		}
		sent = true
		rooted, err = t.sendMissing(ctx, l)
	}
	return false, err
}

// brings says whether something has to be sent, as far as can be told from what the host says it has.
func (t *transfer) brings() bool {
	there := t.s.claimed()
	return slices.ContainsFunc(t.graph.Roots(), func(root storepath.Path) bool { return !slices.Contains(there, root) })
}

// sendMissing sends what the host lacks and nobody serves; rooted says that it lacks nothing, and has set the roots.
func (t *transfer) sendMissing(ctx context.Context, l *link) (rooted bool, err error) {
	if err := t.endSubstitution(ctx, l); err != nil {
		return false, err
	}
	asked, err := t.survey(ctx)
	if err != nil {
		return false, err
	}
	head := t.headStart(ctx, l, asked)
	defer head.giveBack()
	asked, m, rooted, err := t.missing(ctx, l, asked)
	if err != nil || rooted {
		return rooted, err
	}
	if len(m.missing) == 0 {
		return false, t.prepare(nil, 0)
	}
	missing, err := t.describe(ctx, l, asked, m)
	if err != nil {
		return false, err
	}
	if !head.isOf(missing) {
		head.giveBack()
	}
	t.shipment = newShipment(missing, l.agent, head)
	return false, t.send(ctx, l)
}

// describe finds out how to send what is missing, and returns what is sent then.
func (t *transfer) describe(ctx context.Context, l *link, asked *survey, m manifest) (*cargo, error) {
	asked, err := t.withSignatures(ctx, l, asked, m)
	if err != nil {
		return nil, err
	}
	if m, err = t.withDuplicates(ctx, l, asked, m); err != nil {
		return nil, err
	}
	missing := asked.cargo(m)
	return missing, t.prepare(missing.infos, missing.bytes)
}

// goOn goes on with what was being sent when the last connection broke, where the agent still knows of it.
func (t *transfer) goOn(ctx context.Context, l *link) (sent bool, err error) {
	if t.shipment == nil || t.shipment.agent != l.agent {
		t.shipment = nil
		return false, nil
	}
	err = t.send(ctx, l)
	if errors.Is(err, errForgotten) {
		t.shipment = nil
		return false, nil
	}
	return err == nil, err
}

// missing asks for what the host lacks, references first, in one round trip; the agent protects all of it from then on. Where that is nothing, it has also
// set the roots. The answer is to the survey that it returns.
func (t *transfer) missing(ctx context.Context, l *link, asked *survey) (answered *survey, m manifest, rooted bool, err error) {
	ahead := t.s.c.units().warmSurvey(asked)
	asked, result, err := t.askMissing(ctx, l, asked)
	ahead.Close()
	if err != nil || result.Rooted {
		return asked, m, result.Rooted, err
	}
	if t.request.Substitute && !t.substituted && len(result.Missing) > 0 {
		if result.Missing, err = t.substitute(ctx, l, asked, result.Missing); err != nil {
			return asked, m, false, err
		}
	}
	return asked, t.manifest(result.Missing, result.Refused), false, nil
}

// manifest is that of what a host lacks, as places in a survey, and of the bases that it refuses.
func (t *transfer) manifest(missing, refused []int) manifest {
	m := manifest{missing: missing, refused: refused, whole: t.damaged, plain: len(t.damaged) >= maxDeltas, alone: t.alone}
	if !t.s.Info().Trusted {
		m.signer = t.request.Signer
	}
	return m
}

// askMissing asks without the closures of what the host has said it has, and with them where it does not have it any more.
func (t *transfer) askMissing(ctx context.Context, l *link, asked *survey) (*survey, proto.MissingResult, error) {
	var result proto.MissingResult
	err := l.ask(ctx, proto.MethodMissing, asked.request(t.request.roots()), &result)
	if err == nil && result.Unknown {
		asked, result = asked.withAll(), proto.MissingResult{}
		err = l.ask(ctx, proto.MethodMissing, asked.request(t.request.roots()), &result)
	}
	if err == nil && (!places(result.Missing, len(asked.paths)) || !places(result.Refused, len(asked.bases))) {
		err = &proto.Error{Code: proto.CodeInternal, Message: "the host misses paths that it was not asked for"}
	}
	return asked, result, err
}

// substitute has the host's own substituters begin to serve what they have, and returns what they do not.
func (t *transfer) substitute(ctx context.Context, l *link, asked *survey, missing []int) ([]int, error) {
	request := proto.SubstituteRequest{Paths: make(proto.Lines, len(missing))}
	for i, place := range missing {
		request.Paths[i] = asked.paths[place].Base()
	}
	var result proto.SubstituteResult
	if err := l.ask(ctx, proto.MethodSubstitute, request, &result); err != nil {
		return nil, err
	}
	if !places(result.Served, len(missing)) {
		return nil, &proto.Error{Code: proto.CodeInternal, Message: "the host's substituters have paths that they were not asked for"}
	}
	t.substituting, t.substituted, t.substitutor = len(result.Served) > 0, true, l.agent
	left := slices.Clone(missing)
	for _, place := range slices.Backward(result.Served) {
		left = slices.Delete(left, place, place+1)
	}
	return left, nil
}

// endSubstitution waits for what the substituters serve. An agent that does not know of it is another one than before: what is missing then is found out anew.
func (t *transfer) endSubstitution(ctx context.Context, l *link) error {
	if !t.substituting {
		return nil
	}
	err := l.ask(ctx, proto.MethodSubstituted, struct{}{}, nil)
	if proto.CodeOf(err) == proto.CodeNotFound {
		t.substituted, err = t.substitutor == l.agent, nil
	}
	if err == nil {
		t.substituting = false
	}
	return err
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
	for _, lacking := range infos {
		if t.request.Signer == nil && len(lacking.Signatures) == 0 && lacking.CA == "" && !info.TrustUnknown {
			if refuse.Count++; refuse.Count == 1 {
				refuse.Path = lacking.Path
			}
		}
	}
	if refuse.Count > 0 {
		return refuse
	}
	return nil
}

// roots are the GC roots of the request.
func (r PushRequest) roots() []proto.RootRequest {
	if r.RootName == "" {
		return nil
	}
	var roots []proto.RootRequest
	for i, path := range r.Roots {
		name := r.RootName
		if i > 0 {
			name = fmt.Sprintf("%s-%d", name, i+1)
		}
		roots = append(roots, proto.RootRequest{Name: name, Path: path.String()})
	}
	if r.RootGroup != "" && len(roots) > 0 {
		last := &roots[len(roots)-1]
		last.Group, last.Keep = r.RootGroup, slices.Clone(r.RootKeep)
		for _, root := range roots {
			last.Keep = append(last.Keep, root.Name)
		}
	}
	return roots
}

// root protects what was pushed until the next push.
func (t *transfer) root(ctx context.Context, l *link) error {
	for _, root := range t.request.roots() {
		if err := l.ask(ctx, proto.MethodRoot, root, nil); err != nil {
			return err
		}
	}
	return nil
}

// leftOut reports whether a path was refused because the host lacks one that it refers to: a system that the host has may have been built there with other references
// than here, so that its closure is another one, and all paths are asked for then; or a substituter did not give what it had said it has.
func (t *transfer) leftOut(err error) bool {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok || answer.Code != proto.CodeNotFound {
		return false
	}
	if !t.substituting {
		if t.asksAll {
			return false
		}
		t.asksAll = true
	}
	t.shipment = nil
	return true
}

// unkept reports whether the host has refused to keep what later paths are made of. The rest is sent without that.
func (t *transfer) unkept(err error) bool {
	answer, ok := errors.AsType[*proto.Error](err)
	if !ok || answer.Code != proto.CodeNoSpool || t.alone {
		return false
	}
	t.alone, t.shipment = true, nil
	t.s.warn(t.request.Step, "the host cannot "+oneLine(answer.Message)+"; what several paths have is sent with each")
	return true
}

// again reports whether err is a damaged path that may be sent once more.
func (t *transfer) again(err error) (storepath.Path, bool) {
	corrupt, ok := errors.AsType[*CorruptError](err)
	if !ok || corrupt.Host == "" || t.damaged[corrupt.Path] || len(t.damaged) >= maxCorrupt {
		return storepath.Path{}, false
	}
	t.damaged[corrupt.Path] = true
	t.shipment = nil
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
