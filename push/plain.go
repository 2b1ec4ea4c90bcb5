package push

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fleet/closure/daemon"
	"fleet/closure/serve"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/transport"
)

//go:embed script/plain.sh
var plainScript string

// plainServe is what is asked of a login that takes no script of ours.
const plainServe = "nix-store --serve --write"

// HelperUnable says whether err, of [Connector.Connect], means that the host is there and the helper cannot run on it, so that [Connector.Plain] may do. It is
// not so where something is to be mended first: a host that is another one or has another system, a wrong password, a full disk, no Nix.
func HelperUnable(err error) bool {
	if _, ok := errors.AsType[*NoElevationError](err); ok {
		return true
	}
	if probe, ok := errors.AsType[*ProbeError](err); ok {
		return probe.restricted()
	}
	boot, ok := errors.AsType[*BootstrapError](err)
	return ok && boot.Unable && nixReason(boot.Output) != daemon.ReasonNoSpace
}

// nixReason classifies what Nix, or another program, has printed.
func nixReason(output string) daemon.Reason { return (&daemon.Error{Message: output}).Reason() }

// Plain pushes to a host where the helper cannot run: Nix's own programs there do the work, as the login user. Nothing is compressed, and a
// path that was cut off is sent again whole. Its methods are not to be called at the same time.
type Plain struct {
	// s has no agent: it is what else belongs to a host.
	s *Session
	// cause is why the helper cannot run.
	cause error
	// restricted says that the login takes no commands of ours, but serves all the same.
	restricted bool
	// imports says that nix-store --import has to do.
	imports bool
	// conn is nil where there is none, or it broke.
	conn transport.Conn
}

// Plain connects to a host where the helper cannot run, for which cause gives the reason, and finds out whether a push without it is possible. It changes nothing there.
// Where it is not possible, that is a [*PlainError], or an error that [Connector.Connect] could have.
func (c *Connector) Plain(ctx context.Context, spec HostSpec, cause error) (*Plain, error) {
	p := &Plain{s: &Session{c: c, spec: spec}, cause: cause}
	if err := p.look(ctx); err != nil {
		_ = p.Close() // it was only looked at
		return nil, err
	}
	how := "nix-store --serve"
	if p.imports {
		how = "nix-store --import"
	}
	p.s.report(plan.EventWarning, fmt.Sprintf("the helper cannot run there (%s): pushing to the host's own %s, which compresses nothing, and where a path that is cut off begins anew",
		oneLine(cause.Error()), how))
	return p, nil
}

// Close ends the connection.
func (p *Plain) Close() error {
	if p.conn == nil {
		return nil
	}
	conn := p.conn
	p.conn = nil
	return conn.Close()
}

// HostKey is the host's key, and what vouched for it.
func (p *Plain) HostKey() (string, transport.Provenance) { return p.conn.HostKey() }

// look finds out what the login user can do.
func (p *Plain) look(ctx context.Context) (err error) {
	if p.conn, err = p.s.dial(ctx); err != nil {
		return err
	}
	b := &bootstrap{c: p.s.c, spec: p.s.spec, conn: p.conn}
	err = b.probe(ctx)
	probe, odd := errors.AsType[*ProbeError](err)
	switch {
	case odd && probe.restricted():
		p.restricted = true
	case err != nil:
		return err
	case b.found.UID != 0 && b.found.Daemon != "yes" && !b.found.Own:
		// Nix would make a store of its own in the user's home.
		return p.refuse(fmt.Errorf("user %q may not use the Nix daemon there", b.found.User))
	}
	serveErr := p.tryServe(ctx)
	if serveErr == nil || ctx.Err() != nil || isLost(serveErr) || errors.Is(serveErr, errTimeout) || p.restricted {
		return p.refuse(serveErr)
	}
	if err := p.tryImport(ctx); err != nil {
		return p.refuse(errors.Join(serveErr, err))
	}
	p.imports = true
	return nil
}

// refuse says why a push without the helper is not possible either; nil where it is.
func (p *Plain) refuse(err error) error {
	if err == nil || isLost(err) {
		return err
	}
	return &PlainError{Host: p.s.spec.Target.Host, Reason: oneLine(err.Error()), Cause: p.cause}
}

// nobodysPath is asked for to find out whether a store can be asked.
const nobodysPath = storepath.StoreDir + "/00000000000000000000000000000000-fleet"

// tryServe finds out whether the host serves, and may look into its store.
func (p *Plain) tryServe(ctx context.Context) error {
	asked, err := storepath.Parse(nobodysPath)
	if err != nil {
		return err
	}
	ctx, cancel := p.within(ctx, p.s.c.Timeouts.withDefaults().Probe)
	defer cancel()
	server, ch, err := p.serve(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	_, err = server.QueryValidPaths(ctx, []storepath.Path{asked}, serve.QueryOptions{})
	return ch.explain(err)
}

// tryImport finds out whether the host's nix-store may look into its store.
func (p *Plain) tryImport(ctx context.Context) error {
	asked, err := storepath.Parse(nobodysPath)
	if err != nil {
		return err
	}
	_, err = p.invalid(ctx, []storepath.Path{asked})
	return err
}

// within bounds how long nix-store may take.
func (p *Plain) within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, p.silent())
}

// silent says that nix-store did not answer in time.
func (p *Plain) silent() error {
	return fmt.Errorf("wait for nix-store on %q: %w", p.s.spec.Target.Host, errTimeout)
}

// serve starts a server and shakes hands with it.
func (p *Plain) serve(ctx context.Context) (*serve.Conn, *plainChannel, error) {
	ctx, cancel := p.within(ctx, p.s.c.Timeouts.withDefaults().Attach)
	defer cancel()
	ch, err := p.start(ctx, "serve")
	if err != nil {
		return nil, nil, err
	}
	server, err := serve.NewConn(ctx, ch)
	return server, ch, ch.explain(err)
}

// invalid returns those of paths that are not valid on the host, by its nix-store.
func (p *Plain) invalid(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var asked bytes.Buffer
	open := make(map[string]bool, len(paths))
	for _, path := range paths {
		asked.WriteString(path.String() + "\n")
		open[path.String()] = true
	}
	said, err := p.run(ctx, &asked, asked.Len(), "missing")
	if err != nil {
		return nil, err
	}
	var missing []storepath.Path
	for _, line := range strings.Fields(said) {
		path, err := storepath.Parse(line)
		if err != nil || !open[line] {
			return nil, fmt.Errorf("ask nix-store on %q what is valid: unexpected answer %q", p.s.spec.Target.Host, oneLine(line))
		}
		delete(open, line)
		missing = append(missing, path)
	}
	return missing, nil
}

// run runs one of the script's commands to its end, with an input, and returns what it prints, which is at most so many bytes.
func (p *Plain) run(ctx context.Context, input io.Reader, most int, args ...string) (string, error) {
	ctx, cancel := p.within(ctx, p.s.c.Timeouts.withDefaults().Answer)
	defer cancel()
	ch, err := p.start(ctx, args...)
	if err != nil {
		return "", err
	}
	defer ch.Close() // its error says nothing that its end did not
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	go func() {
		// A command that takes no input says why.
		_, _ = io.Copy(ch, input)
		_ = ch.CloseWrite()
	}()
	said, err := io.ReadAll(io.LimitReader(ch, int64(most)+1))
	if err == nil && len(said) > most {
		return "", fmt.Errorf("run nix-store on %q: it prints more than was asked for", p.s.spec.Target.Host)
	}
	if err == nil {
		err = ch.Wait()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return string(said), ch.explain(err)
}

// plainChannel is one of Nix's programs on a host. Its Close learns how it ended.
type plainChannel struct {
	agentChannel
	host string
	// out is what the program prints.
	out *bufio.Reader
	// errs is the end of what it prints as errors.
	errs func() string
}

// Read reads what the program prints.
func (c *plainChannel) Read(p []byte) (int, error) { return c.out.Read(p) }

// start starts one of the script's commands.
func (p *Plain) start(ctx context.Context, args ...string) (*plainChannel, error) {
	marker := randomName("fleet-")
	command := plainServe
	if !p.restricted {
		command = transport.Quote(append([]string{"/bin/sh", "-c", compact(plainScript), "fleet", marker}, args...)...)
	}
	raw, err := p.conn.Start(ctx, command, transport.ChannelOptions{})
	if err != nil {
		return nil, err
	}
	ch := &plainChannel{agentChannel: agentChannel{Channel: raw, wire: &p.s.wire}, host: p.s.spec.Target.Host, errs: drain(raw.Stderr())}
	ch.patient.Store(true)
	ch.out = bufio.NewReader(&ch.agentChannel)
	if p.restricted {
		return ch, nil
	}
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	if err := ch.skip(marker); err != nil {
		ch.Close() // the first error counts
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, ch.explain(err)
	}
	return ch, nil
}

// skip reads past what the login shell prints, and the marker.
func (c *plainChannel) skip(marker string) error {
	for read := 0; read < maxProbe; {
		line, err := c.out.ReadSlice('\n')
		read += len(line)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			return &serve.EndedError{}
		case err != nil:
			return err
		case strings.HasSuffix(strings.TrimRight(string(line), "\r\n"), marker):
			return nil
		}
	}
	return fmt.Errorf("start nix-store on %q: the login shell prints too much", c.host)
}

// explain tells a program that has ended by itself, which is a [*plainEndedError], from a connection that broke. The channel was closed.
func (c *plainChannel) explain(err error) error {
	_, exit := errors.AsType[*transport.ExitError](err)
	if _, ended := errors.AsType[*serve.EndedError](err); !ended && !exit {
		return err
	}
	if end := c.ending(); end != nil && isLost(end) {
		return end
	}
	return &plainEndedError{host: c.host, output: c.errs()}
}

// plainEndedError says that one of Nix's programs has ended early.
type plainEndedError struct {
	host string
	// output is the end of what it printed, on one line and free of escape codes.
	output string
}

func (e *plainEndedError) Error() string {
	if e.output == "" {
		return fmt.Sprintf("nix-store on %q has ended, and does not say why", e.host)
	}
	return fmt.Sprintf("nix-store on %q has ended: %s", e.host, e.output)
}
