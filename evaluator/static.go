package evaluator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// StaticOptions configure the static backend.
type StaticOptions struct {
	// Files are plans with records: JSON, or Jsonnet where the name ends in .jsonnet or .libsonnet. Several are merged.
	Files []string
	// Fleet names the result where Files are several; empty joins their names with a dash.
	Fleet string
	// ExtStr are what Jsonnet sees as std.extVar, as strings.
	ExtStr map[string]string
	// ImportDirs are searched by Jsonnet's imports, after the folder of the importing file. Nothing outside of them, and of each file's own folder, can be read.
	ImportDirs []string
	// Child is the command that calls [RunJsonnetChild]; it is needed for Jsonnet only.
	Child []string
	// Limits bound an evaluation of Jsonnet; zero values mean [DefaultJsonnetLimits].
	Limits JsonnetLimits
	// Valid checks that paths are valid in the store that closures are read from; nil checks that they exist in this machine's store folder.
	Valid func(ctx context.Context, paths []storepath.Path) error
	// Reporter receives what Jsonnet's std.trace prints; nil means nobody listens.
	Reporter Reporter
}

// Static is the backend that reads plans from files: it needs neither nix nor a flake, and evaluates no configuration. The closures are in the store already.
type Static struct {
	opts StaticOptions

	mu   sync.Mutex
	plan *plan.Plan
}

var _ Backend = (*Static)(nil)

// NewStatic makes the backend. It reads nothing yet.
func NewStatic(opts StaticOptions) (*Static, error) {
	if len(opts.Files) == 0 {
		return nil, errors.New("read plan: no file is given")
	}
	for _, file := range opts.Files {
		if isJsonnet(file) && len(opts.Child) == 0 {
			return nil, fmt.Errorf("read plan %q: there is no program to evaluate Jsonnet with", file)
		}
	}
	opts.Limits = opts.Limits.orDefault()
	if opts.Valid == nil {
		opts.Valid = existing
	}
	if opts.Reporter == nil {
		opts.Reporter = silent{}
	}
	return &Static{opts: opts}, nil
}

// Snapshot reads the files; later calls look at what was read then. The errors of a file are a [*StaticError].
func (s *Static) Snapshot(ctx context.Context) (Snapshot, error) {
	plans := make([]*plan.Plan, 0, len(s.opts.Files))
	names := make([]string, 0, len(s.opts.Files))
	for _, file := range s.opts.Files {
		p, err := s.load(ctx, file)
		if err != nil {
			return Snapshot{}, err
		}
		plans = append(plans, p)
		names = append(names, p.Fleet)
	}
	merged := plans[0]
	if len(plans) > 1 {
		name := s.opts.Fleet
		if name == "" {
			name = strings.Join(names, "-")
		}
		var err error
		if merged, err = plan.Merge(name, plans...); err != nil {
			return Snapshot{}, err
		}
	}
	s.mu.Lock()
	s.plan = merged
	s.mu.Unlock()
	return Snapshot{Source: strings.Join(s.opts.Files, ", ")}, nil
}

// Plan returns what the last snapshot read.
func (s *Static) Plan(context.Context, Snapshot) (*plan.Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan == nil {
		return nil, errors.New("read plan: there is no snapshot")
	}
	return s.plan, nil
}

// Records takes the records out of the plan.
func (s *Static) Records(ctx context.Context, _ Snapshot, p *plan.Plan, hosts []string, each func(RecordResult)) error {
	for _, host := range hosts {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		record, ok := p.Records[host]
		if !ok || record.System == nil {
			each(RecordResult{Host: host, Err: &StaticError{
				File: strings.Join(s.opts.Files, ", "), Reason: fmt.Sprintf("it has no record of host %q", host),
				Remedy: "print it with the record: fleet plan --json --with-records --on " + host,
			}})
			continue
		}
		each(RecordResult{Host: host, Record: record})
	}
	return nil
}

// Specs fails: a plan that was printed has no declarations of secrets.
func (s *Static) Specs(context.Context, Snapshot, *plan.Plan, []string, func(RecordResult)) error {
	return s.noSecrets()
}

// Generators fails like Specs.
func (s *Static) Generators(context.Context, Snapshot, *plan.Plan, string, []string) (map[string]Program, map[string]error, error) {
	return nil, nil, s.noSecrets()
}

// BuildPrograms fails like Specs.
func (s *Static) BuildPrograms(context.Context, string, map[string]Program) (map[string]error, error) {
	return nil, s.noSecrets()
}

func (s *Static) noSecrets() error {
	return &StaticError{
		File: strings.Join(s.opts.Files, ", "), Reason: "a static plan does not say what secrets there are",
		Remedy: "manage them from the flake: leave --plan out, or name it with --flake",
	}
}

// Helper returns the helper's store path that the plan names, after checking that it is valid.
func (s *Static) Helper(ctx context.Context, _ Snapshot, p *plan.Plan, system string) (storepath.Path, error) {
	helper, err := helperOf(p, system)
	if err != nil {
		return storepath.Path{}, err
	}
	if helper.Path == "" {
		return storepath.Path{}, &HelperError{
			System: system, Reason: "the plan has no store path for it",
			Remedy: "print the plan with its records: fleet plan --json --with-records",
		}
	}
	path, err := storepath.Parse(helper.Path)
	if err != nil {
		return storepath.Path{}, fmt.Errorf("find helper for %s: %w", system, err)
	}
	if err := s.opts.Valid(ctx, []storepath.Path{path}); err != nil {
		return storepath.Path{}, &HelperError{System: system, Reason: err.Error(), Remedy: copyRemedy(path)}
	}
	return path, nil
}

// Build checks that a host's toplevel is valid, since nothing can be built here.
func (s *Static) Build(ctx context.Context, request BuildRequest) error {
	path, err := storepath.Parse(request.System.OutPath)
	if err != nil {
		return fmt.Errorf("find system of host %q: %w", request.Host, err)
	}
	if err := s.opts.Valid(ctx, []storepath.Path{path}); err != nil {
		return &MissingError{Host: request.Host, Path: path, Err: err}
	}
	return nil
}

// MissingError says that a host's system is not in the store.
type MissingError struct {
	Host string
	Path storepath.Path
	Err  error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("find system of host %q: %v", e.Host, e.Err)
}

// Unwrap gives the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// Hint is the remedy.
func (e *MissingError) Hint() string { return copyRemedy(e.Path) }

func copyRemedy(path storepath.Path) string {
	return "copy it into the store of this machine, for example: nix copy --from STORE " + path.String()
}

// existing is the check where no store is given.
func existing(_ context.Context, paths []storepath.Path) error {
	for _, path := range paths {
		if _, err := os.Lstat(path.String()); err != nil {
			return fmt.Errorf("%s is not in the store of this machine", path)
		}
	}
	return nil
}

func isJsonnet(file string) bool {
	ext := filepath.Ext(file)
	return ext == ".jsonnet" || ext == ".libsonnet"
}

// maxPlan bounds a plan with records, in bytes: some hundred thousand hosts.
const maxPlan = 256 << 20

// load reads one file.
func (s *Static) load(ctx context.Context, file string) (*plan.Plan, error) {
	var data []byte
	var err error
	if isJsonnet(file) {
		data, err = s.evalJsonnet(ctx, file)
	} else {
		data, err = readRegular(file, maxPlan)
	}
	var failed *StaticError
	switch {
	case errors.As(err, &failed):
		return nil, err
	case err != nil:
		return nil, &StaticError{File: file, Reason: err.Error(), Err: err}
	}
	p, err := plan.Decode(data)
	if err != nil {
		failed = &StaticError{File: file, Reason: err.Error(), Err: err}
		if failed.Hint() == "" {
			failed.Remedy = "correct the file, or print the plan anew: fleet plan --json --with-records"
		}
		return nil, failed
	}
	return p, nil
}

// readRegular reads a whole file; a pipe or a device could make us wait for ever.
func readRegular(file string, limit int64) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, limit)
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return data, err
}

func (s *Static) emit(e plan.Event) {
	e.Time = time.Now()
	s.opts.Reporter.Emit(e)
}
