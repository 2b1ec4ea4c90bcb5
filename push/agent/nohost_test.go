//go:build !cluster

package agent

// superviseLab is for the build with hosts.
func superviseLab() bool { return false }
