package main

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"fleet/checks/testbed/lab"
)

// check holds the target against the operator's store: what was pushed is there, unharmed, and Nix says the same of it on both sides.
func (f *field) check(ctx context.Context, c cell, targets []*lab.Host) error {
	top := f.closures[c.scenario.closure].Top
	want, err := pathInfos(ctx, f.operator.Host, top)
	if err != nil {
		return err
	}
	for _, h := range targets {
		got, err := pathInfos(ctx, h, top)
		if err != nil {
			return fmt.Errorf("%s: what was pushed is not there: %w", c, err)
		}
		for path, info := range want {
			if !reflect.DeepEqual(got[path], info) {
				return fmt.Errorf("%s: %s is %v on %s and %v on the operator's machine", c, path, got[path], h.Name, info)
			}
		}
		if _, err := h.Exec(ctx, "nix", "store", "verify", "--all", "--no-trust"); err != nil {
			return fmt.Errorf("%s: the store is damaged: %w", c, err)
		}
	}
	return nil
}

// pathInfos returns what a host's Nix says of a closure, without what is the store's own affair.
func pathInfos(ctx context.Context, h *lab.Host, top string) (map[string]map[string]any, error) {
	cmd, err := h.Command(ctx, "nix", "path-info", "--json", "--recursive", top)
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nix path-info on %s: %w", h.Name, err)
	}
	infos := map[string]map[string]any{}
	if err := json.Unmarshal(out, &infos); err != nil {
		// Old Nix prints a list.
		var list []map[string]any
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, fmt.Errorf("read what nix path-info says on %s: %w", h.Name, err)
		}
		for _, info := range list {
			infos[fmt.Sprint(info["path"])] = info
		}
	}
	for _, info := range infos {
		delete(info, "registrationTime")
		delete(info, "ultimate")
	}
	return infos, nil
}
