package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/cmd/fleet-helper/internal/text"
	"fleet/push/deploy"
)

// ErrNoTerminal says that there is nobody to ask.
var ErrNoTerminal = errors.New("there is no terminal to ask on")

// Prompter asks a person on the terminal, one question at a time, with the display out of the way.
type Prompter struct {
	Env     *cli.Env
	Display Display

	mu sync.Mutex
}

// Password asks for a password without echo. The prompt may come from a host's name; it is cleaned.
func (p *Prompter) Password(ctx context.Context, prompt string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tty, done, err := p.open(ctx)
	if err != nil {
		return nil, cli.WithHint(fmt.Errorf("ask %q: %w", text.Line(prompt), err), "run it from a terminal, or configure a login that needs no password (root by key, or passwordless sudo)")
	}
	defer done()
	password, err := tty.ReadPassword(ctx, strings.TrimSpace(text.Line(prompt))+" ")
	fmt.Fprintln(tty)
	return password, err
}

// ErrDifferent says that what was typed twice was not the same.
var ErrDifferent = errors.New("the two lines differ")

// NewSecret asks for a value without echo, twice, so that a typing mistake is no value. The caller wipes it. The question may come from the
// flake; it is cleaned.
func (p *Prompter) NewSecret(ctx context.Context, question string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tty, done, err := p.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %q: %w", text.Line(question), err)
	}
	defer done()
	first, err := tty.ReadPassword(ctx, strings.TrimSpace(text.Line(question))+" ")
	fmt.Fprintln(tty)
	if err != nil {
		return nil, err
	}
	second, err := tty.ReadPassword(ctx, "the same again: ")
	fmt.Fprintln(tty)
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		err = ErrDifferent
	}
	if err != nil {
		clear(first)
		return nil, err
	}
	return first, nil
}

// Line asks for a line that is shown as it is typed, such as the name of a file.
func (p *Prompter) Line(ctx context.Context, question string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tty, done, err := p.open(ctx)
	if err != nil {
		return "", fmt.Errorf("ask %q: %w", text.Line(question), err)
	}
	defer done()
	if _, err := fmt.Fprint(tty, strings.TrimSpace(text.Line(question))+" "); err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	answer, err := tty.ReadLine(ctx)
	if err != nil {
		fmt.Fprintln(tty)
	}
	return strings.TrimSpace(answer), err
}

// Yes shows lines, asks a question and reads a line. Anything but yes is no.
func (p *Prompter) Yes(ctx context.Context, lines []string, question string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tty, done, err := p.open(ctx)
	if err != nil {
		return false, fmt.Errorf("ask %q: %w", text.Line(question), err)
	}
	defer done()
	var b strings.Builder
	for i, line := range lines {
		if i == maxShown {
			fmt.Fprintf(&b, "  … and %d more\n", len(lines)-i)
			break
		}
		fmt.Fprintf(&b, "  %s\n", text.Line(line))
	}
	return readYes(ctx, tty, b.String()+text.Line(question))
}

// readYes asks on an open terminal.
func readYes(ctx context.Context, tty cli.TTY, question string) (bool, error) {
	if _, err := fmt.Fprintf(tty, "%s [y/N] ", question); err != nil {
		return false, fmt.Errorf("ask on the terminal: %w", err)
	}
	answer, err := tty.ReadLine(ctx)
	if err != nil {
		fmt.Fprintln(tty)
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// maxShown is how many changes are listed in a question.
const maxShown = 20

// Confirm shows what is about to change and asks whether to go on. Anything but yes is no.
func (p *Prompter) Confirm(ctx context.Context, question string, changes []deploy.Change) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tty, done, err := p.open(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	var b strings.Builder
	for i, c := range changes {
		if i == maxShown {
			fmt.Fprintf(&b, "  … and %d more\n", len(changes)-i)
			break
		}
		fmt.Fprintf(&b, "  %s\n    %s\n  → %s\n", text.Line(c.Host), text.Line(orNone(c.Old)), text.Line(c.New))
	}
	return readYes(ctx, tty, b.String()+question)
}

// open returns the terminal and what gives it back.
func (p *Prompter) open(ctx context.Context) (cli.TTY, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if p.Env.OpenTTY == nil {
		return nil, nil, ErrNoTerminal
	}
	tty, err := p.Env.OpenTTY()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrNoTerminal, err)
	}
	resume := p.Display.Suspend()
	return tty, func() {
		// Nothing was written that could be lost.
		_ = tty.Close()
		resume()
	}, nil
}

func orNone(s string) string {
	if s == "" {
		return "(nothing)"
	}
	return s
}
