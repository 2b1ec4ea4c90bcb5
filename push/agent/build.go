package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"fleet/closure/run"
	"fleet/closure/storepath"
	"fleet/push/proto"
)

// maxBuildOutputs bounds what nix-store prints, in bytes.
const maxBuildOutputs = 1 << 20

// build realises a derivation, all outputs of it, and sends Nix's log as it comes.
func (s *session) build(ctx context.Context, req proto.BuildRequest, log io.Writer) (proto.BuildResult, error) {
	drv, err := storepath.Parse(req.Drv)
	if err != nil || !drv.IsDerivation() {
		return proto.BuildResult{}, proto.Errorf(proto.CodeUsage, "%.300q is no derivation", req.Drv)
	}
	valid, err := s.valid(ctx, drv)
	if err != nil {
		return proto.BuildResult{}, err
	}
	if !valid {
		return proto.BuildResult{}, pathError(proto.CodeNotFound, req.Drv, "derivation %s is not valid on the host", drv)
	}
	out := &limitedBuffer{limit: maxBuildOutputs}
	last := &lastMessage{}
	err = s.host.Runner.Run(ctx, run.Cmd{
		// The root lies in the session's folder and goes with it; Nix forgets a root whose link is gone. --indirect is needed by old versions.
		Argv: []string{"nix-store", "--realise", drv.String(), "--add-root", s.buildRoot(), "--indirect", "--log-format", "internal-json"},
		Dir:  "/", Env: s.buildEnvironment(), ClearEnv: true, Stdout: out, Stderr: io.MultiWriter(last, log),
	})
	if exit, ok := errors.AsType[*run.ExitError](err); ok {
		return proto.BuildResult{}, buildFailed(drv, exit, last)
	}
	if err != nil {
		return proto.BuildResult{}, err
	}
	return s.builtOutputs(ctx, out.String())
}

// buildEnvironment sends a build to the daemon where there is one: it knows the host's proxies and certificates, root's own Nix does not.
func (s *session) buildEnvironment() []string {
	env := s.host.environment()
	if _, err := os.Stat(filepath.Join(s.host.NixVar, "daemon-socket", "socket")); err == nil {
		env = append(env, "NIX_REMOTE=daemon")
	}
	return env
}

func (s *session) buildRoot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builds++
	return filepath.Join(s.dir, fmt.Sprintf("build-%d", s.builds))
}

// builtOutputs follows the links that nix-store has printed.
func (s *session) builtOutputs(ctx context.Context, printed string) (proto.BuildResult, error) {
	var paths []storepath.Path
	for line := range strings.Lines(printed) {
		line = strings.TrimSpace(line)
		if target, err := os.Readlink(line); err == nil {
			line = target
		}
		path, err := storepath.Parse(line)
		if err != nil {
			return proto.BuildResult{}, fmt.Errorf("read what nix-store has built: %w", err)
		}
		paths = append(paths, path)
	}
	if _, err := s.protect(ctx, paths); err != nil {
		return proto.BuildResult{}, err
	}
	return proto.BuildResult{Outputs: pathTexts(paths)}, nil
}

func buildFailed(drv storepath.Path, exit *run.ExitError, last *lastMessage) *proto.Error {
	why := last.text
	if why == "" {
		why = exit.StderrTail
	}
	return pathError(proto.CodeBuildFailed, drv.String(), "build %s: %s", drv, oneLine(why))
}

// lastMessage remembers the last error in Nix's internal-json log.
type lastMessage struct {
	pending []byte
	text    string
}

// Write never fails. A line of more than 64 KiB is no message and is dropped.
func (l *lastMessage) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, found := bytes.Cut(rest, []byte{'\n'})
		if len(l.pending)+len(line) <= 64<<10 {
			l.pending = append(l.pending, line...)
		}
		if rest = after; found {
			l.line(l.pending)
			l.pending = l.pending[:0]
		}
	}
	return len(p), nil
}

func (l *lastMessage) line(line []byte) {
	text, ok := bytes.CutPrefix(line, []byte("@nix "))
	if !ok {
		return
	}
	var m struct {
		Action string `json:"action"`
		Level  int    `json:"level"`
		Msg    string `json:"msg"`
	}
	// Level 0 is an error (libutil/error.hh).
	if json.Unmarshal(text, &m) == nil && m.Action == "msg" && m.Level == 0 {
		l.text = m.Msg
	}
}
