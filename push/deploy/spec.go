package deploy

import (
	"fmt"
	"slices"
	"strings"

	"fleet/evaluator/plan"
	"fleet/push"
)

// Overrides change, for one run, how hosts are reached.
type Overrides struct {
	// Transport replaces deploy.transport of all hosts, unless empty.
	Transport string
	// AcceptNewHostKeys accepts the key of a host that none is known of. A changed key is never accepted.
	AcceptNewHostKeys bool
	// Pins are host keys that the fleet's state holds, as "type base64", by host.
	Pins map[string][]string
}

// PinConflictError says that the plan and the state pin different keys for a host.
type PinConflictError struct {
	Host string
	// Key is pinned in the state and not in the plan.
	Key string
}

func (e *PinConflictError) Error() string {
	return fmt.Sprintf("pin the key of %q: the state holds %q, which is none of deploy.hostKeys", e.Host, shortKey(e.Key))
}

// Hint says how to resolve it.
func (e *PinConflictError) Hint() string {
	return fmt.Sprintf("compare with the host's own /etc/ssh/*.pub on its console; then correct hosts.%s.deploy.hostKeys, or delete fleet-state/<fleet>/hosts/%s.json", e.Host, e.Host)
}

// Spec says how a host is reached, from the plan and what a run changes.
func Spec(name string, h plan.Host, o Overrides) (push.HostSpec, error) {
	spec := push.SpecOf(name, h)
	if o.Transport != "" {
		spec.Transport = o.Transport
	}
	spec.Target.AcceptNewHostKey = o.AcceptNewHostKeys
	pins := o.Pins[name]
	if len(spec.Target.HostKeys) == 0 {
		spec.Target.HostKeys = pins
		return spec, nil
	}
	known := make([]string, len(spec.Target.HostKeys))
	for i, key := range spec.Target.HostKeys {
		known[i] = keyOnly(key)
	}
	for _, pin := range pins {
		if !slices.Contains(known, keyOnly(pin)) {
			return push.HostSpec{}, &PinConflictError{Host: name, Key: pin}
		}
	}
	return spec, nil
}

// keyOnly is a public key without its comment.
func keyOnly(key string) string {
	fields := strings.Fields(key)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// shortKey is a public key for a message: its type and the end of it.
func shortKey(key string) string {
	fields := strings.Fields(key)
	if len(fields) < 2 || len(fields[1]) < 16 {
		return key
	}
	return fields[0] + " …" + fields[1][len(fields[1])-16:]
}
