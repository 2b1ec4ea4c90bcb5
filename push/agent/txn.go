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

	"fleet/push/proto"
)

const (
	requestName  = "request.json"
	statusName   = "status.json"
	decisionName = "decision"
	switchLog    = "switch.log"
	// maxStatus bounds what is read of a transaction's files, in bytes.
	maxStatus = 1 << 20
	// keptTransactions is how many transactions a host remembers.
	keptTransactions = 20
	// workerStart is how long a transaction may have no worker after it was begun.
	workerStart = 30 * time.Second

	rootPrefix = "activating-"

	decisionRun   = "run"
	decisionAbort = "abort"
)

// The steps that a status names.
const (
	stepLock    = "lock"
	stepTest    = "test"
	stepProfile = "profile"
	stepBoot    = "boot"
	stepVerify  = "verify"
	stepDry     = "dry-activate"
)

// request is what a worker is asked to do; it never changes.
type request struct {
	proto.BeginRequest
	Txn    string `json:"txn"`
	Since  string `json:"since"`
	BootID string `json:"bootId"`
	// Begun is the time since boot: the clock may be set at any moment.
	Begun time.Duration `json:"begun"`
	// Detach says that the worker was not started by a service manager and has to leave its starter's streams.
	Detach bool `json:"detach"`
}

// txnForm is a counter, so that the order of names is that of time whatever the clock does, and something random.
func txnForm() *regexp.Regexp { return regexp.MustCompile(`^t[0-9]{6}-[a-z2-7]{6}$`) }

func (h *Host) txnDir(txn string) string { return filepath.Join(h.fleetDir(), txn) }

// transactions returns the ids of all transactions, oldest first.
func (h *Host) transactions() ([]string, error) {
	entries, err := os.ReadDir(h.fleetDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && txnForm().MatchString(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// newTxn makes a transaction's folder with its request and a first status.
func (h *Host) newTxn(req request) (request, error) {
	if err := makeFleetDir(h.fleetDir()); err != nil {
		return req, err
	}
	ids, err := h.transactions()
	if err != nil {
		return req, err
	}
	h.prune(ids)
	next := 1
	if len(ids) > 0 {
		last, err := strconv.Atoi(ids[len(ids)-1][1:7])
		if err != nil {
			return req, err
		}
		next = last + 1
	}
	req.Begun = sinceBoot()
	req.Txn = fmt.Sprintf("t%06d-%s", next, strings.ToLower(rand.Text()[:6]))
	dir := h.txnDir(req.Txn)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return req, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, aliveName), nil, 0o600),
		os.WriteFile(filepath.Join(dir, switchLog), nil, 0o600),
		writeJSON(filepath.Join(dir, requestName), req),
		writeJSON(filepath.Join(dir, statusName), firstStatus(req)))
	if err != nil {
		return req, errors.Join(err, os.RemoveAll(dir))
	}
	return req, nil
}

func firstStatus(req request) proto.TxnStatus {
	return proto.TxnStatus{
		Txn: req.Txn, State: proto.TxnPrepared, Action: req.Action, Toplevel: req.Toplevel,
		Specialisation: req.Specialisation, Owner: req.Owner, Since: req.Since,
	}
}

// prune forgets the oldest transactions and the roots of those that have ended. It is best effort.
func (h *Host) prune(ids []string) {
	for i, id := range ids {
		if busy, err := held(filepath.Join(h.txnDir(id), aliveName)); err != nil || busy {
			continue
		}
		if i <= len(ids)-keptTransactions {
			_ = os.RemoveAll(h.txnDir(id))
		}
	}
	roots, err := filepath.Glob(filepath.Join(h.rootsDir(), rootPrefix+"*"))
	if err != nil {
		return
	}
	for _, root := range roots {
		id := strings.TrimPrefix(filepath.Base(root), rootPrefix)
		status, err := h.status(id)
		if err != nil || status.State.Done() {
			_ = os.Remove(root)
		}
	}
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

// status returns a transaction's state as it is now: a worker that is gone without having said how it ended has failed.
func (h *Host) status(txn string) (proto.TxnStatus, error) {
	var st proto.TxnStatus
	if !txnForm().MatchString(txn) {
		return st, proto.Errorf(proto.CodeUsage, "%.60q is no transaction", txn)
	}
	var req request
	dir := h.txnDir(txn)
	err := errors.Join(readJSON(filepath.Join(dir, requestName), &req), readJSON(filepath.Join(dir, statusName), &st))
	if errors.Is(err, fs.ErrNotExist) {
		return st, proto.Errorf(proto.CodeNotFound, "transaction %s is not known on this host: it is older than the last %d, or the host has rebooted since", txn, keptTransactions)
	}
	if err != nil || st.State.Done() {
		return st, err
	}
	if req.BootID != h.bootID() {
		return h.broken(st, "the host has rebooted"), nil
	}
	busy, err := held(filepath.Join(dir, aliveName))
	if err != nil || busy {
		return st, err
	}
	// The worker may have written its last word between the two looks.
	if err := readJSON(filepath.Join(dir, statusName), &st); err != nil || st.State.Done() {
		return st, err
	}
	if st.State == proto.TxnPrepared && sinceBoot()-req.Begun < workerStart {
		return st, nil
	}
	return h.broken(st, "its process was ended"), nil
}

// sinceBoot is the time since the host has booted, sleep included.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0 // Linux has that clock
	}
	return time.Duration(now.Nano())
}

// broken makes a status out of one whose worker cannot go on.
func (h *Host) broken(st proto.TxnStatus, why string) proto.TxnStatus {
	st.Reason = fmt.Sprintf("the activation stopped in step %q: %s", st.Step, why)
	if st.State == proto.TxnPrepared {
		st.Reason = "the activation never began: " + why
	}
	st.State = proto.TxnFailed
	h.describe(&st)
	return st
}

// describe fills in what the host runs and boots.
func (h *Host) describe(st *proto.TxnStatus) {
	systems := h.systems()
	st.Current, st.Profile = systems.current.String(), systems.profile.String()
	st.BootDefault, st.Generation = systems.boot.Toplevel.String(), systems.generation
}

// newest returns the id of the last transaction.
func (h *Host) newest() (string, error) {
	ids, err := h.transactions()
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return "", proto.Errorf(proto.CodeNotFound, "no transaction since the host has booted")
	}
	return ids[len(ids)-1], nil
}

// decide settles, once and for all, whether a transaction runs or is aborted; it reports what was decided.
func (h *Host) decide(txn, wanted string) (string, error) {
	path := filepath.Join(h.txnDir(txn), decisionName)
	// A link appears together with its contents, and only one of two can make it.
	err := os.Symlink(wanted, path)
	if err == nil {
		return wanted, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return os.Readlink(path)
}
