package push

import (
	"context"
	"fmt"
)

// maxTyped is how many passwords a person may type for one host: the second one is for a slip.
const maxTyped = 2

// keyring remembers a session's password, because a session that must start its agent anew may not have a person to ask. It
// is used by one goroutine at a time.
type keyring struct{ password []byte }

func (k *keyring) forget() {
	clear(k.password)
	k.password = nil
}

// asker gets passwords for one way of becoming root: first the one that worked before, then the one that other hosts took, then
// what a person types.
type asker struct {
	b    *bootstrap
	keys *keyring
	kind string
	// last is the password that was sent last.
	last []byte
	// stage is the source of last.
	stage passwordStage
	typed int
}

type passwordStage int

const (
	stageNone passwordStage = iota
	stageRemembered
	stageShared
	stageTyped
)

func (k *keyring) asker(b *bootstrap, kind string) *asker { return &asker{b: b, keys: k, kind: kind} }

// password returns a copy of the next password to try; the caller zeroes it.
func (a *asker) password(ctx context.Context) ([]byte, error) {
	if err := a.next(ctx); err != nil {
		return nil, err
	}
	return append([]byte(nil), a.last...), nil
}

func (a *asker) next(ctx context.Context) error {
	c := a.b.c
	if a.stage < stageRemembered && a.keys.password != nil {
		a.stage, a.last = stageRemembered, append([]byte(nil), a.keys.password...)
		return nil
	}
	useShared := c.SharePassword && a.stage < stageShared
	if c.Password == nil && !(useShared && c.vault.has()) {
		return errNobody
	}
	a.done()
	prompt := fmt.Sprintf("%s password for %s on %s: ", a.kind, a.b.found.User, a.b.host())
	if a.typed > 0 {
		prompt = "wrong, once more: " + prompt
	}
	password, shared, err := c.vault.ask(ctx, c, prompt, useShared)
	if err != nil {
		return err
	}
	a.last = password
	if shared {
		a.stage = stageShared
		return nil
	}
	a.stage = stageTyped
	a.typed++
	return nil
}

// again reports whether another password may be tried after a wrong one.
func (a *asker) again() bool {
	if a.stage == stageRemembered {
		a.keys.forget()
	}
	return a.typed < maxTyped
}

// worked remembers the password that was taken, if one was needed, and begins with it next time.
func (a *asker) worked() {
	if a.last == nil {
		return
	}
	a.stage = stageNone
	a.keys.forget()
	a.keys.password = append([]byte(nil), a.last...)
}

// done zeroes what is left.
func (a *asker) done() {
	clear(a.last)
	a.last = nil
}
