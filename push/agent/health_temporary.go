package agent

import (
	"context"
	"slices"

	"fleet/push/proto"
)

// Baseline is what ran before an activation.
type Baseline struct {
	Active   []string          `json:"active,omitempty"`
	Failed   []string          `json:"failed,omitempty"`
	Restarts map[string]uint32 `json:"restarts,omitempty"`
}

// TakeBaseline looks at the units of the host.
func (h *Host) TakeBaseline(ctx context.Context) (Baseline, error) {
	failed, err := h.Units.Failed(ctx)
	return Baseline{Failed: failed}, err
}

// Judge says what is wrong with the host after an activation.
func (h *Host) Judge(ctx context.Context, b Baseline, exit int, _ proto.GuardPolicy, _ func(string)) []string {
	failed, err := h.Units.Failed(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	var fresh []string
	for _, name := range failed {
		if !slices.Contains(b.Failed, name) {
			fresh = append(fresh, "unit "+name+" has failed")
		}
	}
	return fresh
}
