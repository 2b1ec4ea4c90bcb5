package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"fleet/push/guard"
	"fleet/push/proto"
)

const (
	// journalSize is what a journal takes of the disk before anything is begun, so that a full disk cannot stop it half-way.
	journalSize = 64 << 10
	// maxJournal is the size at which a journal is written anew, with its last state alone: a rollback that goes on trying writes for ever.
	maxJournal    = 1 << 20
	maxRecord     = 256 << 10
	recordHeader  = 8
	journalFormat = 1
)

// journal is what a transaction's guard has written down. A record is its length and the checksum of its text, four bytes each, and the text:
// first the opening, then an entry for every step. What is torn at the end does not count.
//
// One process writes, which holds the file's lock. Where the disk takes nothing any more, entries go to a shadow in memory, which holds as
// long as this boot: after the next one the state on the disk is the right one to go on from.
type journal struct {
	disk         journalDisk
	path, shadow string
	file         journalFile
	// end is where the next record belongs, reserved the end of what is known to be there for it.
	end, reserved int64
	// shadowFile is nil until it is needed.
	shadowFile journalFile
	shadowEnd  int64
	opening    opening
	last       entry
}

// opening is the first record: what the transaction is.
type opening struct {
	Format int    `json:"format"`
	Txn    string `json:"txn"`
	Owner  string `json:"owner"`
	// Created is for people, RFC 3339.
	Created string       `json:"created"`
	BootID  string       `json:"bootId"`
	Action  proto.Action `json:"action"`
	// Toplevel and Specialisation are what was asked for.
	Toplevel       string `json:"toplevel"`
	Specialisation string `json:"specialisation,omitempty"`
	// Helper is the program that guards, pinned for the whole transaction.
	Helper   string            `json:"helper"`
	Policy   proto.GuardPolicy `json:"policy"`
	Baseline Baseline          `json:"baseline"`
	Notices  []string          `json:"notices,omitempty"`
}

// entry is every later record: the state after a step, and what the guard itself has to remember.
type entry struct {
	Seq   int         `json:"seq"`
	State guard.State `json:"state"`
	// Made is the generation of the profile that this transaction has made or is about to make, 0 for none.
	Made int `json:"made,omitempty"`
	// Switched is when the new system had been activated: a connection that confirms is younger. 0 after a boot.
	Switched guard.Boottime `json:"switched,omitempty"`
	// LogBase is what the offsets of the present log begin with: a log does not outlive a boot.
	LogBase uint64 `json:"logBase,omitempty"`
	// Step is the step that failed.
	Step    string   `json:"step,omitempty"`
	Drained bool     `json:"drained,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// Finished says that nothing of an ended transaction is left to be cleared away; Seen is then what the host was, and NeedsReboot whether
	// its kernel was an older one.
	Finished    bool          `json:"finished,omitempty"`
	Seen        guard.Systems `json:"seen,omitzero"`
	NeedsReboot bool          `json:"needsReboot,omitempty"`
}

// open says whether something remains to be done for the transaction.
func (e entry) open() bool { return !e.State.Phase.Ended() || !e.Finished }

// errNotBegun says that a journal holds no transaction: whoever made it was stopped before that.
var errNotBegun = errors.New("the journal was never begun")

func appendRecord(to []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(text) > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes, the limit is %d", len(text), maxRecord)
	}
	to = binary.LittleEndian.AppendUint32(to, uint32(len(text)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
	return append(to, text...), nil
}

// nextRecord returns the text of the record at the beginning of data; nil where there is no whole one.
func nextRecord(data []byte) []byte {
	if len(data) < recordHeader {
		return nil
	}
	size := binary.LittleEndian.Uint32(data)
	if size == 0 || size > maxRecord || int(size) > len(data)-recordHeader {
		return nil
	}
	text := data[recordHeader : recordHeader+size]
	if crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(data[4:]) {
		return nil
	}
	return text
}

// parseEntries reads entries with growing numbers and returns the last one, and where the next belongs.
func parseEntries(data []byte, from int64) (entry, int64) {
	last, end := entry{}, from
	for {
		text := nextRecord(data[end:])
		if text == nil {
			return last, end
		}
		var e entry
		if json.Unmarshal(text, &e) != nil || e.Seq <= last.Seq {
			return last, end
		}
		last, end = e, end+recordHeader+int64(len(text))
	}
}

func parseJournal(data []byte) (opening, entry, int64, error) {
	var o opening
	text := nextRecord(data)
	if text == nil {
		return o, entry{}, 0, errNotBegun
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, entry{}, 0, fmt.Errorf("the journal's first record: %w", err)
	}
	if o.Format != journalFormat {
		return o, entry{}, 0, fmt.Errorf("the journal has format %d, this program knows %d", o.Format, journalFormat)
	}
	last, end := parseEntries(data, recordHeader+int64(len(text)))
	if last.Seq == 0 {
		return o, entry{}, 0, errNotBegun
	}
	return o, last, end, nil
}

// readJournal returns the opening and the newest entry, of the disk and of the shadow. It may run while another process writes.
func readJournal(disk journalDisk, path, shadow string) (opening, entry, error) {
	o, last, _, _, err := loadJournal(disk, path, shadow)
	return o, last, err
}

func loadJournal(disk journalDisk, path, shadow string) (o opening, last entry, end, shadowEnd int64, err error) {
	data, err := disk.Read(path)
	if err != nil {
		return o, last, 0, 0, err
	}
	if o, last, end, err = parseJournal(data); err != nil {
		return o, last, 0, 0, fmt.Errorf("read %q: %w", path, err)
	}
	data, err = disk.Read(shadow)
	if err != nil {
		return o, last, end, 0, nil // as a rule there is none
	}
	newer, shadowEnd := parseEntries(data, 0)
	if newer.Seq > last.Seq {
		last = newer
	}
	return o, last, end, shadowEnd, nil
}

// createJournal makes a journal and returns once it would survive the loss of power.
func createJournal(disk journalDisk, path, shadow string, o opening, state guard.State) (*journal, error) {
	o.Format = journalFormat
	j := &journal{disk: disk, path: path, shadow: shadow, opening: o, last: entry{Seq: 1, State: state}}
	data, err := j.whole()
	if err != nil {
		return nil, err
	}
	if j.file, err = writeJournal(disk, path, data); err != nil {
		return nil, fmt.Errorf("write %q: %w", path, err)
	}
	j.end, j.reserved = int64(len(data)), int64(len(data))+journalSize
	return j, nil
}

// whole is a journal's contents with nothing but the last entry.
func (j *journal) whole() ([]byte, error) {
	data, err := appendRecord(nil, j.opening)
	if err != nil {
		return nil, err
	}
	return appendRecord(data, j.last)
}

// writeJournal makes a file that is locked and holds data.
func writeJournal(disk journalDisk, path string, data []byte) (journalFile, error) {
	file, err := disk.Create(path, int64(len(data))+journalSize)
	if err != nil {
		return nil, err
	}
	err = file.Lock()
	if err == nil {
		_, err = file.WriteAt(data, 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = disk.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), disk.Remove(path))
	}
	return file, nil
}

// openJournal takes over a journal. It returns errHeld where another process writes it, and [fs.ErrNotExist] where it is gone.
func openJournal(disk journalDisk, path, shadow string) (*journal, error) {
	file, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	j := &journal{disk: disk, path: path, shadow: shadow, file: file}
	if err := j.takeOver(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

func (j *journal) takeOver() (err error) {
	if err := j.file.Lock(); err != nil {
		return err
	}
	// Its name may have been given to another file before it was locked.
	if !j.file.Is(j.path) {
		return fs.ErrNotExist
	}
	j.opening, j.last, j.end, j.shadowEnd, err = loadJournal(j.disk, j.path, j.shadow)
	if err != nil {
		return err
	}
	if j.shadowEnd > 0 {
		if j.shadowFile, err = j.disk.Open(j.shadow); err != nil {
			return err
		}
	}
	// What was read may not be on the disk yet; what follows builds on it. A disk that takes nothing is seen with the next entry.
	_ = j.file.Sync()
	return nil
}

// append writes a step down. Where the disk takes nothing, a step that must be on it is not taken, and any other one holds for this boot.
func (j *journal) append(e entry, must bool) error {
	e.Seq = j.last.Seq + 1
	record, err := appendRecord(nil, e)
	if err != nil {
		return err
	}
	before := j.last
	j.last = e
	err = j.toDisk(record)
	if err != nil && must {
		j.last = before
		return fmt.Errorf("write %q: %w", j.path, err)
	}
	if err != nil && j.toShadow(record) != nil {
		return nil // what is decided is done all the same: it is on the way back, or further on
	}
	return nil
}

func (j *journal) toDisk(record []byte) error {
	if j.end+int64(len(record)) > maxJournal {
		return j.rewrite()
	}
	if j.end+int64(len(record)) > j.reserved {
		_ = j.file.Reserve(j.end, journalSize) // where there is no space, the write says so
		j.reserved = j.end + journalSize
	}
	if _, err := j.file.WriteAt(record, j.end); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.end += int64(len(record))
	return nil
}

func (j *journal) toShadow(record []byte) (err error) {
	if j.shadowFile == nil {
		if j.shadowFile, err = j.disk.Create(j.shadow, 0); err != nil {
			return err
		}
		j.shadowEnd = 0
	}
	if _, err := j.shadowFile.WriteAt(record, j.shadowEnd); err != nil {
		return err
	}
	j.shadowEnd += int64(len(record))
	return nil
}

// rewrite replaces the file by one with the last entry alone.
func (j *journal) rewrite() error {
	data, err := j.whole()
	if err != nil {
		return err
	}
	fresh := filepath.Join(filepath.Dir(j.path), ".new-"+filepath.Base(j.path))
	if err := j.disk.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := writeJournal(j.disk, fresh, data)
	if err != nil {
		return err
	}
	if err := j.disk.Rename(fresh, j.path); err != nil {
		return errors.Join(err, file.Close(), j.disk.Remove(fresh))
	}
	old := j.file
	j.file, j.end, j.reserved = file, int64(len(data)), int64(len(data))+journalSize
	return errors.Join(j.disk.SyncDir(filepath.Dir(j.path)), old.Close())
}

// close gives the journal back, and frees its lock.
func (j *journal) close() error {
	err := j.file.Close()
	if j.shadowFile != nil {
		err = errors.Join(err, j.shadowFile.Close())
	}
	return err
}
