package push

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"fleet/push/proto"
)

func TestPathInfosOfAHostAreChecked(t *testing.T) {
	good := proto.PathInfo{Path: testHelper, NarHash: strings.Repeat("0a", 32), NarSize: 10, References: []string{testHelper}}
	if info, err := parseInfo(good); err != nil || info.Path.String() != good.Path || hex.EncodeToString(info.NarHash[:]) != good.NarHash {
		t.Errorf("%+v, %v", info, err)
	}
	for rule, change := range map[string]func(*proto.PathInfo){
		"no path":             func(i *proto.PathInfo) { i.Path = "" },
		"no store path":       func(i *proto.PathInfo) { i.Path = "/etc/passwd" },
		"deriver":             func(i *proto.PathInfo) { i.Deriver = "x" },
		"reference":           func(i *proto.PathInfo) { i.References = []string{testHelper, ""} },
		"short hash":          func(i *proto.PathInfo) { i.NarHash = "0a" },
		"hash in another way": func(i *proto.PathInfo) { i.NarHash = "sha256:" + strings.Repeat("0a", 32) },
	} {
		t.Run(rule, func(t *testing.T) {
			info := good
			change(&info)
			if got, err := parseInfo(info); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func TestStatusOfAHostIsMadeHarmless(t *testing.T) {
	evil := "\x1b]0;x\x07a\nb"
	status := cleanStatus(proto.TxnStatus{
		Txn: evil, Owner: evil, Reason: evil, Step: evil, Toplevel: "/etc", Current: testHelper + "/specialisation/x",
		Lock:        &proto.LockHolder{Owner: evil, Txn: "$(id)"},
		FailedUnits: []proto.FailedUnit{{Name: evil, Log: []string{evil}}},
	})
	text, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `\u001b`) || strings.Contains(string(text), `\n`) || status.Toplevel != "" || status.Current == "" || status.Txn != "" || status.Lock.Txn != "" {
		t.Errorf("%s", text)
	}
	info := cleanInfo(proto.HostInfo{System: evil, Current: "/nix/store/../../etc", Profile: testHelper})
	if info.System != "a b" || info.Current != "" || info.Profile != testHelper {
		t.Errorf("%+v", info)
	}
	many := proto.TxnStatus{FailedUnits: make([]proto.FailedUnit, 1000)}
	if n := len(cleanStatus(many).FailedUnits); n != maxUnits {
		t.Errorf("%d units", n)
	}
}

func TestAttachPassesEachPieceOnOnce(t *testing.T) {
	var log strings.Builder
	var states []proto.TxnState
	a := &Watch{Each: func(e proto.TxnEvent) {
		log.WriteString(e.Log)
		if e.State != "" {
			states = append(states, e.State)
		}
	}}
	for _, e := range []proto.TxnEvent{
		{State: proto.TxnSwitching}, {Log: "ab", Offset: 2}, {State: proto.TxnSwitching}, {Log: "ab", Offset: 2}, {Log: "c\x1b[0m", Offset: 7},
		{State: proto.TxnCommitted, Log: "d", Offset: 8}, {Log: "old", Offset: 3}, {State: "\x1b[0mcommitted"},
	} {
		a.take(e)
	}
	if log.String() != "abcd" || len(states) != 2 {
		t.Errorf("log %q, states %q", log.String(), states)
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(testHelper, strings.Repeat("0a", 32), testHelper, "")
	f.Fuzz(func(t *testing.T, path, hash, ref, deriver string) {
		info, err := parseInfo(proto.PathInfo{Path: path, NarHash: hash, References: []string{ref}, Deriver: deriver})
		if err != nil {
			return
		}
		if info.Path.String() != path || info.References[0].String() != ref || info.Deriver.String() != deriver ||
			hex.EncodeToString(info.NarHash[:]) != strings.ToLower(hash) {
			t.Errorf("%+v", info)
		}
	})
}
