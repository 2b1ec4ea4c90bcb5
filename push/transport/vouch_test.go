package transport

import (
	"os"
	"path/filepath"
	"testing"
)

func TestKnownHostsVouchForTheKeyThatTheyHaveAndNoOther(t *testing.T) {
	const (
		known   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA4gQmyoSJrbI9x5uh+kYzEfYQaHZmRX12fHQhQm0v5B"
		unknown = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwHq4hJ0gJ8b8JHj6J3gq2j6kzVw7r1p0mYwQmE9d9T"
	)
	dir := t.TempDir()
	file := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(file, []byte("[192.0.2.7]:2222 "+known+"\n@cert-authority 192.0.2.8 "+known+"\n@revoked 192.0.2.9 "+unknown+"\n192.0.2.9 "+unknown+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte("Host web-1\n  HostName 192.0.2.7\n  Port 2222\nHost *\n  UserKnownHostsFile "+file+"\n  GlobalKnownHostsFile none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := NewKnownHosts(Options{ConfigFile: config})
	for name, test := range map[string]struct {
		target Target
		key    string
		want   bool
	}{
		"the key, by the alias":     {Target{Host: "a", Address: "web-1"}, known, true},
		"the key, by the address":   {Target{Host: "a", Address: "192.0.2.7", Port: 2222}, known + " a comment", true},
		"another key":               {Target{Host: "a", Address: "web-1"}, unknown, false},
		"another port":              {Target{Host: "a", Address: "192.0.2.7"}, known, false},
		"an authority's key":        {Target{Host: "a", Address: "192.0.2.8"}, known, false},
		"a revoked key":             {Target{Host: "a", Address: "192.0.2.9"}, unknown, false},
		"a host that nobody knows":  {Target{Host: "a", Address: "192.0.2.10"}, known, false},
		"this machine has no entry": {Target{Host: "a", Address: "local"}, known, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := k.Vouches(t.Context(), test.target, test.key)
			if err != nil || got != test.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	if _, err := k.Vouches(t.Context(), Target{Host: "a", Address: "web-1"}, "no key"); err == nil {
		t.Error("what is no key was looked up")
	}
}
