package evaluator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// maxNames bounds the generators that are asked for in one step of a process.
const maxNames = 50

// Generators evaluates programs in the pool of [Nix.Records]. A failure among several is looked for one by one.
func (n *Nix) Generators(ctx context.Context, s Snapshot, p *plan.Plan, system string, ids []string) (map[string]Program, map[string]error, error) {
	all, failed, sets := map[string]Program{}, map[string]error{}, map[string]generatorSet{}
	for _, id := range ids {
		set, name, err := n.generatorSet(p, cmp.Or(system, n.opts.System), id)
		if err != nil {
			failed[id] = fmt.Errorf("evaluate the generator of %q: %w", id, err)
			continue
		}
		set.names = append(sets[set.prefix].names, name)
		sets[set.prefix] = set
	}
	var jobs []job
	for _, prefix := range slices.Sorted(maps.Keys(sets)) {
		names := slices.Compact(slices.Sorted(slices.Values(sets[prefix].names)))
		for some := range slices.Chunk(names, maxNames) {
			jobs = append(jobs, sets[prefix].job(some))
		}
	}
	for len(jobs) > 0 {
		var mu sync.Mutex
		var again []job
		err := n.do(ctx, s, jobs, func(r jobResult) {
			mu.Lock()
			defer mu.Unlock()
			set := sets[r.job.prefix()]
			switch {
			case r.err == nil:
				for name, program := range r.programs {
					all[set.prefix+name] = program
				}
			case len(r.job.names) == 1:
				id := set.prefix + r.job.names[0]
				failed[id] = fmt.Errorf("evaluate the generator of %q: %w", id, r.err)
			default:
				for _, name := range r.job.names {
					again = append(again, set.job([]string{name}))
				}
			}
		})
		if err != nil {
			return nil, nil, err
		}
		jobs = again
	}
	return all, failed, nil
}

// generatorSet is where generators of one host, or the shared ones, are found.
type generatorSet struct {
	// prefix makes an id of a name.
	prefix string
	host   string
	// path is below fleetConfigurations.
	path  []string
	names []string
}

func (n *Nix) generatorSet(p *plan.Plan, system, id string) (generatorSet, string, error) {
	if name, shared := strings.CutPrefix(id, "shared/"); shared {
		return generatorSet{prefix: "shared/", path: []string{n.opts.Fleet, "generators", system, "shared"}}, name, nil
	}
	host, name, ok := strings.Cut(strings.TrimPrefix(id, "host/"), "/")
	if !ok || !strings.HasPrefix(id, "host/") {
		return generatorSet{}, "", errors.New(`it must be "shared/NAME" or "host/HOST/NAME"`)
	}
	record, err := recordPath(p, host)
	if err != nil {
		return generatorSet{}, "", err
	}
	path := append(slices.Clone(record[:len(record)-1]), "generators", system)
	return generatorSet{prefix: "host/" + host + "/", host: host, path: path}, name, nil
}

// job asks for some of the set.
func (g generatorSet) job(names []string) job {
	var quoted strings.Builder
	for _, name := range names {
		quoted.WriteString(" " + nixString(name))
	}
	return job{host: g.host, names: names, ask: `fleets: { first = { }; rest = builtins.mapAttrs (_: g: { inherit (g) drvPath program; }) { inherit (` +
		attribute(g.path) + `)` + quoted.String() + `; }; }`}
}

// prefix makes an id of one of the job's names.
func (j job) prefix() string {
	if j.host == "" {
		return "shared/"
	}
	return "host/" + j.host + "/"
}

// decodePrograms reads what a job about generators gave, strictly: it is a program of each name, and lies where its derivation puts things.
func decodePrograms(names []string, text []byte) (map[string]Program, error) {
	var programs map[string]Program
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&programs); err != nil {
		return nil, fmt.Errorf("read the generators that nix printed: %w", err)
	}
	for _, name := range names {
		if err := programs[name].check(); err != nil {
			return nil, fmt.Errorf("read generator %q that nix printed: %w", name, err)
		}
	}
	if len(programs) != len(names) {
		return nil, fmt.Errorf("read the generators that nix printed: there are %d, not %d", len(programs), len(names))
	}
	return programs, nil
}

func (p Program) check() error {
	if drv, err := storepath.Parse(p.DrvPath); err != nil || !drv.IsDerivation() {
		return fmt.Errorf("%q is no derivation", p.DrvPath)
	}
	if _, err := storepath.Containing(p.Program); err != nil || filepath.Clean(p.Program) != p.Program {
		return fmt.Errorf("%q is no program in the store", p.Program)
	}
	return nil
}

// BuildPrograms realises all programs in one process, and one by one where that fails, so that each error is about its own program.
func (n *Nix) BuildPrograms(ctx context.Context, fleet string, programs map[string]Program) (map[string]error, error) {
	ids := map[string][]string{}
	for id, p := range programs {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("build the generator of %q: %w", id, err)
		}
		ids[p.DrvPath] = append(ids[p.DrvPath], id)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	n.cleanPrograms(fleet)
	drvs := slices.Sorted(maps.Keys(ids))
	failed := map[string]error{}
	err := n.buildProgramSet(ctx, fleet, drvs)
	if _, ok := errors.AsType[*BuildError](err); ok {
		failed, err = n.buildEach(ctx, fleet, drvs)
	}
	if err != nil {
		return nil, err
	}
	errs := map[string]error{}
	for id, p := range programs {
		err := failed[p.DrvPath]
		if err == nil {
			err = p.made()
		}
		if err != nil {
			errs[id] = fmt.Errorf("build the generator of %q: %w", id, err)
		}
	}
	return errs, nil
}

// made says why there is no program although its derivation was built.
func (p Program) made() error {
	if info, err := os.Stat(p.Program); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s did not make the program %s", p.DrvPath, p.Program)
	}
	return nil
}

// buildEach realises derivations one by one and returns why some fail.
func (n *Nix) buildEach(ctx context.Context, fleet string, drvs []string) (map[string]error, error) {
	var mu sync.Mutex
	failed := map[string]error{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(n.opts.Builds)
	for _, drv := range drvs {
		group.Go(func() error {
			err := n.buildProgramSet(ctx, fleet, []string{drv})
			if _, ok := errors.AsType[*BuildError](err); !ok {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			failed[drv] = err
			return nil
		})
	}
	return failed, group.Wait()
}

// programRoot begins the names of the links that protect generators.
const programRoot = ".generators-"

// buildProgramSet realises derivations. With several, nix-store makes a link for each, and numbers them.
func (n *Nix) buildProgramSet(ctx context.Context, fleet string, drvs []string) error {
	sum := sha256.Sum256([]byte(strings.Join(drvs, "\n")))
	root, err := n.root(fleet, programRoot+hex.EncodeToString(sum[:8]))
	if err != nil {
		return err
	}
	if err := n.builds.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer n.builds.Release(1)
	return n.runRealise(ctx, realisation{step: plan.StepSecrets, drv: drvs[0], root: root}, drvs)
}

// cleanPrograms removes links to generators of long ago. What cannot be removed harms nobody.
func (n *Nix) cleanPrograms(fleet string) {
	const age = 30 * 24 * time.Hour
	dir := filepath.Join(n.opts.StateDir, "gcroots", fleet)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasPrefix(entry.Name(), programRoot) && info.Mode().Type() == fs.ModeSymlink && time.Since(info.ModTime()) > age {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}
