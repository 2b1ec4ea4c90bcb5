package transport

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// watchdog ends something that takes too long. Time in which a person is asked does not count.
type watchdog struct {
	limit time.Duration
	timer *time.Timer
	fired atomic.Bool

	mu     sync.Mutex
	paused int
	ended  bool
	since  time.Time
	waited time.Duration
}

func newWatchdog(limit time.Duration, bite func()) *watchdog {
	w := &watchdog{limit: limit}
	w.timer = time.AfterFunc(limit, func() {
		w.fired.Store(true)
		bite()
	})
	return w
}

// stop must be called; afterwards nothing bites any more.
func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// human runs f, which may wait for a person; afterwards the full limit holds again.
func (w *watchdog) human(f func()) {
	w.pause(1)
	defer w.pause(-1)
	f()
}

func (w *watchdog) pause(by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused == 0 {
		w.since = time.Now()
	}
	w.paused += by
	if w.paused == 0 {
		w.waited += time.Since(w.since)
	}
	if w.ended || w.fired.Load() {
		return
	}
	if w.paused > 0 {
		w.timer.Stop()
	} else {
		w.timer.Reset(w.limit)
	}
}

// extend gives the full limit once more, and by on top.
func (w *watchdog) extend(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && !w.fired.Load() && w.paused == 0 {
		w.timer.Reset(w.limit + by)
	}
}

// waitedForHuman is the time that was spent in human.
func (w *watchdog) waitedForHuman() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waited
}

// humanSigner lets an agent take its time for a person to agree; the agent's own limit still holds.
func humanSigner(signer ssh.Signer, human func(func())) ssh.Signer {
	if as, ok := signer.(ssh.AlgorithmSigner); ok {
		return &patientSigner{as, human}
	}
	return signer
}

type patientSigner struct {
	ssh.AlgorithmSigner
	human func(func())
}

var _ ssh.MultiAlgorithmSigner = (*patientSigner)(nil)

func (s *patientSigner) Algorithms() []string { return keyAlgorithms(plainType(s.PublicKey().Type())) }

func (s *patientSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	s.human(func() { sig, err = s.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm) })
	return sig, err
}
