package ui

import (
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
	if _, err := fmt.Fprintf(tty, "%s%s [y/N] ", b.String(), question); err != nil {
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
