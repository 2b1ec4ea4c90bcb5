package main

import (
	"fmt"
	"strings"
	"time"

	"fleet/cmd/fleet-helper/internal/text"
	"fleet/cmd/fleet-helper/internal/ui"
	"fleet/push/deploy"
	"fleet/push/proto"
)

// openTransaction is one that is under way, staged for the next boot, or still trying to go back.
type openTransaction struct {
	lastTransaction
	Toplevel string `json:"toplevel"`
	// DeadlineSeconds is how long its state may still last, 0 where it has no end of its own.
	DeadlineSeconds int `json:"deadlineSeconds,omitempty"`
	// Trouble is the last thing that went wrong with its rollback.
	Trouble string `json:"trouble,omitempty"`
}

func transactionOf(s proto.TxnStatus) lastTransaction {
	return lastTransaction{Txn: s.Txn, Action: s.Action, State: s.State, Owner: s.Owner, Since: s.Since, Reason: s.Reason}
}

// writeOpen says what is open on the host, and what a person can do about it.
func (s *hostStatus) writeOpen(b *strings.Builder) {
	if s.Open == nil {
		return
	}
	o := s.Open
	fmt.Fprintf(b, "\n%s: %s is open: %s by %s%s: %s\n", text.Line(s.Host), text.Line(o.Txn), o.Action, text.Line(o.Owner), at(o.Since), s.phase())
	for _, line := range []string{o.Reason, o.Trouble} {
		if line != "" {
			fmt.Fprintf(b, "  %s\n", text.Line(line))
		}
	}
	switch o.State {
	case proto.TxnAwaitConfirm:
		fmt.Fprintf(b, "  hint: fleet confirm %[1]s %[2]s keeps it, fleet abort %[1]s %[2]s takes it back\n", text.Line(s.Host), text.Line(o.Txn))
	case proto.TxnStaged:
		fmt.Fprintf(b, "  hint: fleet abort %s %s takes it back\n", text.Line(s.Host), text.Line(o.Txn))
	case proto.TxnRollbackFailed:
		fmt.Fprintf(b, "  hint: on %s: journalctl -b -u fleet-guard-%s; docs/guide/rollback.md says how to recover by hand\n", text.Line(s.Host), text.Line(o.Txn))
	default:
		fmt.Fprintf(b, "  hint: fleet attach %s %s\n", text.Line(s.Host), text.Line(o.Txn))
	}
}

// phase is what the open transaction does, and for how long still.
func (s *hostStatus) phase() string {
	phase := deploy.PhaseText(s.Open.State)
	if s.Open.State == proto.TxnStaged {
		phase = "the next boot brings " + short(s.Open.Toplevel) + ", and decides"
	}
	if phase == "" {
		phase = string(s.Open.State)
	}
	if s.Open.DeadlineSeconds > 0 {
		phase += fmt.Sprintf(", %s left", time.Duration(s.Open.DeadlineSeconds)*time.Second)
	}
	return text.Line(phase)
}

func (s *hostStatus) writeTransactions(b *strings.Builder) {
	if len(s.Transactions) == 0 {
		return
	}
	table := ui.Table{Header: []string{"TRANSACTION", "ACTION", "STATE", "BY", "SINCE", "REASON"}}
	for _, t := range s.Transactions {
		var row []ui.Cell
		for _, cell := range []string{t.Txn, string(t.Action), string(t.State), t.Owner, strings.TrimPrefix(at(t.Since), " at "), t.Reason} {
			row = append(row, ui.Cell{Text: cell})
		}
		table.Rows = append(table.Rows, row)
	}
	fmt.Fprintf(b, "\n%s:\n%s", text.Line(s.Host), table.String())
}
