package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"fleet/closure/storepath"
)

// systems are what a host runs and boots. A zero path means that there is none, or none that can be read.
type systems struct {
	current, booted, profile storepath.Path
	// generation is the number of the profile's generation, 0 where there is none.
	generation int
	boot       BootDefault
}

func (h *Host) systems() systems {
	s := systems{
		current: toplevelAt(filepath.Join(h.Run, "current-system")),
		booted:  toplevelAt(filepath.Join(h.Run, "booted-system")),
		profile: toplevelAt(h.profileLink()),
		boot:    h.BootDefault(),
	}
	link, err := os.Readlink(h.profileLink())
	if err != nil {
		return s
	}
	if m := regexp.MustCompile(`^system-([0-9]{1,9})-link$`).FindStringSubmatch(filepath.Base(link)); m != nil {
		s.generation, _ = strconv.Atoi(m[1]) // nine digits fit
	}
	return s
}
