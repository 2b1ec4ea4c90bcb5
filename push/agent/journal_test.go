package agent

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet/push/guard"
)

// cruelDisk loses power: of what was not synced it keeps whatever it likes, byte ranges in any order, and names only of folders that were synced.
type cruelDisk struct {
	files map[string]*cruelFile
	// durable are the names that would be there after a loss of power.
	durable map[string]*cruelFile
	// full makes every write fail, after a part of it.
	full bool
	// each is called after everything that changes something.
	each func()
}

type cruelFile struct {
	disk *cruelDisk
	// now is what a reader sees, synced what is on the disk for sure; writes are those in between.
	now, synced []byte
	writes      []cruelWrite
	locked      bool
}

type cruelWrite struct {
	offset int64
	data   []byte
}

func newCruelDisk() *cruelDisk {
	return &cruelDisk{files: map[string]*cruelFile{}, durable: map[string]*cruelFile{}, each: func() {}}
}

func (d *cruelDisk) Create(name string, size int64) (journalFile, error) {
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	if d.full && size > 0 {
		return nil, errors.New("no space left")
	}
	f := &cruelFile{disk: d, now: make([]byte, size), synced: make([]byte, size)}
	d.files[name] = f
	d.each()
	return f, nil
}

func (d *cruelDisk) Open(name string) (journalFile, error) {
	if f := d.files[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *cruelDisk) Read(name string) ([]byte, error) {
	if f := d.files[name]; f != nil {
		return slices.Clone(f.now), nil
	}
	return nil, fs.ErrNotExist
}

func (d *cruelDisk) Rename(from, to string) error {
	d.files[to] = d.files[from]
	delete(d.files, from)
	d.each()
	return nil
}

func (d *cruelDisk) Remove(name string) error {
	if d.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	d.each()
	return nil
}

func (d *cruelDisk) SyncDir(dir string) error {
	for _, names := range []map[string]*cruelFile{d.files, d.durable} {
		for name := range names {
			if path.Dir(name) != dir {
				continue
			}
			if f := d.files[name]; f != nil {
				d.durable[name] = f
			} else {
				delete(d.durable, name)
			}
		}
	}
	d.each()
	return nil
}

func (f *cruelFile) WriteAt(data []byte, offset int64) (int, error) {
	n := len(data)
	if f.disk.full {
		n /= 2
	}
	f.writes = append(f.writes, cruelWrite{offset, slices.Clone(data[:n])})
	f.now = patch(f.now, f.writes[len(f.writes)-1])
	f.disk.each()
	if f.disk.full {
		return n, errors.New("no space left")
	}
	return n, nil
}

func patch(to []byte, w cruelWrite) []byte {
	if grow := int(w.offset) + len(w.data) - len(to); grow > 0 {
		to = append(to, make([]byte, grow)...)
	}
	copy(to[w.offset:], w.data)
	return to
}

func (f *cruelFile) Reserve(int64, int64) error { return nil }

func (f *cruelFile) Sync() error {
	if f.disk.full {
		return errors.New("input/output error")
	}
	f.synced, f.writes = slices.Clone(f.now), nil
	f.disk.each()
	return nil
}

func (f *cruelFile) Lock() error {
	if f.locked {
		return errHeld
	}
	f.locked = true
	return nil
}

func (f *cruelFile) Is(name string) bool { return f.disk.files[name] == f }
func (f *cruelFile) Close() error        { f.locked = false; return nil }

// powerLoss is a disk as it may come up again. Of every write that was not synced, a random part has arrived, or none, or all; names that were not
// synced may be the old or the new ones.
func (d *cruelDisk) powerLoss(r *rand.Rand) *cruelDisk {
	after := newCruelDisk()
	names := d.durable
	if r.IntN(2) == 0 {
		names = d.files
	}
	for name, f := range names {
		if strings.HasPrefix(name, "/run/") {
			continue
		}
		survived := &cruelFile{disk: after, synced: slices.Clone(f.synced)}
		for _, w := range f.writes {
			from, to := 0, len(w.data)
			if r.IntN(2) == 0 {
				from, to = r.IntN(len(w.data)+1), r.IntN(len(w.data)+1)
			}
			if from < to && r.IntN(4) > 0 {
				survived.synced = patch(survived.synced, cruelWrite{w.offset + int64(from), w.data[from:to]})
			}
		}
		survived.now = slices.Clone(survived.synced)
		after.files[name], after.durable[name] = survived, survived
	}
	return after
}

const (
	testJournal = "/nix/var/fleet/txn-t000001-aaaaaa.log"
	testShadow  = "/run/fleet/t000001-aaaaaa/journal"
)

func testState(i int) guard.State {
	s := guard.Begin(guard.Switch, guard.Policy{Switch: 1}, guard.Systems{Current: "old"}, "new", "new", "boot")
	s.Worker, s.Reason = i, strings.Repeat("because ", i%50)
	return s
}

// After every single write, sync and rename of a journal the power may go. What is found then is a state that was written down, and none that is older than
// the last one that was said to be durable.
func TestAJournalSurvivesThePowerAtEveryMoment(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newCruelDisk()
		written, durable := 0, 0
		d.each = func() {
			after := d.powerLoss(r)
			_, last, err := readJournal(after, testJournal, testShadow)
			switch {
			case err != nil && durable > 0:
				t.Fatalf("seed %d, %d written: %v", seed, written, err)
			case err != nil:
			case last.State.Worker < durable || last.State.Worker > written || last.State != testState(last.State.Worker):
				t.Fatalf("seed %d: state %d after %d, of which %d are durable", seed, last.State.Worker, written, durable)
			}
			if after.files[testJournal] == nil || err != nil {
				return
			}
			// Who takes over goes on writing.
			j, err := openJournal(after, testJournal, testShadow)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.append(entry{State: testState(999)}, true); err != nil {
				t.Fatal(err)
			}
			if _, again, err := readJournal(after, testJournal, testShadow); err != nil || again.State.Worker != 999 {
				t.Fatalf("seed %d: after taking over: %d, %v", seed, again.State.Worker, err)
			}
		}
		written = 1
		j, err := createJournal(d, testJournal, testShadow, opening{Txn: "t000001-aaaaaa"}, testState(1))
		if err != nil {
			t.Fatal(err)
		}
		durable = 1
		for i := 2; i < 12; i++ {
			written = i
			if i == 6 { // as after a long rollback
				j.end = maxJournal
			}
			if err := j.append(entry{State: testState(i)}, true); err != nil {
				t.Fatal(err)
			}
			durable = i
		}
	}
}

// Every cut of the file, and every flipped byte, leaves a state that was written, or says that there is none.
func TestEveryPrefixOfAJournalIsAState(t *testing.T) {
	d := newCruelDisk()
	j, err := createJournal(d, testJournal, testShadow, opening{Txn: "t000001-aaaaaa"}, testState(1))
	if err != nil {
		t.Fatal(err)
	}
	ends := []int64{j.end}
	for i := 2; i < 6; i++ {
		if err := j.append(entry{State: testState(i)}, true); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, j.end)
	}
	data, err := d.Read(testJournal)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, damaged []byte, at int) {
		_, last, _, err := parseJournal(damaged)
		want := 0
		for i, end := range ends {
			if end <= int64(at) {
				want = i + 1
			}
		}
		if want == 0 && err == nil || want > 0 && (err != nil || last.State.Worker != want) {
			t.Fatalf("%s at %d: state %d, %v; want %d", what, at, last.State.Worker, err, want)
		}
	}
	for cut := range j.end + 1 {
		check("cut", data[:cut], int(cut))
		zeros := slices.Clone(data)
		clear(zeros[cut:])
		check("zeros", zeros, int(cut))
	}
	for i := range j.end {
		flipped := slices.Clone(data)
		flipped[i] ^= 0x55
		check("flip", flipped, int(i))
	}
}

func TestAFullDiskStopsWhatMustBeWrittenAndNothingElse(t *testing.T) {
	d := newCruelDisk()
	j, err := createJournal(d, testJournal, testShadow, opening{}, testState(1))
	if err != nil {
		t.Fatal(err)
	}
	d.full = true
	if err := j.append(entry{State: testState(2)}, true); err == nil || j.last.State.Worker != 1 {
		t.Errorf("a step that must be written: %v, state %d", err, j.last.State.Worker)
	}
	d.full = false
	shadow, err := d.Create(testShadow, 0)
	if err != nil {
		t.Fatal(err)
	}
	j.shadowFile = shadow
	d.full = true
	if err := j.append(entry{State: testState(3)}, false); err != nil || j.last.State.Worker != 3 {
		t.Errorf("a step on the way back: %v, state %d", err, j.last.State.Worker)
	}
	d.full = false
	if err := j.append(entry{State: testState(4)}, false); err != nil {
		t.Fatal(err)
	}
	if _, last, err := readJournal(d, testJournal, testShadow); err != nil || last.State.Worker != 4 {
		t.Errorf("once there is space again: %d, %v", last.State.Worker, err)
	}
}

// The shadow lies in memory: what only it has is known to the next guard of this boot, and not after the boot.
func TestTheShadowOfAJournalIsReadInTheSameBoot(t *testing.T) {
	dir := t.TempDir()
	path, shadow := dir+"/txn.log", dir+"/shadow"
	j, err := createJournal(realDisk{}, path, shadow, opening{}, testState(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(realDisk{}, path, shadow); !errors.Is(err, errHeld) {
		t.Errorf("a second writer: %v", err)
	}
	if err := j.file.Close(); err != nil { // every write fails from now on
		t.Fatal(err)
	}
	for i := 2; i < 5; i++ {
		if err := j.append(entry{State: testState(i)}, false); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openJournal(realDisk{}, path, shadow)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if again.last.State.Worker != 4 {
		t.Errorf("state %d", again.last.State.Worker)
	}
	if err := again.append(entry{State: testState(5)}, true); err != nil {
		t.Fatal(err)
	}
	_, last, err := readJournal(realDisk{}, path, shadow)
	if diff := cmp.Diff(testState(5), last.State); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, last, err := readJournal(realDisk{}, path, dir+"/gone"); err != nil || last.State.Worker != 5 {
		t.Errorf("after a boot: %d, %v", last.State.Worker, err)
	}
}
