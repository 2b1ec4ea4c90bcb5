package proto

// The methods by which an operator whose store does not hold what a host runs learns enough of it to make deltas.
const (
	// MethodHoldings: [HoldingsRequest] → [HoldingsResult].
	MethodHoldings = "store.holdings"
	// MethodSignatures: [SignaturesRequest], data from the agent: for each of the bases, in order, one byte, and behind a [SignatureFollows] the base's
	// signature (docs/units.md) → nothing. The host has agreed on these bases then.
	MethodSignatures = "store.signatures"
)

// Before each signature the agent says whether there is one: a base that the host does not have, or cannot read, has none.
const (
	NoSignature      = 0
	SignatureFollows = 1
)

// SignatureKeySize is the size of the key that hashes of chunks depend on, in bytes.
const SignatureKeySize = 32

// HoldingsRequest names toplevels that the host has said it has. Those that are not valid any more are left out.
type HoldingsRequest struct {
	Toplevels []string `json:"toplevels"`
}

// HoldingsResult lists what their closures hold.
type HoldingsResult struct {
	// Paths are each a path without the store's folder, a space, and the size of its NAR.
	Paths Lines `json:"paths"`
}

// SignaturesRequest names bases, and how each is seen.
type SignaturesRequest struct {
	// Key has [SignatureKeySize] bytes.
	Key []byte `json:"key"`
	// Pairs are pairs of hash parts of store paths, separated by a space: one in a base, and the one that takes its place.
	Pairs Lines `json:"pairs"`
	// Bases are each a path without the store's folder, and behind it the places in Pairs of those that make up its reference map (docs/delta.md), all separated by
	// spaces. A base may be named twice, with two maps.
	Bases Lines `json:"bases"`
}
