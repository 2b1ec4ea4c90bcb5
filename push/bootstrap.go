package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push/proto"
	"fleet/push/transport"
)

// agentRef leads to a running agent on a host.
type agentRef struct {
	// exe is the helper's executable on the host.
	exe           string
	socket, token string
}

// bootstrapCommands is how many commands a bootstrap runs where the helper is there: the look, the door, and the start.
const bootstrapCommands = 3

// bootstrap makes an agent run on a host: look, send the helper where it is missing, become root, start.
type bootstrap struct {
	c      *Connector
	spec   HostSpec
	conn   transport.Conn
	helper storepath.Path
	// keys is the session's memory of passwords.
	keys *keyring

	found probeResult
	// upload is the helper's export on the host, and after run only where the helper runs from its folder and needs it to stay.
	upload *upload
	// door leads to the agent once that has started; nil where there is none.
	door *door
}

// run returns the agent.
func (b *bootstrap) run(ctx context.Context) (agentRef, error) {
	b.conn.Prepare(bootstrapCommands)
	defer b.conn.Prepare(0)
	ref, err := b.start(ctx)
	if err != nil || !strings.HasPrefix(ref.exe, b.uploadDir()) {
		b.upload.close()
		b.upload = nil
	}
	if err != nil {
		b.door.close()
		b.door = nil
	}
	return ref, err
}

func (b *bootstrap) uploadDir() string {
	if b.upload == nil {
		return "/nonexistent/"
	}
	return b.upload.dir + "/"
}

func (b *bootstrap) start(ctx context.Context) (agentRef, error) {
	if err := b.probe(ctx); err != nil {
		return agentRef{}, err
	}
	if !b.found.HelperThere {
		if err := b.send(ctx); err != nil {
			return agentRef{}, err
		}
	}
	// Only with a channel that the start does not need.
	if b.conn.Prepared() > 1 {
		b.door = newDoor(ctx, b.conn)
	}
	out, err := b.elevate(ctx)
	if err != nil {
		if boot, ok := errors.AsType[*BootstrapError](err); ok {
			boot.Host = b.host()
		}
		return agentRef{}, err
	}
	return b.agent(out)
}

func (b *bootstrap) host() string { return b.spec.Target.Host }

func (b *bootstrap) progress(format string, args ...any) {
	b.c.emit(plan.Event{Host: b.host(), Step: plan.StepConnect, Kind: plan.EventProgress, Message: fmt.Sprintf(format, args...)})
}

// probe looks at the host without changing it.
func (b *bootstrap) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.c.Timeouts.withDefaults().Probe, errTimeout)
	defer cancel()
	marker := randomName("fleet-")
	said, err := b.listen(ctx, probeCommand(marker, b.helper))
	if err != nil {
		return err
	}
	b.found, err = parseProbe(marker, said)
	if err != nil {
		return &ProbeError{Host: b.host(), Reason: err.Error(), Output: oneLine(said)}
	}
	if !runs(b.spec.System, b.found.OS, b.found.Machine) {
		return &WrongSystemError{Host: b.host(), Want: b.spec.System, OS: b.found.OS, Machine: b.found.Machine}
	}
	if !b.found.Store || !b.found.State {
		return &NoStoreError{Host: b.host()}
	}
	return nil
}

// listen runs a command without an input and returns what it prints, up to the probe's bound. Its exit status does
// not matter, since login shells spoil it; a lost connection does.
func (b *bootstrap) listen(ctx context.Context, command string) (string, error) {
	ch, err := b.conn.Start(ctx, command, transport.ChannelOptions{})
	if err != nil {
		return "", err
	}
	defer ch.Close() // what it said was read
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	errs := drain(ch.Stderr())
	go func() { _ = ch.CloseWrite() }() // where that fails, what the command said and how it ended tell more
	said, err := io.ReadAll(io.LimitReader(ch, maxProbe+1))
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errTimeout):
		return "", &ProbeError{Host: b.host(), Reason: errTimeout.Error(), Output: oneLine(string(said))}
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", err
	case len(said) > maxProbe:
		return string(said), nil // the parser refuses it
	}
	var exit *transport.ExitError
	if err := ch.Wait(); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	if len(said) == 0 {
		said = []byte(errs())
	}
	return string(said), nil
}

// kinds lists the ways to become root that are to be tried, in order.
func (b *bootstrap) kinds() ([]string, error) {
	want := b.spec.Elevation
	if b.found.UID == 0 || want == elevationNone {
		return []string{elevationNone}, nil
	}
	refuse := &NoElevationError{Host: b.host(), User: b.found.User}
	if want != "" && want != elevationAuto {
		if b.found.Tools[want] == "" {
			refuse.Tried, refuse.Reason = []string{want}, want+": the host does not have it"
			return nil, refuse
		}
		return []string{want}, nil
	}
	var kinds []string
	for _, kind := range []string{elevationSudo, elevationDoas, elevationRun0} {
		if b.found.Tools[kind] != "" {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) == 0 {
		return nil, refuse
	}
	return kinds, nil
}

// elevate runs the elevated script in the first way that the host allows.
func (b *bootstrap) elevate(ctx context.Context) (outcome, error) {
	kinds, err := b.kinds()
	if err != nil {
		return outcome{}, err
	}
	refused := &NoElevationError{Host: b.host(), User: b.found.User}
	var reasons []string
	for _, kind := range kinds {
		out, err := b.elevateWith(ctx, kind)
		if !errors.Is(err, errRefused) && !errors.Is(err, errNeedTTY) && !errors.Is(err, errNobody) {
			return out, err
		}
		refused.Tried = append(refused.Tried, kind)
		// sudo and doas begin what they say with their own names.
		reason := strings.TrimPrefix(strings.TrimPrefix(err.Error(), errRefused.Error()+": "), kind+": ")
		reasons = append(reasons, kind+": "+reason)
	}
	refused.Reason = strings.Join(reasons, "; ")
	return outcome{}, refused
}

// elevateWith repeats the script where a terminal, another password or the helper is needed, each a bounded number of times.
func (b *bootstrap) elevateWith(ctx context.Context, kind string) (outcome, error) {
	pty := kind == elevationDoas || kind == elevationRun0
	var typing time.Duration
	if kind == elevationRun0 {
		typing = typingPause
	}
	ask := b.keys.asker(b, kind)
	defer ask.done()
	for {
		if kind != elevationNone {
			b.progress("becoming root with %s", kind)
		}
		a := b.attempt(kind, ask)
		a.pty, a.typing = pty, typing
		out, err := a.run(ctx, b.conn)
		switch {
		case err == nil:
			ask.worked()
			return out, nil
		case errors.Is(err, errNeedTTY) && !pty:
			pty = true
		case errors.Is(err, errSwallowed) && typing == typingPause:
			typing *= 5
			ask.repeat()
		case errors.Is(err, errSwallowed):
			return out, fmt.Errorf("%w: %w", errRefused, err)
		case errors.Is(err, errPassword):
			if !ask.again() {
				return out, &PasswordError{Host: b.host(), User: ask.user, With: kind}
			}
		case errors.Is(err, errNeedHelper) && b.upload == nil:
			ask.worked()
			if err := b.send(ctx); err != nil {
				return out, err
			}
		case errors.Is(err, errNeedHelper):
			return out, &BootstrapError{Host: b.host(), Reason: "the helper is still missing after it was sent"}
		default:
			return out, err
		}
	}
}

func (b *bootstrap) attempt(kind string, ask *asker) attempt {
	t := b.c.Timeouts.withDefaults()
	args := []string{b.helper.String(), "-", "0", "-", "-"}
	if u := b.upload; u != nil {
		solo := "many"
		if u.export.solo {
			solo = "solo"
		}
		args = []string{b.helper.String(), u.dir, strconv.FormatInt(u.export.size, 10), u.export.sum, solo}
	}
	args = append(args, "agent", "start", "--owner", strconv.FormatUint(uint64(b.found.UID), 10))
	return attempt{
		kind: kind, tool: b.found.Tools[kind], user: b.found.User, args: args,
		password: ask.password, elevate: t.Elevate, start: t.Start, closing: t.Close,
	}
}

// agent checks the agent's line and the helper's place.
func (b *bootstrap) agent(out outcome) (agentRef, error) {
	// The line itself is in no error, since it holds the token.
	refuse := func(reason string) (agentRef, error) {
		return agentRef{}, &BootstrapError{Host: b.host(), Reason: reason}
	}
	where := b.helper.String()
	if b.upload != nil && out.Helper == path.Join(b.upload.dir, "helper") && b.found.UID != 0 && b.spec.Elevation == elevationNone {
		where = out.Helper
	} else if out.Helper != where {
		return refuse(fmt.Sprintf("it names %q as the helper", oneLine(out.Helper)))
	}
	var ready proto.Ready
	if err := json.Unmarshal([]byte(out.Ready), &ready); err != nil {
		return refuse("its line is no JSON")
	}
	token := regexp.MustCompile(`\A[A-Za-z0-9+/=_-]{16,256}\z`)
	switch {
	case ready.Version != proto.Version:
		return agentRef{}, &VersionError{Host: b.host(), Ours: proto.Version, Theirs: ready.Version}
	case !isPlainPath(ready.Socket):
		return refuse(fmt.Sprintf("its socket %q cannot be used", oneLine(ready.Socket)))
	case !token.MatchString(ready.Token):
		return refuse("its token cannot be used")
	}
	return agentRef{exe: where + "/bin/fleet-helper", socket: ready.Socket, token: ready.Token}, nil
}

// drain reads r to its end in the background; the returned function gives the end of what came so far.
func drain(r io.Reader) func() string {
	t := &lockedTail{tail: tail{max: keptOutput}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(t, r) // the end of the stream is all that counts
	}()
	return func() string {
		// What was printed before the end arrives together with it.
		select {
		case <-done:
		case <-time.After(200 * time.Millisecond):
		}
		return excerpt(t.String(), true)
	}
}
