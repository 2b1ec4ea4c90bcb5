package secretsgen

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"fleet/secretsgen/secret"
)

// programs builds generators' programs once each. It is safe for concurrent use.
type programs struct {
	build Programs
	mu    sync.Mutex
	built map[programKey]program
}

type programKey struct {
	system string
	id     secret.ID
}

type program struct {
	path string
	err  error
}

func newPrograms(build Programs) *programs {
	return &programs{build: build, built: map[programKey]program{}}
}

// prepare builds many at once; what becomes of each is what [programs.get] returns.
func (p *programs) prepare(ctx context.Context, system string, ids []secret.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(ctx, system, ids)
}

// get returns the program of a secret for a system, and builds it if need be.
func (p *programs) get(ctx context.Context, system string, id secret.ID) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.built[programKey{system, id}]; !ok {
		p.fill(ctx, system, []secret.ID{id})
	}
	one, ok := p.built[programKey{system, id}]
	if !ok {
		return "", context.Cause(ctx)
	}
	return one.path, one.err
}

func (p *programs) fill(ctx context.Context, system string, ids []secret.ID) {
	if len(ids) == 0 {
		return
	}
	var paths map[secret.ID]string
	var failed map[secret.ID]error
	err := errors.New("nothing here builds programs of generators")
	if p.build != nil {
		paths, failed, err = p.build.Build(ctx, system, ids)
	}
	if ctx.Err() != nil {
		return
	}
	for _, id := range ids {
		one := program{path: paths[id], err: failed[id]}
		switch {
		case err != nil:
			one = program{err: fmt.Errorf("build the generator of %s: %w", id, err)}
		case one.err != nil: // it says whose generator it is
			one = program{err: one.err}
		case one.path == "":
			one.err = fmt.Errorf("build the generator of %s: nothing came back", id)
		}
		p.built[programKey{system, id}] = one
	}
}
