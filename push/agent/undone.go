package agent

import (
	"slices"

	"fleet/push/proto"
)

// undone names the steps that the last activation which reached them did not finish, but for the transaction except.
//
// What a host runs and boots does not show them: the link to the running system is set although units failed, and a boot
// loader's file may be written although its installation failed after that. Nothing is known of the time before the last boot.
func (h *Host) undone(except string) []string {
	ids, err := h.transactions()
	if err != nil {
		return []string{stepTest, stepBoot} // doing a step once more harms nobody
	}
	slices.Reverse(ids)
	var steps []string
	for _, step := range []string{stepTest, stepBoot} {
		if h.leftUndone(ids, step, except) {
			steps = append(steps, step)
		}
	}
	return steps
}

// leftUndone looks at the newest transaction that came to the step. The ids are those of all transactions, newest first.
func (h *Host) leftUndone(ids []string, step, except string) bool {
	for _, id := range ids {
		if id == except {
			continue
		}
		st, err := h.status(id)
		if err != nil || !st.State.Done() || !reached(st, step) {
			continue
		}
		return st.State == proto.TxnFailed && st.Step == step
	}
	return false
}

// reached says whether a transaction that is done came to the step.
func reached(st proto.TxnStatus, step string) bool {
	// Where it stopped; a transaction that has succeeded names no step.
	before := []string{stepLock}
	actions := []proto.Action{proto.ActionSwitch, proto.ActionTest}
	if step == stepBoot {
		before = []string{stepLock, stepTest, stepProfile}
		actions = []proto.Action{proto.ActionSwitch, proto.ActionBoot}
	}
	return slices.Contains(actions, st.Action) && !(st.State == proto.TxnFailed && slices.Contains(before, st.Step))
}
