package transporttest

import "testing"

func authTests() map[string]func(*testing.T, Env)    { return nil }
func failureTests() map[string]func(*testing.T, Env) { return nil }
func routeTests() map[string]func(*testing.T, Env)   { return nil }
