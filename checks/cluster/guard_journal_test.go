//go:build cluster

package cluster

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet/checks/testbed/lab"
)

// The phases of a transaction that tests wait for (push/guard).
const (
	prepared       = "prepared"
	switching      = "switching"
	judging        = "judging"
	awaitConfirm   = "await-confirm"
	committing     = "committing"
	staging        = "staging"
	staged         = "staged"
	rebooting      = "rebooting"
	rollingBack    = "rolling-back"
	rollbackReboot = "rollback-reboot"
	rollbackFailed = "rollback-failed"
	verifying      = "verifying"
	committed      = "committed"
	tested         = "tested"
	rolledBack     = "rolled-back"
	leftAsIs       = "left-as-is"
)

// record is what a test reads of a journal's entry (push/agent/journal.go).
type record struct {
	Seq   int `json:"seq"`
	State struct {
		Phase     string `json:"phase"`
		Step      string `json:"step"`
		BootID    string `json:"bootId"`
		Reason    string `json:"reason"`
		Trouble   string `json:"trouble"`
		Confirmed bool   `json:"confirmed"`
		Rebooted  bool   `json:"rebooted"`
		// Deadline is a moment of CLOCK_BOOTTIME, which is the machine's.
		Deadline time.Duration `json:"deadline"`
	} `json:"state"`
	Finished bool `json:"finished"`
}

// open says whether something remains to be done.
func (r record) open() bool {
	return !slices.Contains([]string{committed, tested, rolledBack, leftAsIs}, r.State.Phase) || !r.Finished
}

// lastRecord returns the newest whole record of a journal's text.
func lastRecord(data []byte) record {
	var last record
	for len(data) > 8 {
		size := int(binary.LittleEndian.Uint32(data))
		if size == 0 || size > len(data)-8 {
			break
		}
		text := data[8 : 8+size]
		if crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(data[4:]) {
			break
		}
		var r record
		if json.Unmarshal(text, &r) == nil && r.Seq > last.Seq {
			last = r
		}
		data = data[8+size:]
	}
	return last
}

// rootOf is the host's file system, seen from the machine that runs it; empty while the host is down.
func rootOf(h *lab.Host) string {
	pid := h.PID()
	if pid == 0 {
		return ""
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	if _, err := os.Stat(root + "/sbin/init"); err != nil || root == "" {
		return "" // its first program still builds the file system
	}
	if _, err := os.Stat(root + "/run/systemd"); err != nil {
		return ""
	}
	return root
}

// journalFiles are the journal, and what stands in for it while the disk takes nothing.
func journalFiles(txn string) []string {
	return []string{"/nix/var/fleet/txn-" + txn + ".log", "/run/fleet/" + txn + "/journal"}
}

// written is when a transaction's journal was last written.
func written(root, txn string) time.Time {
	var last time.Time
	for _, path := range journalFiles(txn) {
		if info, err := os.Stat(root + path); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// newestTxn is the newest transaction that the host has written down, and its last record.
func newestTxn(h *lab.Host) (string, record) {
	root := rootOf(h)
	if root == "" {
		return "", record{}
	}
	txn := nameOfNewest(root)
	if txn == "" {
		return "", record{}
	}
	return txn, recordOf(root, txn)
}

func nameOfNewest(root string) string {
	entries, err := os.ReadDir(root + "/nix/var/fleet") // sorted
	if err != nil {
		return ""
	}
	for _, entry := range slices.Backward(entries) {
		if name, ok := strings.CutPrefix(entry.Name(), "txn-"); ok && strings.HasSuffix(name, ".log") {
			return strings.TrimSuffix(name, ".log")
		}
	}
	return ""
}

func recordOf(root, txn string) record {
	var last record
	for _, path := range journalFiles(txn) {
		data, err := os.ReadFile(root + path)
		if err != nil {
			continue
		}
		if r := lastRecord(data); r.Seq > last.Seq {
			last = r
		}
	}
	return last
}

// sight is a moment at which a transaction was seen in another phase, or its host in another boot.
type sight struct {
	phase string
	pid   int
	at    time.Time
}

// lookout follows the transactions that begin on a host, and holds what it sees against what has to be true at every moment.
type lookout struct {
	t    *testing.T
	host *lab.Host
	// before is the newest transaction when the lookout began.
	before string
	// profile and conf are what the profile and the boot loader's configuration were then.
	profile, conf string
	stop          chan struct{}
	done          chan struct{}

	// read is what was read last, of which transaction, as it was written when.
	read   record
	readOf string
	readAt time.Time

	mu       sync.Mutex
	txn      string
	last     record
	sights   []sight
	breaches []string
}

const lookEvery = 10 * time.Millisecond

// lookOut follows the host until close is called.
func lookOut(t *testing.T, h *lab.Host) *lookout {
	t.Helper()
	l := &lookout{t: t, host: h, stop: make(chan struct{}), done: make(chan struct{})}
	l.before, _ = newestTxn(h)
	l.profile, l.conf = l.persistent(rootOf(h))
	go l.run()
	return l
}

func (l *lookout) close() {
	close(l.stop)
	<-l.done
}

func (l *lookout) run() {
	defer close(l.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.look()
		}
	}
}

// persistent is what decides about the next boot: the profile's link, and the boot loader's configuration.
func (l *lookout) persistent(root string) (profile, conf string) {
	profile, _ = os.Readlink(root + "/nix/var/nix/profiles/system")
	text, _ := os.ReadFile(root + "/boot/loader/loader.conf")
	return profile, string(text)
}

func (l *lookout) look() {
	root := rootOf(l.host)
	if root == "" {
		return
	}
	profile, conf := l.persistent(root)
	txn := nameOfNewest(root)
	if txn == "" || txn == l.before {
		return
	}
	// What was written just now may be written again in the same tick of the file system's clock.
	r := l.read
	if at := written(root, txn); at != l.readAt || time.Since(at) < 200*time.Millisecond || txn != l.readOf {
		r = recordOf(root, txn)
		l.read, l.readOf, l.readAt = r, txn, at
	}
	if r.Seq == 0 {
		return
	}
	now, pid := time.Now(), l.host.PID()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.txn, l.last = txn, r
	if n := len(l.sights); n == 0 || l.sights[n-1].phase != r.State.Phase || l.sights[n-1].pid != pid {
		l.sights = append(l.sights, sight{r.State.Phase, pid, now})
	}
	// Profile and configuration were read before the phase, so they are at most as new as that.
	unconfirmed := []string{prepared, switching, judging, awaitConfirm}
	if slices.Contains(unconfirmed, r.State.Phase) && (profile != l.profile || conf != l.conf) && rootOf(l.host) == root {
		l.breach("in %q, before a confirmation, the profile is %s (was %s) and the loader says %q (was %q)", r.State.Phase, profile, l.profile, conf, l.conf)
	}
}

func (l *lookout) breach(format string, args ...any) {
	if len(l.breaches) < 3 {
		l.breaches = append(l.breaches, fmt.Sprintf(format, args...))
	}
}

// now returns what was seen last.
func (l *lookout) now() (string, record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.txn, l.last
}

// await returns once the transaction has been in one of the phases; false where it has ended otherwise, or nothing comes.
func (l *lookout) await(patience time.Duration, phases ...string) bool {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		l.mu.Lock()
		seen := slices.ContainsFunc(l.sights, func(s sight) bool { return slices.Contains(phases, s.phase) })
		over := l.txn != "" && !l.last.open()
		l.mu.Unlock()
		if seen || over {
			return seen
		}
		time.Sleep(lookEvery / 2)
	}
	return false
}

// awaitEnd returns once the transaction has ended and nothing of it is left to be done.
func (l *lookout) awaitEnd(patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if txn, r := l.now(); txn != "" && !r.open() {
			return true
		}
		time.Sleep(lookEvery)
	}
	return false
}

// firstAt is when one of the phases was seen first, lastAt when last; zero where never.
func (l *lookout) firstAt(phases ...string) time.Time { return l.at(false, phases) }
func (l *lookout) lastAt(phases ...string) time.Time  { return l.at(true, phases) }

func (l *lookout) at(last bool, phases []string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found time.Time
	for _, s := range l.sights {
		if slices.Contains(phases, s.phase) && (found.IsZero() || last) {
			found = s.at
		}
	}
	return found
}

// bootedAt is when the host was seen in another boot for the last time, zero where it has not rebooted.
func (l *lookout) bootedAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found time.Time
	for i, s := range l.sights {
		if i > 0 && s.pid != l.sights[i-1].pid {
			found = s.at
		}
	}
	return found
}

// story is what was seen, for a person.
func (l *lookout) story() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for i, s := range l.sights {
		if i == 0 {
			fmt.Fprintf(&b, "%s (%s)", s.phase, l.txn)
			continue
		}
		boot := ""
		if s.pid != l.sights[i-1].pid {
			boot = "another boot, "
		}
		fmt.Fprintf(&b, ", +%.2fs %s%s", s.at.Sub(l.sights[0].at).Seconds(), boot, s.phase)
	}
	return cmp.Or(b.String(), "no transaction") + "; reason: " + cmp.Or(l.last.State.Reason, "none") + "; trouble: " + cmp.Or(l.last.State.Trouble, "none")
}
