package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"fleet/closure/run"
)

// resolver asks the user's ssh what it would do, by `ssh -G`, which evaluates Host, Match, Include and all
// else by definition as ssh does. It is safe for concurrent use.
type resolver struct {
	runner     run.Runner
	configFile string
	operator   operator

	mu       sync.Mutex
	defaults *algorithms
}

// resolveTimeout bounds one `ssh -G`; a `Match exec` in the configuration may run programs.
const resolveTimeout = 10 * time.Second

// maxHops bounds a chain of jump hosts; a longer one is a loop.
const maxHops = 8

// routeAndPins is what every dialer needs before it begins: a target's hops, and the only keys that are acceptable of it.
func (r *resolver) routeAndPins(ctx context.Context, t Target) ([]settings, []ssh.PublicKey, error) {
	pins, err := parsePins(t.HostKeys)
	if err != nil {
		return nil, nil, &ConfigError{Host: t.Host, Address: t.Address, Err: err, Remedy: "set deploy.hostKeys to lines as `ssh-keyscan` prints them, without the name"}
	}
	before, err := r.vantage(ctx, t.Via)
	if err != nil {
		return nil, nil, err
	}
	if len(before) > 0 {
		t.JumpHosts = []string{}
	}
	hops, err := r.route(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	hops[0].noProxy = len(hops) == 1 && t.JumpHosts != nil
	return append(before, hops...), pins, nil
}

// vantage is the way to the machine that a target is reached through.
func (r *resolver) vantage(ctx context.Context, via *Target) ([]settings, error) {
	if via == nil {
		return nil, nil
	}
	hops, pins, err := r.routeAndPins(ctx, *via)
	if err != nil {
		return nil, err
	}
	if len(hops) >= maxHops {
		return nil, &ConfigError{Host: via.Host, Address: via.Address, Err: fmt.Errorf("more than %d jump hosts", maxHops)}
	}
	last := &hops[len(hops)-1]
	last.name, last.pins = via.Host, pins
	return hops, nil
}

// route returns the machines to log in to, in order; the target is the last one.
func (r *resolver) route(ctx context.Context, t Target) ([]settings, error) {
	e := endpoint{host: unbracket(t.Address), user: t.User, port: t.Port}
	if user, host, found := cutLast(e.host, "@"); found {
		e.host = unbracket(host)
		if e.user == "" {
			e.user = user
		}
	}
	hops, err := r.expandRoute(ctx, e, t.JumpHosts, 0)
	if err == nil {
		return hops, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dial host %q: %w", t.Host, ctx.Err())
	}
	var config *ConfigError
	if errors.As(err, &config) {
		config.Host = t.Host
		return nil, config
	}
	return nil, &ConfigError{Host: t.Host, Address: t.Address, Err: err}
}

func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(separator):], true
}

// expandRoute resolves e and what stands before it. Given jump hosts win over the user's configuration; the
// first hop of a chain still has its own configuration, all later ones are reached through the one before.
func (r *resolver) expandRoute(ctx context.Context, e endpoint, jumps []string, depth int) ([]settings, error) {
	if depth >= maxHops {
		return nil, fmt.Errorf("more than %d jump hosts in a row: the configuration leads in a circle", maxHops)
	}
	s, err := r.settings(ctx, e, jumps != nil)
	if err != nil {
		return nil, err
	}
	if jumps == nil && s.proxyCommand == "" {
		jumps = s.proxyJump
	}
	s.proxyJump = nil
	var hops []settings
	for i, jump := range jumps {
		hop, err := parseJump(jump)
		if err != nil {
			return nil, err
		}
		var own []string // nil: the hop's own configuration decides
		if i > 0 {
			own = []string{}
		}
		before, err := r.expandRoute(ctx, hop, own, depth+1)
		if err != nil {
			return nil, fmt.Errorf("jump host %q: %w", cleanText(jump, 256), err)
		}
		hops = append(hops, before...)
	}
	if len(hops) >= maxHops {
		return nil, fmt.Errorf("more than %d jump hosts", maxHops)
	}
	return append(hops, s), nil
}

// settings asks ssh for one endpoint. noProxy forbids what its configuration says of jump hosts and proxies.
func (r *resolver) settings(ctx context.Context, e endpoint, noProxy bool) (settings, error) {
	if err := e.check(); err != nil {
		return settings{}, &ConfigError{Address: e.host, Err: err, Remedy: "set deploy.address, deploy.user and deploy.port to plain names and numbers"}
	}
	s, err := r.query(ctx, r.configFile, e, noProxy)
	var missing *run.NotFoundError
	if errors.As(err, &missing) {
		return r.operator.fallbackSettings(e), nil
	}
	if err != nil {
		return settings{}, &ConfigError{Address: e.host, Err: err, Remedy: "run `ssh -G " + e.host + "` to see what ssh says of its configuration"}
	}
	defaults, err := r.defaultAlgorithms(ctx)
	if err != nil {
		return settings{}, err
	}
	s.algorithms.keepChanged(defaults)
	return s, nil
}

func (r *resolver) query(ctx context.Context, configFile string, e endpoint, noProxy bool) (settings, error) {
	argv := append([]string{"ssh", "-G"}, commonArguments(configFile, e)...)
	if noProxy {
		argv = append(argv, "-o", "ProxyJump=none", "-o", "ProxyCommand=none")
	}
	argv = append(argv, "--", e.host)
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var out bytes.Buffer
	err := r.runner.Run(ctx, run.Cmd{Argv: argv, Stdout: &limitedWriter{to: &out, left: maxSettingsBytes}, Grace: time.Second})
	if err != nil {
		return settings{}, err
	}
	s, err := parseSettings(out.Bytes())
	s.given = e
	return s, err
}

// commonArguments are what every call of ssh for e begins with.
func commonArguments(configFile string, e endpoint) []string {
	var argv []string
	if configFile != "" {
		argv = append(argv, "-F", configFile)
	}
	if e.port != 0 {
		argv = append(argv, "-p", strconv.Itoa(e.port))
	}
	if e.user != "" {
		argv = append(argv, "-l", e.user)
	}
	return argv
}

// defaultAlgorithms are the lists of this machine's ssh without any configuration. `ssh -G` prints
// lists whether somebody chose them or not; only chosen ones should replace ours.
func (r *resolver) defaultAlgorithms(ctx context.Context) (algorithms, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.defaults != nil {
		return *r.defaults, nil
	}
	s, err := r.query(ctx, "none", endpoint{host: "localhost"}, true)
	if err != nil {
		return algorithms{}, err
	}
	r.defaults = &s.algorithms
	return s.algorithms, nil
}

func (a *algorithms) keepChanged(defaults algorithms) {
	for _, pair := range []struct {
		list     *[]string
		standard []string
	}{
		{&a.ciphers, defaults.ciphers}, {&a.macs, defaults.macs}, {&a.kex, defaults.kex}, {&a.hostKeys, defaults.hostKeys},
	} {
		if slices.Equal(*pair.list, pair.standard) {
			*pair.list = nil
		}
	}
}

// limitedWriter fails once more than left bytes were written.
type limitedWriter struct {
	to   *bytes.Buffer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errors.New("the output is too long")
	}
	w.left -= len(p)
	return w.to.Write(p)
}
