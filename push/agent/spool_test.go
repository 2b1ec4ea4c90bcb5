package agent

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"fleet/closure/delta"
	"fleet/closure/pack"
	"fleet/push/proto"
)

func TestASpoolIsAFileWithoutAName(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt([]byte("later"), 10<<20); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := s.ReadAt(got, 10<<20); err != nil || string(got) != "later" {
		t.Errorf("%q, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestASpoolLeavesRoomOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	opened, err := openSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	s := opened.(*spool)
	if free := freeBytes(t, dir); s.limit > pack.MaxKept || uint64(s.limit) > free/2 {
		t.Errorf("%d bytes of %d that are free", s.limit, free)
	}
	s.limit = 1 << 20
	if _, err := s.WriteAt(make([]byte, 10), 1<<20-10); err != nil {
		t.Error(err)
	}
	if _, err := s.WriteAt(make([]byte, 11), 1<<20-10); err == nil || !strings.Contains(err.Error(), "has room for 1 MiB") {
		t.Errorf("beyond its limit: %v", err)
	}
}

func TestASpoolDoesNotLieInMemory(t *testing.T) {
	requireRoot(t)
	if _, err := openSpool(smallDisk(t, "64m")); err == nil || !strings.Contains(err.Error(), "lies in memory") {
		t.Errorf("%v", err)
	}
}

// keptLoad is a path that is kept, and one that is made of it.
func keptLoad(t *testing.T) *load {
	t.Helper()
	l := &load{}
	first := l.add(t, "first", t.Name()+noise())
	second := l.add(t, "second", strings.Repeat(t.Name(), 1000)+noise()[:6<<20])
	at := func(archive []byte) int64 { return int64(bytes.Index(archive, []byte(noise()[:100]))) }
	copied := delta.Copy{Target: at(l.nars[second.Path]), Base: at(l.nars[first.Path]), Size: 6 << 20}
	packer := pack.NewPacker(l)
	defer packer.Close()
	for _, spec := range pack.Layout([]pack.Item{{Info: first, Keep: true}, {Info: second, Base: first, Copies: []delta.Copy{copied}}}) {
		unit, err := packer.Pack(t.Context(), spec, pack.Fastest)
		if err != nil {
			t.Fatal(err)
		}
		l.units = append(l.units, unit.Bytes)
	}
	if last := len(l.units[len(l.units)-1]); len(l.units) != 3 || last > 100_000 {
		t.Fatalf("%d units, the last of %d bytes", len(l.units), last)
	}
	return l
}

func TestPathsAreMadeOfWhatATransferKeeps(t *testing.T) {
	host := testHost(t)
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	l := keptLoad(t)
	h, _, err := pushUnits(t, client, t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	l.checkContents(t, store, h)
}

func TestAHostThatCannotKeepAPathSaysSo(t *testing.T) {
	requireRoot(t)
	host := testHost(t)
	host.Temp = smallDisk(t, "64m")
	store := chrootStore(t, host)
	client, _ := connect(t, host)
	l := keptLoad(t)
	_, result, err := pushUnits(t, client, t.Name(), l)
	if e, ok := errors.AsType[*proto.Error](err); !ok || e.Code != proto.CodeNoSpool || !strings.Contains(e.Message, host.Temp) {
		t.Errorf("%v", err)
	}
	if result.Paths > 1 {
		t.Errorf("%+v", result)
	}
	l.pack(t, nil)
	h, _, err := pushUnits(t, client, "whole"+t.Name(), l)
	if err != nil {
		t.Fatal(err)
	}
	l.checkContents(t, store, h)
}
