package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"fleet/checks/bench/workload"
)

// machine says what the numbers depend on.
func (f *field) machine(ctx context.Context) ([]string, error) {
	nix, err := f.operator.Exec(ctx, "nix", "--version")
	if err != nil {
		return nil, err
	}
	ssh, err := f.operator.Exec(ctx, "ssh", "-V")
	if err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	control, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return nil, err
	}
	window, err := os.ReadFile("/proc/sys/net/ipv4/tcp_wmem")
	if err != nil {
		return nil, err
	}
	revision, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git for the revision: %w", err)
	}
	return []string{
		fmt.Sprintf("%s: %d processors (%s) for the operator's machine and all targets together, kernel %s; fleet %s", time.Now().Format("2006-01-02"), runtime.NumCPU(), processor(), strings.TrimSpace(string(kernel)), strings.TrimSpace(string(revision))),
		fmt.Sprintf("%s on both sides, %s, its ciphers left as they are; TCP %s, tcp_wmem %s", strings.TrimSpace(nix), strings.TrimSpace(ssh),
			strings.TrimSpace(string(control)), strings.Join(strings.Fields(string(window)), " ")),
	}, nil
}

func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo") // for people
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// facts notes what the cells' scenarios have to move.
func (f *field) facts(ctx context.Context, r *results, cells []cell) error {
	for _, c := range cells {
		s := c.scenario
		closure := f.closures[s.closure]
		before := f.closures[workload.Base]
		if s.from == emptyStore {
			before = nil
		}
		missing := closure.Without(before)
		now := facts{Paths: len(missing)}
		for _, p := range missing {
			now.NAR += p.NarSize
		}
		if s.closure == workload.Upgrade {
			var err error
			if now.Zstd19, err = f.zstd19(ctx, closure, missing); err != nil {
				return err
			}
		}
		r.Facts[s.name] = now
	}
	return nil
}

// zstd19 is how much `zstd -19` leaves of paths, in bytes. It is kept beside the closure, since it takes minutes.
func (f *field) zstd19(ctx context.Context, closure *workload.Closure, paths []workload.Path) (uint64, error) {
	kept := closure.File + ".zstd19"
	if data, err := os.ReadFile(kept); err == nil {
		return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	}
	f.say("compressing with zstd -19, for comparison")
	cmd := exec.CommandContext(ctx, "sh", "-euc", "zstd -19 -T0 -q | wc -c")
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	copied := make(chan error, 1)
	go func() { copied <- errors.Join(closure.CopyPaths(in, paths), in.Close()) }()
	out, err := cmd.Output()
	if err = errors.Join(err, <-copied); err != nil {
		return 0, fmt.Errorf("compress with zstd -19: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return 0, err
	}
	return n, os.WriteFile(kept, out, 0o644)
}
