package evaluator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
)

// metadata is the part of nix flake metadata --json that is used; it is the same from 2.8 to 2.26.
type metadata struct {
	// URL is the locked reference, with a revision where there is one.
	URL string `json:"url"`
	// Path is the store path of the source.
	Path   string `json:"path"`
	Locked struct {
		Type         string `json:"type"`
		URL          string `json:"url"`
		Dir          string `json:"dir"`
		Rev          string `json:"rev"`
		NarHash      string `json:"narHash"`
		LastModified int64  `json:"lastModified"`
	} `json:"locked"`
}

// Snapshot locks the flake: a clean work tree, or a remote flake, to its revision; everything else to the
// copy of it that nix put into the store. What changes afterwards is not seen by later calls.
func (n *Nix) Snapshot(ctx context.Context) (Snapshot, error) {
	if err := n.checkVersion(ctx); err != nil {
		return Snapshot{}, err
	}
	ref := n.opts.Flake
	local := ref == ""
	if local {
		dir, err := FindFlake(n.opts.Dir)
		if err != nil {
			return Snapshot{}, err
		}
		ref = dir
	}
	if strings.Contains(ref, "#") {
		return Snapshot{}, &FragmentError{Ref: ref}
	}
	if isPath(ref) {
		if _, err := FindFlake(inDir(n.opts.Dir, ref)); err != nil {
			return Snapshot{}, err
		}
	}
	m, err := n.metadata(ctx, ref)
	if err != nil {
		return Snapshot{}, err
	}
	if local && n.firstSnapshot() {
		if err := n.checkApp(ref, m); err != nil {
			return Snapshot{}, err
		}
	}
	s := Snapshot{Ref: n.reference(m), Source: describe(ref, m)}
	n.mu.Lock()
	n.sources[s.Ref] = m.Path
	n.mu.Unlock()
	n.warnUntracked(ctx, m)
	return s, nil
}

// isPath says whether a reference is a plain path of this machine, which nix tells by its start.
func isPath(ref string) bool {
	return (ref == "." || ref == ".." || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")) && !strings.Contains(ref, "?")
}

// inDir is a path as seen from dir.
func inDir(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

func (n *Nix) metadata(ctx context.Context, ref string) (metadata, error) {
	var m metadata
	argv := append([]string{"nix", "flake", "metadata", "--json"}, n.common()...)
	argv = append(append(argv, n.flakeArgs()...), "--", ref)
	out, err := n.output(ctx, call{step: plan.StepPlan, argv: argv})
	if err != nil {
		return m, fmt.Errorf("lock flake %q: %w", ref, err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return m, fmt.Errorf("lock flake %q: read what nix printed: %w", ref, err)
	}
	if _, err := storepath.Parse(m.Path); err != nil {
		return m, fmt.Errorf("lock flake %q: read what nix printed: %w", ref, err)
	}
	return m, nil
}

// locked says whether the URL can only ever mean one source. A tarball is locked by its hash, which the URL has; a path
// only looks locked, since its contents can change.
func (m *metadata) locked() bool {
	return m.Locked.Rev != "" && m.Locked.Type != "path" || m.Locked.Type == "tarball" && m.Locked.NarHash != ""
}

// reference is what later calls give to nix.
func (n *Nix) reference(m metadata) string {
	if m.locked() {
		return m.URL
	}
	n.mu.Lock()
	old := !n.version.atLeast(2, 18)
	n.mu.Unlock()
	if old && m.Locked.Dir != "" {
		// Seen with 2.8: "path URL … has unsupported parameter 'dir'".
		n.emit(plan.Event{
			Step: plan.StepPlan, Kind: plan.EventWarning,
			Message: "this version of nix cannot hold on to uncommitted changes of a flake in the folder " + m.Locked.Dir + " of a repository; do not edit it while this runs",
			Hint:    "commit the changes, or install a newer Nix",
		})
		return m.URL
	}
	query := []string{}
	if m.Locked.Dir != "" {
		query = append(query, "dir="+url.QueryEscape(m.Locked.Dir))
	}
	if m.Locked.LastModified > 0 {
		query = append(query, "lastModified="+strconv.FormatInt(m.Locked.LastModified, 10))
	}
	if m.Locked.NarHash != "" {
		query = append(query, "narHash="+url.QueryEscape(m.Locked.NarHash))
	}
	if len(query) == 0 {
		return "path:" + m.Path
	}
	return "path:" + m.Path + "?" + strings.Join(query, "&")
}

// describe names the snapshot for a person.
func describe(ref string, m metadata) string {
	switch {
	case m.Locked.Rev != "":
		return ref + " at " + m.Locked.Rev[:min(len(m.Locked.Rev), 8)]
	case m.Locked.Type == "git":
		return ref + " with uncommitted changes"
	}
	return ref
}

func (n *Nix) firstSnapshot() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.sources) == 0
}

// checkApp compares the flake that the program came from with the one that was found, by their contents: both are store paths.
// Only the first snapshot of a run can be compared, since the run itself may write files.
func (n *Nix) checkApp(found string, m metadata) error {
	app := n.opts.AppSource
	if app == "" || app == m.Path || app == path.Join(m.Path, m.Locked.Dir) {
		return nil
	}
	return &OtherFlakeError{Found: found, App: app}
}

// warnUntracked names files that git does not know: they are missing in the flake, and the error that follows from that is a riddle.
// Where git cannot be asked, nothing is said.
func (n *Nix) warnUntracked(ctx context.Context, m metadata) {
	root, ok := strings.CutPrefix(m.Locked.URL, "file://")
	if !ok || m.Locked.Type != "git" || m.Locked.Rev != "" {
		return
	}
	out, err := run.Output(ctx, run.Cmd{
		Argv:       []string{"git", "-C", root, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.nix", "fleet-state"},
		NewSession: true,
	})
	if err != nil || len(out) == 0 {
		return
	}
	const shown = 5
	files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	rest := ""
	if len(files) > shown {
		rest = fmt.Sprintf(" and %d more", len(files)-shown)
		files = files[:shown]
	}
	for i, file := range files {
		files[i] = run.StripEscapes(strings.ReplaceAll(file, "\n", " "))
	}
	n.emit(plan.Event{
		Step: plan.StepPlan, Kind: plan.EventWarning,
		Message: "git does not know these files, so they are not part of the flake: " + strings.Join(files, ", ") + rest,
		Hint:    "git add them",
	})
}
