package agent

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	switchLog   = "switch.log"
	guardLog    = "guard.log"
	guardSocket = "guard.sock"
	nonceName   = "nonce"
	unitsName   = "units.json"
	shadowName  = "journal"
	// maxStatus bounds what is read of a transaction's files, in bytes.
	maxStatus = 1 << 20
	// keptTransactions is how many transactions a host remembers.
	keptTransactions = 20
	// openAmong is how many of the newest journals may be open. One may; more are looked at for the case that something went very wrong.
	openAmong = 3
	// unitsFailed is how switch-to-configuration says that it got to its end but units have failed.
	unitsFailed = 4
	// maxFailedUnits and failedUnitLines bound what is told about failed units, journalTimeout how long it takes to find out.
	maxFailedUnits  = 20
	failedUnitLines = 10
	journalTimeout  = 10 * time.Second
)

// The steps that a status names.
const (
	stepLock     = "lock"
	stepTest     = "test"
	stepHealth   = "health"
	stepConfirm  = "confirm"
	stepStage    = "stage"
	stepReboot   = "reboot"
	stepRollback = "rollback"
	stepDry      = "dry-activate"
	stepEnd      = "end"
)

// txnForm is a counter, so that the order of names is that of time whatever the clock does, and something random.
func txnForm() *regexp.Regexp { return regexp.MustCompile(`^t[0-9]{6}-[a-z2-7]{6}$`) }

// txnDir is a transaction's folder for this boot, stateDir the one for journals, which outlive boots.
func (h *Host) txnDir(txn string) string { return filepath.Join(h.fleetDir(), txn) }
func (h *Host) stateDir() string         { return filepath.Join(filepath.Dir(h.NixVar), "fleet") }

func (h *Host) journalPath(txn string) string {
	return filepath.Join(h.stateDir(), journalPrefix+txn+journalSuffix)
}
func (h *Host) shadowPath(txn string) string { return filepath.Join(h.txnDir(txn), shadowName) }

const (
	journalPrefix = "txn-"
	journalSuffix = ".log"
)

// makeTxnDir makes a transaction's folder. Other users may pass through it to the guard's socket, and see nothing.
func (h *Host) makeTxnDir(txn string) error {
	if err := makeFleetDir(h.fleetDir()); err != nil {
		return err
	}
	return makeFleetDir(h.txnDir(txn))
}

// journals returns the ids of the transactions that have a journal, oldest first.
func (h *Host) journals() ([]string, error) {
	entries, err := os.ReadDir(h.stateDir())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		id := strings.TrimSuffix(strings.TrimPrefix(entry.Name(), journalPrefix), journalSuffix)
		if id != entry.Name() && txnForm().MatchString(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// transactions returns the ids of all transactions, oldest first: those with a journal, and those of this boot without one.
func (h *Host) transactions() ([]string, error) {
	ids, err := h.journals()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(h.fleetDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if entry.IsDir() && txnForm().MatchString(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// newTxnID is a name that no transaction has.
func (h *Host) newTxnID() (string, error) {
	ids, err := h.transactions()
	if err != nil {
		return "", err
	}
	next := 1
	if len(ids) > 0 {
		last, err := strconv.Atoi(ids[len(ids)-1][1:7])
		if err != nil {
			return "", err
		}
		next = last + 1
	}
	return fmt.Sprintf("t%06d-%s", next, strings.ToLower(rand.Text()[:6])), nil
}

// prune forgets the oldest transactions, and what was kept for those that have ended. It is best effort, and needs the host's lock.
func (h *Host) prune() {
	ids, err := h.transactions()
	if err != nil {
		return
	}
	open, _, _, _ := h.openTxn()
	for i, id := range ids {
		if i > len(ids)-keptTransactions || id == open {
			continue
		}
		if busy, err := held(filepath.Join(h.txnDir(id), aliveName)); err == nil && !busy {
			_ = os.RemoveAll(h.txnDir(id))
			_ = os.Remove(h.journalPath(id))
		}
	}
	h.dropStaleRoots(open)
}

func (h *Host) readTxn(txn string) (opening, entry, error) {
	return readJournal(realDisk{}, h.journalPath(txn), h.shadowPath(txn))
}

// openTxn returns the transaction that has not ended; its id is empty where there is none.
func (h *Host) openTxn() (string, opening, entry, error) {
	ids, err := h.journals()
	if err != nil {
		return "", opening{}, entry{}, err
	}
	slices.Reverse(ids)
	for _, id := range ids[:min(len(ids), openAmong)] {
		o, e, err := h.readTxn(id)
		if errors.Is(err, errNotBegun) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", o, e, err
		}
		if e.open() {
			return id, o, e, nil
		}
	}
	return "", opening{}, entry{}, nil
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeAtomically(path, text)
}

func readJSON(path string, v any) error {
	text, err := readBounded(path, maxStatus)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	return nil
}

// status returns a transaction's state as it is now.
func (h *Host) status(txn string) (proto.TxnStatus, error) {
	if !txnForm().MatchString(txn) {
		return proto.TxnStatus{}, proto.Errorf(proto.CodeUsage, "%.60q is no transaction", txn)
	}
	o, e, err := h.readTxn(txn)
	if err == nil {
		return h.statusOf(o, e), nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errNotBegun) {
		return proto.TxnStatus{}, err
	}
	return h.dryStatus(txn)
}

// statusOf says what a journal's last entry means.
func (h *Host) statusOf(o opening, e entry) proto.TxnStatus {
	s := e.State
	st := proto.TxnStatus{
		Txn: o.Txn, State: proto.TxnState(s.Phase), Action: o.Action, Toplevel: o.Toplevel, Specialisation: o.Specialisation, Owner: o.Owner,
		Since: o.Created, ExitCode: s.ExitCode, Reason: s.Reason, Booted: s.Booted, Trouble: s.Trouble, NeedsReboot: e.NeedsReboot,
		Notices: slices.Concat(o.Notices, e.Notices), Step: stepOf(s),
	}
	switch {
	case s.Phase.Ended() && !e.Finished && h.journalHeld(o.Txn):
		// Its guard still clears away, and then frees the host's lock.
		st.State = map[guard.Phase]proto.TxnState{guard.Committed: proto.TxnCommitting, guard.RolledBack: proto.TxnVerifying}[s.Phase]
		if st.State == "" {
			st.State = proto.TxnJudging
		}
		st.Step = stepEnd
	case s.Phase.Succeeded():
		st.Step, st.Reason = "", ""
	case s.Phase.Ended():
		st.Step = e.Step
	}
	if s.Deadline > 0 && s.BootID == h.bootID() {
		st.DeadlineSeconds = max(1, int((time.Duration(s.Deadline)-sinceBoot()+time.Second-1)/time.Second))
	}
	seen := e.Seen
	if !e.Finished {
		seen = h.seen()
	}
	st.Current, st.Profile, st.BootDefault, st.Generation = seen.Current, seen.Profile, seen.BootDefault, seen.Generation
	if st.State != proto.TxnCommitted {
		_ = readJSON(filepath.Join(h.txnDir(o.Txn), unitsName), &st.FailedUnits) // it is not there after a boot
	}
	return st
}

// journalHeld says whether a guard has the transaction's journal.
func (h *Host) journalHeld(txn string) bool {
	busy, err := held(h.journalPath(txn))
	return err == nil && busy
}

// newest returns the id of the last transaction.
func (h *Host) newest() (string, error) {
	ids, err := h.transactions()
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return "", proto.Errorf(proto.CodeNotFound, "no transaction is known on this host")
	}
	return ids[len(ids)-1], nil
}

// sinceBoot is the time since the host has booted, sleep included.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0 // Linux has that clock
	}
	return time.Duration(now.Nano())
}

// undone names the steps that the last activation has left half-done: it failed and was to be left as it is, or is still on its way back. What a host
// runs and boots does not show that.
func (h *Host) undone() []string {
	ids, err := h.journals()
	if err != nil || len(ids) == 0 {
		return nil
	}
	_, e, err := h.readTxn(ids[len(ids)-1])
	if err != nil {
		return nil
	}
	switch s := e.State; {
	case s.Phase == guard.Prepared || s.Phase == guard.Staged || s.Phase.Ended() && s.Phase != guard.LeftAsIs:
		return nil
	case s.BootID != h.bootID() && s.Touched:
		return []string{"boot"}
	case s.BootID != h.bootID():
		return nil
	case s.Touched:
		return []string{"test", "boot"}
	}
	return []string{"test"}
}
