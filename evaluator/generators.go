package evaluator

import (
	"bytes"
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

// GeneratorError says that a secret's generator cannot be had.
type GeneratorError struct {
	// ID is the secret's.
	ID  string
	Err error
}

func (e *GeneratorError) Error() string {
	return fmt.Sprintf("evaluate the generator of %s: %v", e.ID, e.Err)
}

// Unwrap gives the cause.
func (e *GeneratorError) Unwrap() error { return e.Err }

// maxNames bounds the generators that are asked for in one step of a process.
const maxNames = 50

// Generators evaluates programs in the pool of [Nix.Records]. A failure among several is looked for one by one.
func (n *Nix) Generators(ctx context.Context, s Snapshot, p *plan.Plan, system string, ids []string) (map[string]Program, error) {
	all := map[string]Program{}
	var failed []error
	sets := map[string]generatorSet{}
	for _, id := range ids {
		set, name, err := n.generatorSet(p, system, id)
		if err != nil {
			failed = append(failed, &GeneratorError{ID: id, Err: err})
			continue
		}
		set.names = append(sets[set.prefix].names, name)
		sets[set.prefix] = set
	}
	var jobs []job
	for _, prefix := range slices.Sorted(maps.Keys(sets)) {
		for names := range slices.Chunk(slices.Sorted(slices.Values(sets[prefix].names)), maxNames) {
			jobs = append(jobs, sets[prefix].job(slices.Compact(names)))
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
				failed = append(failed, &GeneratorError{ID: set.prefix + r.job.names[0], Err: r.err})
			default:
				for _, name := range r.job.names {
					again = append(again, set.job([]string{name}))
				}
			}
		})
		if err != nil {
			return nil, err
		}
		jobs = again
	}
	return all, errors.Join(failed...)
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
func (n *Nix) BuildPrograms(ctx context.Context, fleet string, programs []Program) error {
	var drvs []string
	for _, p := range programs {
		if err := p.check(); err != nil {
			return fmt.Errorf("build generators: %w", err)
		}
		drvs = append(drvs, p.DrvPath)
	}
	slices.Sort(drvs)
	drvs = slices.Compact(drvs)
	if len(drvs) == 0 {
		return nil
	}
	n.cleanPrograms(fleet)
	err := n.buildProgramSet(ctx, fleet, drvs)
	if _, failed := errors.AsType[*BuildError](err); failed && len(drvs) > 1 {
		err = n.buildEach(ctx, fleet, drvs)
	}
	if err != nil {
		return err
	}
	for _, p := range programs {
		if info, err := os.Stat(p.Program); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			return fmt.Errorf("build generator: %s did not make the program %s", p.DrvPath, p.Program)
		}
	}
	return nil
}

func (n *Nix) buildEach(ctx context.Context, fleet string, drvs []string) error {
	errs := make([]error, len(drvs))
	var group errgroup.Group
	group.SetLimit(n.opts.Builds)
	for i, drv := range drvs {
		group.Go(func() error {
			errs[i] = n.buildProgramSet(ctx, fleet, []string{drv})
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(errs...)
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
