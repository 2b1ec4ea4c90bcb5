//go:build race

package evaluator_test

// raced says that this binary, which is its own Jsonnet child, has the race detector in it: that cannot live with a bound of
// its address space, and ends in ways of its own.
const raced = true
