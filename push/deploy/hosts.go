package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"fleet/closure"
	"fleet/closure/storepath"
	"fleet/evaluator/plan"
	"fleet/push"
	"fleet/push/proto"
	"fleet/secretsgen"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/step"
)

// HostsOptions say how hosts are reached. Plan and Connector are needed.
type HostsOptions struct {
	Plan      *plan.Plan
	Connector Connector
	Overrides Overrides
	Reporter  Reporter
	// Limit bounds the connections that are made at the same time; default 32.
	Limit int
	// Substitute and Signer are as in [Request], for generators that are pushed.
	Substitute *bool
	Signer     *closure.SigningKey
}

// Hosts does for secrets what only hosts can do, over sessions that are opened on demand and stay open until Close. A [Deployer] that
// is given them deploys over the same sessions. What hosts answer is checked: a value that is not sealed to whom it should be, and to nobody
// else, is an error.
type Hosts struct {
	opts     HostsOptions
	sessions *sessions
}

var _ secretsgen.Hosts = (*Hosts)(nil)

// NewHosts connects to nothing yet.
func NewHosts(opts HostsOptions) *Hosts {
	if opts.Limit <= 0 {
		opts.Limit = Limits{}.withDefaults().Hosts
	}
	h := &Hosts{opts: opts}
	h.sessions = newSessions(h.connect, opts.Limit)
	return h
}

// Close ends all sessions. Later calls would open others.
func (h *Hosts) Close() { h.sessions.closeAll() }

func (h *Hosts) connect(ctx context.Context, host string) (Session, error) {
	spec, err := h.spec(host)
	if err != nil {
		return nil, err
	}
	return h.opts.Connector.Connect(ctx, spec)
}

func (h *Hosts) spec(host string) (push.HostSpec, error) {
	described, ok := h.opts.Plan.Hosts[host]
	switch {
	case !ok:
		return push.HostSpec{}, fmt.Errorf("connect to %q: fleet %q has no such host", host, h.opts.Plan.Fleet)
	case h.opts.Connector == nil:
		return push.HostSpec{}, errNoConnector
	}
	return Spec(host, described, h.opts.Overrides)
}

// addressLocal is the address of this machine.
const addressLocal = "local"

// localKeys are this machine's public keys, in the order in which one is chosen.
func localKeys() []string {
	return []string{"/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ssh/ssh_host_rsa_key.pub"}
}

// Key implements [secretsgen.Hosts]. It makes no session: a handshake tells it. This machine's own key is read from its file.
func (h *Hosts) Key(ctx context.Context, host string) (string, error) {
	spec, err := h.spec(host)
	if err != nil {
		return "", err
	}
	if spec.Target.Address == addressLocal {
		return ownKey(host, localKeys())
	}
	if session := h.sessions.standing(host); session != nil {
		if key, _ := session.HostKey(); key != "" {
			return keyOnly(key), nil
		}
	}
	key, _, err := h.opts.Connector.HostKey(ctx, spec)
	if err != nil {
		return "", err
	}
	return keyOnly(key), nil
}

// ownKey reads the first public key that is there.
func ownKey(host string, files []string) (string, error) {
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read the host key of %q: %w", host, err)
		}
		text, err := io.ReadAll(io.LimitReader(f, 16<<10))
		if err := errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("read the host key of %q: %w", host, err)
		}
		return keyOnly(string(text)), nil
	}
	return "", fmt.Errorf("read the host key of %q, which is this machine: none of %s is there", host, strings.Join(files, ", "))
}

// Run implements [secretsgen.Hosts]. Where the connection breaks meanwhile, the generator is not run again: that is a [*push.BrokenRunError].
func (h *Hosts) Run(ctx context.Context, host string, request step.Request) (step.Result, error) {
	session, err := h.session(ctx, host)
	if err != nil {
		return step.Result{}, err
	}
	program, err := storepath.Containing(request.Program)
	if err != nil {
		return step.Result{}, fmt.Errorf("generate %s on %q: %w", request.ID, host, err)
	}
	_, err = session.Push(ctx, push.PushRequest{
		Roots: []storepath.Path{program}, Substitute: h.substitute(host), Signer: h.opts.Signer, Step: plan.StepSecrets,
	})
	if err != nil {
		return step.Result{}, notReached(ctx, fmt.Errorf("push the generator of %s: %w", request.ID, err))
	}
	timeout := request.Timeout
	if timeout <= 0 {
		timeout = step.DefaultTimeout
	}
	var result step.Result
	err = h.ask(ctx, session, host, fmt.Sprintf("generate secret %q", request.ID), push.SecretsRequest{
		Method: proto.MethodSecretsRun, Params: request, Result: &result,
		// The agent ends the generator at its own limit, and tells why.
		Timeout: timeout + time.Minute,
		Log: func(line string) {
			h.emit(plan.Event{Host: host, Kind: plan.EventLog, Message: line})
		},
	})
	if err == nil {
		err = checkResult(request, result)
	}
	if err != nil {
		return step.Result{}, err
	}
	return result, nil
}

func (h *Hosts) substitute(host string) bool {
	if h.opts.Substitute != nil {
		return *h.opts.Substitute
	}
	return h.opts.Plan.Hosts[host].Deploy.SubstituteOnDestination
}

func (h *Hosts) emit(e plan.Event) {
	if h.opts.Reporter != nil {
		e.Time, e.Step = time.Now(), plan.StepSecrets
		h.opts.Reporter.Emit(e)
	}
}

const (
	// maxAsk bounds the armored files in one request, in bytes, and maxTell those in its answer; both far below the protocol's bounds. A
	// single file goes alone where it is larger.
	maxAsk  = 4 << 20
	maxTell = 12 << 20
)

// Rewrap implements [secretsgen.Hosts], in as many requests as it takes.
func (h *Hosts) Rewrap(ctx context.Context, host string, request seal.RewrapRequest) (seal.RewrapResult, error) {
	session, err := h.session(ctx, host)
	if err != nil {
		return seal.RewrapResult{}, err
	}
	all := seal.RewrapResult{Parts: make([]seal.RewrappedPart, len(request.Parts))}
	done := 0
	for chunk := range chunks(request.Parts, maxAsk) {
		for to := range targets(request.To, chunk) {
			some, err := h.rewrap(ctx, session, host, seal.RewrapRequest{Parts: chunk, To: to})
			if err != nil {
				return seal.RewrapResult{}, err
			}
			for i, part := range some {
				into := &all.Parts[done+i]
				if part.Error != "" || into.Error != "" {
					*into = seal.RewrappedPart{Error: max(part.Error, into.Error)}
					continue
				}
				if into.Sealed == nil {
					into.Sealed = map[string]secret.SealedPart{}
				}
				maps.Copy(into.Sealed, part.Sealed)
			}
		}
		done += len(chunk)
	}
	return all, nil
}

// rewrap makes one request and checks its answer.
func (h *Hosts) rewrap(ctx context.Context, session Session, host string, request seal.RewrapRequest) ([]seal.RewrappedPart, error) {
	var result seal.RewrapResult
	what := fmt.Sprintf("seal %d parts of secrets to other keys", len(request.Parts))
	if err := h.ask(ctx, session, host, what, push.SecretsRequest{Method: proto.MethodSecretsRewrap, Params: request, Result: &result}); err != nil {
		return nil, err
	}
	if len(result.Parts) != len(request.Parts) {
		return nil, fmt.Errorf("%s on %q: the host answers for %d", what, host, len(result.Parts))
	}
	for i := range result.Parts {
		part := &result.Parts[i]
		if part.Error != "" {
			*part = seal.RewrappedPart{Error: push.CleanText(part.Error)}
			continue
		}
		if err := checkRewrapped(request.To, part.Sealed); err != nil {
			*part = seal.RewrappedPart{Error: fmt.Sprintf("the answer of %q cannot be used: %v", host, err)}
		}
	}
	return result.Parts, nil
}

// Open implements [secretsgen.Hosts].
func (h *Hosts) Open(ctx context.Context, host string, part seal.Ref) (seal.Opened, error) {
	session, err := h.session(ctx, host)
	if err != nil {
		return seal.Opened{}, err
	}
	var result proto.SecretValue
	if err := h.ask(ctx, session, host, "open "+part.Context().String(), push.SecretsRequest{Method: proto.MethodSecretsOpen, Params: part, Result: &result}); err != nil {
		return seal.Opened{}, err
	}
	return seal.Opened{Value: secret.NewPlain(result.Value), Salt: result.Salt}, nil
}

// Verify implements [secretsgen.Hosts], in as many requests as it takes.
func (h *Hosts) Verify(ctx context.Context, host string, parts []seal.Ref) ([]string, error) {
	session, err := h.session(ctx, host)
	if err != nil {
		return nil, err
	}
	wrong := make([]string, 0, len(parts))
	for chunk := range chunks(parts, maxAsk) {
		request := proto.SecretsVerifyRequest{Parts: make([]json.RawMessage, len(chunk))}
		for i, ref := range chunk {
			if request.Parts[i], err = json.Marshal(ref); err != nil {
				return nil, fmt.Errorf("verify secrets on %q: %w", host, err)
			}
		}
		var result proto.SecretsVerifyResult
		if err := h.ask(ctx, session, host, "verify secrets", push.SecretsRequest{Method: proto.MethodSecretsVerify, Params: request, Result: &result}); err != nil {
			return nil, err
		}
		if len(result.Wrong) != len(chunk) {
			return nil, fmt.Errorf("verify secrets on %q: the host answers for %d parts, not for %d", host, len(result.Wrong), len(chunk))
		}
		for _, text := range result.Wrong {
			wrong = append(wrong, push.CleanText(text))
		}
	}
	return wrong, nil
}

// session is the host's, opened on demand.
func (h *Hosts) session(ctx context.Context, host string) (Session, error) {
	session, err := h.sessions.get(ctx, host)
	return session, notReached(ctx, err)
}

// ask makes a request; an answer that is an error says what it is about.
func (h *Hosts) ask(ctx context.Context, session Session, host, what string, request push.SecretsRequest) error {
	err := session.Secrets(ctx, request)
	if answer, ok := errors.AsType[*push.AgentError](err); ok {
		return &HostSecretsError{Host: host, What: what, Answer: answer}
	}
	if _, lost := errors.AsType[*push.LostError](err); lost {
		return notReached(ctx, err)
	}
	return err
}

// notReached marks an error as one of a host that did nothing of what it was asked for, see [secretsgen.ErrUnreachable].
func notReached(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return unreachedError{err}
}

type unreachedError struct{ error }

func (e unreachedError) Unwrap() error        { return e.error }
func (e unreachedError) Is(target error) bool { return target == secretsgen.ErrUnreachable }

// HostSecretsError says that a host did not do something for secrets.
type HostSecretsError struct {
	Host string
	// What was to be done, such as `generate secret "shared/ca"`; what the host says may begin with the same.
	What   string
	Answer *push.AgentError
}

func (e *HostSecretsError) Error() string {
	return fmt.Sprintf("%s on %q: %s", e.What, e.Host, strings.TrimPrefix(e.Answer.Message, e.What+": "))
}

// Unwrap gives the agent's answer.
func (e *HostSecretsError) Unwrap() error { return e.Answer }

// Hint is the agent's remedy.
func (e *HostSecretsError) Hint() string { return e.Answer.Hint() }

// chunks cuts parts into pieces whose armored files have at most limit bytes, or that are one part.
func chunks(parts []seal.Ref, limit int) func(yield func([]seal.Ref) bool) {
	return func(yield func([]seal.Ref) bool) {
		for len(parts) > 0 {
			size, n := 0, 0
			for n < len(parts) && (n == 0 || size+len(parts[n].Armor) <= limit) {
				size += len(parts[n].Armor)
				n++
			}
			if !yield(parts[:n:n]) {
				return
			}
			parts = parts[n:]
		}
	}
}

// targets cuts the hosts that parts are sealed to into pieces whose answers stay small. There is always one, so that parts are looked at.
func targets(to map[string]string, parts []seal.Ref) func(yield func(map[string]string) bool) {
	// What is added for another host is about the envelope and its armor.
	const overhead = 4 << 10
	size := 0
	for _, part := range parts {
		size += len(part.Armor) + overhead
	}
	each := max(1, maxTell/max(size, 1))
	return func(yield func(map[string]string) bool) {
		if len(to) == 0 {
			yield(to)
			return
		}
		for names := range slices.Chunk(slices.Sorted(maps.Keys(to)), each) {
			piece := make(map[string]string, len(names))
			for _, name := range names {
				piece[name] = to[name]
			}
			if !yield(piece) {
				return
			}
		}
	}
}
