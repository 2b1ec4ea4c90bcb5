package agent

import (
	"fmt"
	"os/user"
	"strconv"

	"fleet/secretsgen/step"
)

// lookUp finds a user with its groups in the user database.
func lookUp(uid int) (*step.User, error) {
	entry, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil, err
	}
	gid, err := parseID(entry.Gid)
	if err != nil {
		return nil, err
	}
	found := &step.User{Name: entry.Username, UID: uint32(uid), GID: gid, Home: entry.HomeDir}
	groups, err := entry.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("find the groups of %q: %w", entry.Username, err)
	}
	for _, text := range groups {
		group, err := parseID(text)
		if err != nil {
			return nil, err
		}
		found.Groups = append(found.Groups, group)
	}
	return found, nil
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read group %q: %w", text, err)
	}
	return uint32(id), nil
}
