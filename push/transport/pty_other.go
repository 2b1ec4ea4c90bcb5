//go:build !linux

package transport

import (
	"errors"
	"fmt"
	"os"
)

// openTerminal is for hosts, and those run Linux.
func openTerminal() (*os.File, string, error) {
	return nil, "", fmt.Errorf("open terminal on this machine: %w", errors.ErrUnsupported)
}
