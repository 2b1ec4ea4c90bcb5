package push

import (
	"regexp"

	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxUnits and maxUnitLines bound what a host tells of failed units.
	maxUnits, maxUnitLines = 64, 50
	// maxNotices bounds what a transaction says beside its state, and maxFindings what speaks against one.
	maxNotices, maxFindings = 32, 64
	// maxSteps bounds the steps that a host calls unfinished.
	maxSteps = 8
)

// cleanInfo makes what a host says of itself fit to be shown and compared.
func cleanInfo(info proto.HostInfo) proto.HostInfo {
	info.System, info.NixVersion, info.BootID = oneLine(info.System), oneLine(info.NixVersion), oneLine(info.BootID)
	for _, toplevel := range []*string{&info.Current, &info.Booted, &info.Profile, &info.BootDefault} {
		*toplevel = cleanToplevel(*toplevel)
	}
	info.Lock = cleanHolder(info.Lock)
	if info.Open != nil {
		open := cleanStatus(*info.Open)
		info.Open = &open
	}
	var unfinished []string
	for _, step := range info.Unfinished[:min(len(info.Unfinished), maxSteps)] {
		unfinished = append(unfinished, oneLine(step))
	}
	info.Unfinished = unfinished
	return info
}

// cleanToplevel returns text where it is a store path or lies in one, as a specialisation does, and else the empty string.
func cleanToplevel(text string) string {
	if _, err := storepath.Containing(text); err != nil || text != oneLine(text) {
		return ""
	}
	return text
}

func cleanHolder(holder *proto.LockHolder) *proto.LockHolder {
	if holder == nil {
		return nil
	}
	return &proto.LockHolder{Owner: oneLine(holder.Owner), Txn: cleanTxn(holder.Txn), Since: oneLine(holder.Since)}
}

// cleanTxn returns a transaction's name, and the empty string for anything else: names get into commands that a person is told to run.
func cleanTxn(name string) string {
	if !regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,63}\z`).MatchString(name) {
		return ""
	}
	return name
}

// cleanAnswer makes an agent's error fit to be shown. It keeps its code, and drops its data.
func cleanAnswer(answer *proto.Error) *proto.Error {
	return &proto.Error{Code: proto.ErrorCode(oneLine(string(answer.Code))), Message: oneLine(answer.Message), Remedy: oneLine(answer.Remedy)}
}

// cleanStatus is cleanInfo for transactions.
func cleanStatus(status proto.TxnStatus) proto.TxnStatus {
	for _, text := range []*string{
		&status.Specialisation, &status.Owner, &status.Since, &status.Step, &status.Reason, &status.Trouble,
	} {
		*text = oneLine(*text)
	}
	status.Txn = cleanTxn(status.Txn)
	status.State, status.Action = proto.TxnState(oneLine(string(status.State))), proto.Action(oneLine(string(status.Action)))
	for _, toplevel := range []*string{&status.Toplevel, &status.Current, &status.Profile, &status.BootDefault} {
		*toplevel = cleanToplevel(*toplevel)
	}
	status.Lock = cleanHolder(status.Lock)
	status.DeadlineSeconds = max(0, status.DeadlineSeconds)
	var notices []string
	for _, notice := range status.Notices[:min(len(status.Notices), maxNotices)] {
		notices = append(notices, oneLine(notice))
	}
	status.Notices = notices
	units := status.FailedUnits[:min(len(status.FailedUnits), maxUnits)]
	status.FailedUnits = nil
	for _, unit := range units {
		clean := proto.FailedUnit{Name: oneLine(unit.Name)}
		for _, line := range unit.Log[max(0, len(unit.Log)-maxUnitLines):] {
			clean.Log = append(clean.Log, oneLine(line))
		}
		status.FailedUnits = append(status.FailedUnits, clean)
	}
	return status
}
