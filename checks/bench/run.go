package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fleet/checks/bench/workload"
	"fleet/checks/testbed/lab"
)

// measured is what one run took.
type measured struct {
	// Seconds go from the start of the command to the end of a sync on the targets.
	Seconds float64 `json:"seconds"`
	// Sync is the part of them that the sync took.
	Sync float64 `json:"sync"`
	// Wire is in bytes, in both directions, of all targets' links.
	Wire uint64 `json:"wire"`
	// SenderCPU and TargetCPU are in seconds, of all processes there.
	SenderCPU float64 `json:"senderCpu"`
	TargetCPU float64 `json:"targetCpu"`
	// SenderMemory and TargetMemory are by how much all processes' own memory grew at most, in bytes.
	SenderMemory uint64 `json:"senderMemory"`
	TargetMemory uint64 `json:"targetMemory"`
	// Steps are fleet's own times, in seconds.
	Steps map[string]float64 `json:"steps,omitempty"`
}

// patience is how long a run may take, all around it included. The slowest takes a fourth of it.
const patience = 30 * time.Minute

// once runs a method in a cell and checks what came of it.
func (f *field) once(ctx context.Context, c cell, method string, half uint64) (m measured, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	targets := f.targets[:max(1, c.scenario.hosts)]
	if err := f.restore(ctx, targets, c.scenario.from); err != nil {
		return m, err
	}
	for _, h := range targets {
		if err := h.Confine(ctx, c.scenario.bounds); err != nil {
			return m, err
		}
		release, err := h.Shape(ctx, c.link.Link)
		if err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, release()) }() // for each of them
	}
	command, done, err := f.command(ctx, c, method, targets)
	if err != nil {
		return m, err
	}
	defer done()
	if err := f.ready(ctx, c, targets); err != nil {
		return m, err
	}
	if m, err = f.measure(ctx, command, targets, half); err != nil {
		return m, fmt.Errorf("%s by %s: %w", c, method, err)
	}
	return m, f.check(ctx, c, targets)
}

// command prepares a method's command; done removes what it needed.
func (f *field) command(ctx context.Context, c cell, method string, targets []*lab.Host) (cmd *exec.Cmd, done func(), err error) {
	closure := f.closures[c.scenario.closure]
	if method != floor && method != floorVia {
		argv, err := f.argv(ctx, method, closure.Top, targets, c.scenario.drop)
		if err != nil {
			return nil, nil, err
		}
		return owned(ctx, f.operator.Host, argv...)
	}
	before := f.closures[workload.Base]
	if c.scenario.from == emptyStore {
		before = nil
	}
	file, err := os.CreateTemp(filepath.Dir(closure.File), "floor-*")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { file.Close(); os.Remove(file.Name()) }
	if err := closure.CopyPaths(file, closure.Without(before)); err != nil {
		remove()
		return nil, nil, err
	}
	if _, err := file.Seek(0, 0); err != nil {
		remove()
		return nil, nil, err
	}
	text := "nix-store --import >/dev/null"
	if method == floorVia {
		text = "NIX_REMOTE=daemon " + text
	}
	cmd, release, err := owned(ctx, targets[0], "sh", "-c", text)
	if err != nil {
		remove()
		return nil, nil, err
	}
	cmd.Stdin = file
	return cmd, func() { release(); remove() }, nil
}

// owned prepares a command that is counted as the host's.
func owned(ctx context.Context, h *lab.Host, argv ...string) (cmd *exec.Cmd, release func(), err error) {
	cmd, err = h.Command(ctx, argv...)
	if err != nil {
		return nil, nil, err
	}
	release, err = h.Own(cmd)
	return cmd, release, err
}

// ready brings all caches into the same state: the programs are in them, the stores' contents are not.
func (f *field) ready(ctx context.Context, c cell, targets []*lab.Host) error {
	if err := dropCaches(); err != nil {
		return err
	}
	for _, h := range targets {
		if _, err := h.Sh(ctx, `NIX_REMOTE=daemon nix-store --check-validity "$1"; cat /nix/store/*-fleet-helper-*/bin/fleet-helper >/dev/null; zstd --version >/dev/null`, f.prime); err != nil {
			return err
		}
		if _, err := f.operator.Sh(ctx, `cat "$1/bin/fleet-helper" >/dev/null; nix-store --check-validity "$2"; NIX_REMOTE=daemon nix-store --check-validity "$2"; nix --version >/dev/null; zstd --version >/dev/null
ssh "root@$3" nix-store --check-validity "$4"`, f.helper, f.closures[c.scenario.closure].Top, h.Name, f.prime); err != nil {
			return err
		}
	}
	return f.idle(targets)
}

func dropCaches() error {
	if out, err := exec.Command("sync").CombinedOutput(); err != nil {
		return fmt.Errorf("sync: %w: %s", err, out)
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// idle waits until the targets' processes rest, or for 5 s.
func (f *field) idle(targets []*lab.Host) error {
	const look = 200 * time.Millisecond
	for range 25 {
		before, err := cpu(targets)
		if err != nil {
			return err
		}
		time.Sleep(look)
		after, err := cpu(targets)
		if err != nil || after-before < look/20 {
			return err
		}
	}
	return nil
}

func cpu(hosts []*lab.Host) (sum time.Duration, err error) {
	for _, h := range hosts {
		d, err := h.CPU()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

func wire(hosts []*lab.Host) (sum uint64, err error) {
	for _, h := range hosts {
		in, out, err := h.Wire()
		if err != nil {
			return 0, err
		}
		sum += in + out
	}
	return sum, nil
}

// measure runs the command, and ends the clock when what it brought is on the targets' disks. The connections break after half bytes, unless that is 0.
func (f *field) measure(ctx context.Context, command *exec.Cmd, targets []*lab.Host, half uint64) (m measured, err error) {
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	sender := []*lab.Host{f.operator.Host}
	var before, after [3]uint64
	if before, err = counters(sender, targets); err != nil {
		return m, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	senderPeak, targetPeak := watchMemory(watching, sender), watchMemory(watching, targets)
	broken := f.breakAt(watching, targets, before[0]+half, half > 0)
	start := time.Now()
	err = command.Run()
	ended := time.Now()
	if err == nil {
		err = syncAll(ctx, targets)
	}
	m.Seconds, m.Sync = time.Since(start).Seconds(), time.Since(ended).Seconds()
	stop()
	m.SenderMemory, m.TargetMemory = <-senderPeak, <-targetPeak
	if dropErr := <-broken; err == nil {
		err = dropErr
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s%s", err, tail(errs.String()), tail(out.String()))
	}
	if after, err = counters(sender, targets); err != nil {
		return m, err
	}
	m.Wire = after[0] - before[0]
	m.SenderCPU = time.Duration(after[1] - before[1]).Seconds()
	m.TargetCPU = time.Duration(after[2] - before[2]).Seconds()
	m.Steps = steps(out.Bytes())
	return m, nil
}

// counters are bytes on the wire and the processor time of both sides.
func counters(sender, targets []*lab.Host) ([3]uint64, error) {
	bytes, err := wire(targets)
	if err != nil {
		return [3]uint64{}, err
	}
	s, err := cpu(sender)
	if err != nil {
		return [3]uint64{}, err
	}
	t, err := cpu(targets)
	return [3]uint64{bytes, uint64(s), uint64(t)}, err
}

func syncAll(ctx context.Context, targets []*lab.Host) error {
	// One is enough: the targets share the machine's disk.
	_, err := targets[0].Exec(ctx, "sync")
	return err
}

// memoryLook is how often memory is looked at.
const memoryLook = 100 * time.Millisecond

// watchMemory returns by how much the memory of all processes grew at most, once ctx ends.
func watchMemory(ctx context.Context, hosts []*lab.Host) <-chan uint64 {
	result := make(chan uint64, 1)
	look := func() (sum uint64) {
		for _, h := range hosts {
			n, _ := h.Memory() // a look that fails is one less
			sum += n
		}
		return sum
	}
	first := look()
	go func() {
		peak := first
		tick := time.NewTicker(memoryLook)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				result <- peak - first
				return
			case <-tick.C:
				peak = max(peak, look())
			}
		}
	}()
	return result
}

// breakAt kills the targets' SSH sessions once the counters reach a mark, and returns an error where that never came.
func (f *field) breakAt(ctx context.Context, targets []*lab.Host, mark uint64, wanted bool) <-chan error {
	result := make(chan error, 1)
	if !wanted {
		result <- nil
		return result
	}
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				result <- errors.New("it ended before its connections were broken")
				return
			case <-tick.C:
			}
			if n, err := wire(targets); err != nil || n < mark {
				continue
			}
			_, err := targets[0].Sh(ctx, `pkill --signal KILL --full '[s]shd-session|[s]shd: root@'`)
			result <- err
			return
		}
	}()
	return result
}

// steps reads the report of --json, of one host.
func steps(out []byte) map[string]float64 {
	for line := range bytes.Lines(out) {
		var report struct {
			Type  string
			Hosts []struct{ Steps map[string]float64 }
		}
		if json.Unmarshal(line, &report) == nil && report.Type == "report" && len(report.Hosts) == 1 {
			return report.Hosts[0].Steps
		}
	}
	return nil
}

func tail(text string) string {
	const most = 1500
	return strings.TrimSpace(text[max(0, len(text)-most):])
}
