package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"fleet/closure"
	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
)

// BuildRequest asks a host to build.
type BuildRequest struct {
	Drv storepath.Path
	// Out is the output that the caller needs; the zero Path takes the first.
	Out storepath.Path
	// Substitute lets the host's own substituters serve the derivation's inputs.
	Substitute bool
	// Signer is as in [PushRequest].
	Signer *closure.SigningKey
	// Log is called with every line of Nix's internal-json log, free of escape codes, by one goroutine; nil drops them.
	Log func(line string)
}

// Build sends a derivation with all that it needs to the host, has it built there, and returns the output's path. The host protects
// it from garbage collection until the session ends. A build that fails is a [*BuildError]. After a broken connection the build is asked for again, and
// goes on with the derivations that were not finished.
func (s *Session) Build(ctx context.Context, request BuildRequest) (storepath.Path, error) {
	graph, err := s.c.Source.Closure(ctx, request.Drv)
	if err != nil {
		return storepath.Path{}, err
	}
	push := PushRequest{Roots: []storepath.Path{request.Drv}, Substitute: request.Substitute, Signer: request.Signer, Step: plan.StepBuild}
	t := newTransfer(s, push, graph)
	var result proto.BuildResult
	err = t.repeat(ctx, func(ctx context.Context, l *link) (bool, error) {
		progress, err := t.round(ctx, l)
		if err != nil {
			return progress, err
		}
		said, err := build(ctx, l, request, &result)
		return progress || said, err
	})
	if answer, ok := errors.AsType[*proto.Error](err); ok && answer.Code == proto.CodeBuildFailed {
		return storepath.Path{}, &BuildError{Host: s.spec.Target.Host, Drv: request.Drv, Reason: oneLine(answer.Message)}
	}
	if err != nil {
		return storepath.Path{}, t.explain(err)
	}
	return chooseOutput(s.spec.Target.Host, request, result.Outputs)
}

// build runs the build over one connection and reports whether it has said anything.
func build(ctx context.Context, l *link, request BuildRequest, result *proto.BuildResult) (bool, error) {
	client, err := l.data(ctx)
	if err != nil {
		return false, err
	}
	stream, err := client.Open(ctx, proto.MethodBuild, proto.BuildRequest{Drv: request.Drv.String()})
	if err != nil {
		return false, err
	}
	defer stream.Cancel()
	if err := stream.CloseWrite(); err != nil && !errors.Is(err, proto.ErrEnded) {
		return false, err
	}
	said := false
	lines := run.NewLineWriter(func(line string) {
		said = true
		if request.Log != nil {
			request.Log(line)
		}
	})
	if _, err := io.Copy(lines, stream); err != nil {
		return said, err
	}
	lines.Flush()
	return said, stream.Result(result)
}

// chooseOutput checks what the host says that it has built.
func chooseOutput(host string, request BuildRequest, outputs []string) (storepath.Path, error) {
	var paths []storepath.Path
	for _, text := range outputs {
		path, err := storepath.Parse(text)
		if err != nil {
			return storepath.Path{}, fmt.Errorf("build %q on %q: %w", request.Drv, host, err)
		}
		paths = append(paths, path)
	}
	switch {
	case len(paths) == 0:
		return storepath.Path{}, fmt.Errorf("build %q on %q: the host names no output", request.Drv, host)
	case request.Out.IsZero():
		return paths[0], nil
	case !slices.Contains(paths, request.Out):
		return storepath.Path{}, fmt.Errorf("build %q on %q: the host has built %q, not %q", request.Drv, host, paths, request.Out)
	}
	return request.Out, nil
}
