package push

import (
	"context"
	"fmt"
	"sync"
)

// maxTyped is how many passwords a person may type for one host: the second one is for a slip.
const maxTyped = 2

// keyring remembers a session's password, because a session that must start its agent anew may not have a person to ask.
type keyring struct {
	mu       sync.Mutex
	password []byte
}

func (k *keyring) forget() { k.remember(nil) }

// remember keeps a copy.
func (k *keyring) remember(password []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.password)
	k.password = append([]byte(nil), password...)
}

// remembered returns a copy, nil where there is none.
func (k *keyring) remembered() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]byte(nil), k.password...)
}

// asker gets passwords for one way of becoming root: first the one that worked before, then the one that other hosts took, then
// what a person types.
type asker struct {
	b    *bootstrap
	keys *keyring
	kind string
	// last is the password that was sent last, and user whose it is.
	last []byte
	user string
	// stage is the source of last.
	stage passwordStage
	typed int
	// same lets the next password be the last one again.
	same bool
}

type passwordStage int

const (
	stageNone passwordStage = iota
	stageRemembered
	stageShared
	stageTyped
)

func (k *keyring) asker(b *bootstrap, kind string) *asker { return &asker{b: b, keys: k, kind: kind} }

// password returns a copy of the next password to try for a user, the login user where that is empty; the caller zeroes it.
func (a *asker) password(ctx context.Context, user string) ([]byte, error) {
	if user == "" {
		user = a.b.found.User
	}
	a.user = user
	if a.same && a.last != nil {
		a.same = false
	} else if err := a.next(ctx, user); err != nil {
		return nil, err
	}
	return append([]byte(nil), a.last...), nil
}

// repeat lets the next attempt use the same password.
func (a *asker) repeat() { a.same = true }

func (a *asker) next(ctx context.Context, user string) error {
	c := a.b.c
	if a.stage < stageRemembered {
		if password := a.keys.remembered(); password != nil {
			a.stage, a.last = stageRemembered, password
			return nil
		}
	}
	q := question{share: c.SharePassword && user == a.b.found.User}
	q.useShared = q.share && a.stage < stageShared
	a.done()
	q.prompt = fmt.Sprintf("%s password for %s on %s: ", a.kind, user, a.b.host())
	if a.typed > 0 {
		q.prompt = "wrong, once more: " + q.prompt
	}
	password, shared, err := c.vault.ask(ctx, c.Password, q)
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
	a.keys.remember(a.last)
}

// done zeroes what is left.
func (a *asker) done() {
	clear(a.last)
	a.last = nil
}
