//go:build !race

package evaluator_test

// raced is explained in race_test.go.
const raced = false
