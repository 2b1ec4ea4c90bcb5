// Package plan is the contract between what Nix evaluates and what Go does: the plan of a
// fleet, the records of its hosts, the selectors that name hosts, and the one [Event] type that every
// engine emits. It does no input or output.
//
// A plan is small and cheap: evaluating it forces no host's modules. A record is what needs them.
package plan

// FormatVersion is the version of the plan's format. It stays 1 until the first release.
const FormatVersion = 1

// Plan describes one fleet. Decode it with [Decode], which refuses unknown fields and other versions.
type Plan struct {
	FormatVersion int `json:"formatVersion"`
	// Fleet is the name in fleetConfigurations.
	Fleet string `json:"fleet"`
	// Helpers says, per target system, which helper is pushed as the agent.
	Helpers map[string]Helper `json:"helpers"`
	Hosts   map[string]Host   `json:"hosts"`
	// SharedSecrets are the secrets that several hosts own, by name.
	SharedSecrets map[string]Secret `json:"sharedSecrets"`
	// Warnings come from the fleet's own modules.
	Warnings []string `json:"warnings"`
	// Records is present where a plan was printed with its records, which is what the static backend reads.
	Records map[string]Record `json:"records,omitempty"`
}

// Helper says where the helper for one target system is found.
type Helper struct {
	// Package is the attribute below packages.<operator's system> of the flake.
	Package string `json:"package,omitempty"`
	// Path is the store path of the package's output, in plans printed with records.
	Path string `json:"path,omitempty"`
}

// Host is what a plan says of one host.
type Host struct {
	System  string   `json:"system"`
	Tags    []string `json:"tags"`
	Deploy  Deploy   `json:"deploy"`
	Network Network  `json:"network"`
	// Record is the attribute path of the host's record in the flake; empty in static plans.
	Record []string `json:"record,omitempty"`
}

// Network lists addresses for the use of fleet modules and tools.
type Network struct {
	InternalIPs []string `json:"internalIps"`
	ExternalIPs []string `json:"externalIps"`
}

// Deploy is how a host is reached and deployed.
type Deploy struct {
	// Address is a name or IP address, resolved as the user's ssh would, or "local" for this machine.
	Address string `json:"address"`
	// Port is the SSH port; nil leaves it to the user's ssh configuration.
	Port *int `json:"port"`
	// User is the login user; nil leaves it to the user's ssh configuration.
	User *string `json:"user"`
	// JumpHosts are passed through in order, each as [user@]host[:port]; nil leaves it to the user's ssh configuration.
	JumpHosts []string `json:"jumpHosts"`
	// HostKeys are the pinned public keys, as "type base64"; empty means that the state or known_hosts decides.
	HostKeys []string `json:"hostKeys"`
	// Transport is "native" or "openssh".
	Transport string `json:"transport"`
	// Elevation is "auto", "none", "sudo", "doas" or "run0".
	Elevation string `json:"elevation"`
	// BuildOn is "operator", "target", or the name of another host of the fleet.
	BuildOn string `json:"buildOn"`
	// Relay is another host of the fleet, from which the host takes what it lacks; nil means that all is sent from here.
	Relay *string `json:"relay"`
	// RelayPort is the TCP port on which the host, as a relay, listens during a push; 0 means any that is free.
	RelayPort int `json:"relayPort"`
	// SubstituteOnDestination lets the target's substituters serve before we push.
	SubstituteOnDestination bool `json:"substituteOnDestination"`
	// Specialisation is the specialisation that is activated; nil means none.
	Specialisation *string `json:"specialisation"`
	// Guard says how activations are guarded; nil means [DefaultGuard].
	Guard *Guard `json:"guard"`
	// Health are checks that an activation has to pass, by their names. Those of the host's own modules, in [Specs], come beside them.
	Health map[string]HealthCheck `json:"health"`
	// Drain runs on the host before an activation, and Undrain after it, however it ended. They are programs with arguments; empty means none.
	Drain   []string `json:"drain"`
	Undrain []string `json:"undrain"`
}

// Record is what had to be evaluated in a host's own modules.
type Record struct {
	// Specs is nil where it was not asked for.
	Specs *Specs `json:"specs,omitempty"`
	// System is nil where it was not asked for, and where Specs.Missing says that it cannot be evaluated yet.
	System *System `json:"system,omitempty"`
}

// System is the host's evaluated system.
type System struct {
	// DrvPath is the derivation of the toplevel; empty in static plans whose closures exist already.
	DrvPath string `json:"drvPath,omitempty"`
	// OutPath is the toplevel's store path. Its name in JSON is toplevel, because Nix prints an attribute set that has
	// an attribute outPath as that path alone.
	OutPath string `json:"toplevel"`
	// Specialisations are the names below <toplevel>/specialisation.
	Specialisations []string `json:"specialisations"`
}
