//go:build linux && !cluster

package install

// superviseLab is for the build with hosts.
func superviseLab() bool { return false }
