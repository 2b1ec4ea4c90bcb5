package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fleet/push/proto"
)

const (
	// MaxFile bounds a file with checks, and MaxChecks how many checks a host has.
	MaxFile   = 256 << 10
	MaxChecks = 64
	// maxSeconds bounds every time of a check: a day.
	maxSeconds = 24 * 60 * 60
	maxCommand = 64 << 10
)

// Parse reads the checks that a system's own modules declare: one JSON object of checks by their names. It refuses what it does not know.
func Parse(text []byte) (map[string]proto.HealthCheck, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), MaxFile)
	}
	var checks map[string]proto.HealthCheck
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&checks); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the checks")
	}
	return checks, Validate(checks)
}

// Merge joins the checks of the plan and of a system's own modules. Where both have a name, the plan's counts, and the name is in replaced.
func Merge(plan, system map[string]proto.HealthCheck) (merged map[string]proto.HealthCheck, replaced []string) {
	merged = make(map[string]proto.HealthCheck, len(plan)+len(system))
	maps.Copy(merged, system)
	maps.Copy(merged, plan)
	for name := range plan {
		if _, both := system[name]; both {
			replaced = append(replaced, name)
		}
	}
	slices.Sort(replaced)
	return merged, replaced
}

// Validate says what is wrong with checks, in the order of their names. What it lets through can be looked at, by whoever can.
func Validate(checks map[string]proto.HealthCheck) error {
	if len(checks) > MaxChecks {
		return fmt.Errorf("%d health checks, the limit is %d", len(checks), MaxChecks)
	}
	name := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)
	for _, n := range slices.Sorted(maps.Keys(checks)) {
		if !name.MatchString(n) {
			return fmt.Errorf("health check %.60q: that is no name of one", n)
		}
		if err := validate(checks[n]); err != nil {
			return fmt.Errorf("health check %q: %w", n, err)
		}
	}
	return nil
}

func validate(c proto.HealthCheck) error {
	given := 0
	var faults []error
	part := func(there bool, check func() error) {
		if there {
			given++
			faults = append(faults, check())
		}
	}
	part(len(c.Command) > 0, func() error { return checkCommand(c.Command) })
	part(c.TCP != "", func() error { return checkAddress(c.TCP) })
	part(c.HTTP != nil, func() error { return checkHTTP(*c.HTTP) })
	part(c.Unit != "", func() error { return checkUnit(c.Unit) })
	if given != 1 {
		return fmt.Errorf("it has %d of command, tcp, http and unit, and needs exactly one", given)
	}
	for _, seconds := range []int{c.TimeoutSeconds, c.IntervalSeconds} {
		if seconds < 0 || seconds > maxSeconds {
			faults = append(faults, fmt.Errorf("%d is no number of seconds from 0 to %d", seconds, maxSeconds))
		}
	}
	return errors.Join(faults...)
}

func checkCommand(argv []string) error {
	size := 0
	for _, arg := range argv {
		size += len(arg) + 1
	}
	switch {
	case argv[0] == "":
		return errors.New("its command has no name")
	case size > maxCommand:
		return fmt.Errorf("its command has %d bytes, the limit is %d", size, maxCommand)
	case slices.ContainsFunc(argv, func(arg string) bool { return strings.ContainsRune(arg, 0) }):
		return errors.New("its command has a zero byte")
	}
	return nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%.100q is no address HOST:PORT", address)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("the port of %.100q is no number from 1 to 65535", address)
	}
	return nil
}

func checkHTTP(c proto.HTTPCheck) error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("its URL has to begin with http:// or https://")
	}
	if c.Status != 0 && (c.Status < 100 || c.Status > 599) {
		return fmt.Errorf("%d is no status of HTTP", c.Status)
	}
	return nil
}

func checkUnit(unit string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,251}\.[a-z]+$`).MatchString(unit) {
		return fmt.Errorf("%.100q is no name of a unit, as \"sshd.service\"", unit)
	}
	return nil
}
