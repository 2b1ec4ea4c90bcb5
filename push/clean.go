package push

import (
	"fleet/closure/storepath"
	"fleet/push/proto"
)

const (
	// maxUnits and maxUnitLines bound what a host tells of failed units.
	maxUnits, maxUnitLines = 64, 50
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
	return &proto.LockHolder{Owner: oneLine(holder.Owner), Txn: oneLine(holder.Txn), Since: oneLine(holder.Since)}
}

// cleanStatus is cleanInfo for transactions.
func cleanStatus(status proto.TxnStatus) proto.TxnStatus {
	for _, text := range []*string{
		&status.Txn, &status.Specialisation, &status.Owner, &status.Since, &status.Step, &status.Reason,
	} {
		*text = oneLine(*text)
	}
	status.State, status.Action = proto.TxnState(oneLine(string(status.State))), proto.Action(oneLine(string(status.Action)))
	for _, toplevel := range []*string{&status.Toplevel, &status.Current, &status.Profile, &status.BootDefault} {
		*toplevel = cleanToplevel(*toplevel)
	}
	status.Lock = cleanHolder(status.Lock)
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
