package install

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// accounts are the users and groups of a host, from its files: there is no other source before services run.
type accounts struct {
	users map[string]account
	// numbers are the users by number, the first of each.
	numbers map[int]account
	groups  map[string]int
	dir     string
}

type account struct{ uid, gid int }

// loadAccounts reads passwd and group. A file that is not there, as before users are made, has no accounts.
func loadAccounts(dir string) (*accounts, error) {
	a := &accounts{users: map[string]account{}, numbers: map[int]account{}, groups: map[string]int{}, dir: dir}
	err := eachLine(filepath.Join(dir, "passwd"), 4, func(fields []string) {
		uid, uidErr := parseNumber(fields[2])
		gid, gidErr := parseNumber(fields[3])
		if uidErr != nil || gidErr != nil {
			return
		}
		// The first line counts, as for the C library.
		if _, twice := a.users[fields[0]]; !twice {
			a.users[fields[0]] = account{uid, gid}
		}
		if _, twice := a.numbers[uid]; !twice {
			a.numbers[uid] = account{uid, gid}
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "group"), 3, func(fields []string) {
		gid, err := parseNumber(fields[2])
		if _, twice := a.groups[fields[0]]; err == nil && !twice {
			a.groups[fields[0]] = gid
		}
	})
	return a, err
}

// eachLine calls f with the fields of every line that has at least so many.
func eachLine(file string, fields int, f func([]string)) error {
	in, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20) // a group lists its members
	for lines.Scan() {
		if list := strings.Split(lines.Text(), ":"); len(list) >= fields && list[0] != "" && list[0][0] != '#' {
			f(list)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read accounts from %q: %w", file, err)
	}
	return nil
}

// parseNumber reads a user's or group's number. The largest one means "do not change" to chown.
func parseNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return int(n), err
}

// resolve finds the numbers of an owner and a group, each a name or a number. No owner is root; no group is the owner's own.
func (a *accounts) resolve(owner, group string) (account, error) {
	found := account{}
	if owner != "" {
		var err error
		if found, err = a.user(owner); err != nil {
			return account{}, err
		}
	}
	if group == "" {
		return found, nil
	}
	gid, known := a.groups[group]
	if known {
		return account{found.uid, gid}, nil
	}
	gid, err := parseNumber(group)
	switch {
	case err == nil:
		return account{found.uid, gid}, nil
	case group == "root":
		return account{found.uid, 0}, nil
	}
	return account{}, &unknownAccountError{"group", group, a.dir}
}

func (a *accounts) user(owner string) (account, error) {
	if found, ok := a.users[owner]; ok {
		return found, nil
	}
	if owner == "root" {
		return account{}, nil
	}
	uid, err := parseNumber(owner)
	if err != nil {
		return account{}, &unknownAccountError{"user", owner, a.dir}
	}
	if found, ok := a.numbers[uid]; ok {
		return found, nil
	}
	return account{uid, 0}, nil
}

// unknownAccountError names an owner that the host does not have.
type unknownAccountError struct{ kind, name, dir string }

func (e *unknownAccountError) Error() string {
	return fmt.Sprintf("there is no %s %.80q in %s", e.kind, e.name, e.dir)
}

// Hint names the option.
func (e *unknownAccountError) Hint() string {
	return fmt.Sprintf("declare users.%ss.%s on the host, or name another one in the secret's or template's options", e.kind, e.name)
}
