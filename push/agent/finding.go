package agent

import "fleet/push/proto"

// Finding is something that speaks against an activation.
type Finding = proto.Finding
