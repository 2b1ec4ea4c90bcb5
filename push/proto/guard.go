package proto

const (
	// MethodTransactions: nothing → [TransactionsResult].
	MethodTransactions = "activation.list"
	// MethodGenerations: nothing → [GenerationsResult].
	MethodGenerations = "host.generations"
	// MethodCheck: [CheckRequest] → [CheckResult], from an agent that is root: the host looks at another one, or at itself.
	MethodCheck = "health.check"
)

// TransactionsResult are the transactions that a host remembers, newest first.
type TransactionsResult struct {
	Transactions []TxnStatus `json:"transactions"`
}

// GenerationsResult are the generations of a host's system profile, newest first.
type GenerationsResult struct {
	Generations []Generation `json:"generations"`
}

// Generation is one generation of the system profile.
type Generation struct {
	Number   int    `json:"number"`
	Toplevel string `json:"toplevel"`
	// Current says that the profile is this one; Since, RFC 3339, when it was made.
	Current bool   `json:"current,omitempty"`
	Since   string `json:"since,omitempty"`
	// Specialisations are the names below <toplevel>/specialisation.
	Specialisations []string `json:"specialisations,omitempty"`
}

// CheckRequest is a health check that is made once, in at most its own time.
type CheckRequest struct {
	Name  string      `json:"name"`
	Check HealthCheck `json:"check"`
}

// CheckResult says how it went; Problem is empty where it went well.
type CheckResult struct {
	Problem string `json:"problem,omitempty"`
}

// GuardPolicy is how patient and how strict a host's guard is. A bound of 0 means the default; no settling and no soaking are 0, too.
type GuardPolicy struct {
	// SwitchSeconds bounds one activation of the new system, RollbackSeconds one of the old.
	SwitchSeconds   int `json:"switchSeconds,omitempty"`
	RollbackSeconds int `json:"rollbackSeconds,omitempty"`
	// ConfirmSeconds is how long a confirmation is waited for, from the moment at which the host is healthy; BootConfirmSeconds after a boot.
	ConfirmSeconds     int `json:"confirmSeconds,omitempty"`
	BootConfirmSeconds int `json:"bootConfirmSeconds,omitempty"`
	// SettleSeconds bounds how long units may take to settle, and SoakSeconds is how long the host has to stay healthy.
	SettleSeconds int `json:"settleSeconds,omitempty"`
	SoakSeconds   int `json:"soakSeconds,omitempty"`
	// Reboot says whether a rollback may reboot: "never", "if-safe" (the default) or "always".
	Reboot string `json:"reboot,omitempty"`
	// NoRollback leaves a failure as it is; SelfConfirm takes the host's own health for a confirmation.
	NoRollback  bool `json:"noRollback,omitempty"`
	SelfConfirm bool `json:"selfConfirm,omitempty"`
	// Skip names checks before the activation that do not count.
	Skip []string `json:"skip,omitempty"`
	// IgnoreUnits are units whose failure does not count; "*" and "?" match as in file names.
	IgnoreUnits []string `json:"ignoreUnits,omitempty"`
	// Health are checks, by their names.
	Health map[string]HealthCheck `json:"health,omitempty"`
	// Drain runs on the host before the activation, and Undrain after it, however it ended. They are programs with arguments.
	Drain   []string `json:"drain,omitempty"`
	Undrain []string `json:"undrain,omitempty"`
}

// DefaultGuardPolicy is what counts where nothing was said.
func DefaultGuardPolicy() GuardPolicy {
	return GuardPolicy{
		SwitchSeconds: 15 * 60, RollbackSeconds: 10 * 60, ConfirmSeconds: 3 * 60, BootConfirmSeconds: 10 * 60, SettleSeconds: 10,
		Reboot: "if-safe",
	}
}

// HealthCheck is one look at a host. Exactly one of Command, TCP, HTTP and Unit is set.
type HealthCheck struct {
	// Command succeeds by exit code 0.
	Command []string `json:"command,omitempty"`
	// TCP is an address, host:port, that has to accept a connection.
	TCP  string     `json:"tcp,omitempty"`
	HTTP *HTTPCheck `json:"http,omitempty"`
	// Unit has to be active.
	Unit string `json:"unit,omitempty"`
	// TimeoutSeconds is how long the check may take to succeed for the first time, and IntervalSeconds the pause between two tries; 0 means the default.
	TimeoutSeconds  int `json:"timeoutSeconds,omitempty"`
	IntervalSeconds int `json:"intervalSeconds,omitempty"`
	// From is who looks: "host" (also where it is empty), "operator", or another host by its name.
	From string `json:"from,omitempty"`
}

// HTTPCheck asks for a URL.
type HTTPCheck struct {
	URL string `json:"url"`
	// Status is what has to be answered; 0 means any of 200 to 299.
	Status int `json:"status,omitempty"`
}

// CheckHost and CheckOperator are values of [HealthCheck.From].
const (
	CheckHost     = "host"
	CheckOperator = "operator"
)

// NonceResult is what a confirmation of the transaction has to name. It is known only to who becomes root on the host.
type NonceResult struct {
	Nonce string `json:"nonce"`
}

// ConfirmRequest is the one line of JSON that the guard's socket takes, from a process that serves a connection made after the switch.
type ConfirmRequest struct {
	Nonce string `json:"nonce"`
}

// ConfirmAnswer is the one line that it answers with. Confirmed says that the guard commits; the commit's own end is in the transaction's
// status. Error says why it does not.
type ConfirmAnswer struct {
	Confirmed bool   `json:"confirmed"`
	Error     *Error `json:"error,omitempty"`
}

// Finding is something that speaks against an activation, found before it began.
type Finding struct {
	// Check is the name of the check, for [GuardPolicy.Skip].
	Check   string `json:"check"`
	Problem string `json:"problem"`
	// Remedy is what a person can do about it, empty where nothing is known.
	Remedy string `json:"remedy,omitempty"`
	// Fixed says that it cannot be skipped.
	Fixed bool `json:"fixed,omitempty"`
}

// PreflightData is the Data of an [Error] with [CodePreflight].
type PreflightData struct {
	Findings []Finding `json:"findings"`
}
