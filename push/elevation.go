package push

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"fleet/closure/run"
)

// The ways to become root. elevationNone runs the same script as the login user, who may be root.
const (
	elevationAuto = "auto"
	elevationNone = "none"
	elevationSudo = "sudo"
	elevationDoas = "doas"
	elevationRun0 = "run0"
)

const (
	// maxPartial bounds a line, and what is kept of one that does not end.
	maxPartial = 16 << 10
	// maxPrompt is the longest unfinished line that can be a password prompt.
	maxPrompt = 256
	// keptOutput is how much of what the elevating program prints is kept for errors.
	keptOutput = 8 << 10
)

// What ended an elevation. [NoElevationError] and [PasswordError] are made of the first two.
var (
	errRefused  = errors.New("refused")
	errPassword = errors.New("wrong password")
	errNeedTTY  = errors.New("needs a terminal")
)

// elevationRequest is what the machine wants of its driver after it was fed.
type elevationRequest struct {
	// Password asks for a password, to be followed by a newline: As's, or the login user's where that is empty.
	Password bool
	As       string
	// Answer is to be written as it is; empty for nothing.
	Answer string
	// Err ends the attempt.
	Err error
}

// elevation reads what an elevating program and the script below it print, and decides when a password is due. It
// does no input or output. The rule that protects the password: it is asked for and sent at most once an attempt,
// and for sudo only after the very marker that this attempt chose as the prompt.
type elevation struct {
	kind string
	// user is the login user, for run0's choice of identities.
	user string
	// prompt is sudo's prompt, random; marker begins each line of the script, random.
	prompt, marker string
	pty            bool

	out, errs lineReader
	seen      tail
	asked     bool
	// hushed: what follows on the line of the prompt may be the echo of the password, so it is not kept.
	hushed  bool
	choices map[string]string
	// as is whom polkit says that it authenticates.
	as string

	// Started: the script runs, so that the elevation itself has succeeded.
	Started bool
	// Values are the script's lines but "ready".
	Values map[string]string
	// Ready is the agent's line; empty until it came.
	Ready string
}

func newElevation(kind, user, prompt, marker string, pty bool) *elevation {
	return &elevation{
		kind: kind, user: user, prompt: prompt, marker: marker, pty: pty,
		seen: tail{max: keptOutput}, choices: map[string]string{}, Values: map[string]string{},
	}
}

// Stdout takes a piece of the standard output; with a terminal that is everything.
func (e *elevation) Stdout(p []byte) elevationRequest {
	lines, err := e.out.feed(p)
	if err != nil {
		return elevationRequest{Err: err}
	}
	for _, line := range lines {
		if err := e.line(line); err != nil {
			return elevationRequest{Err: err}
		}
	}
	if e.pty {
		return e.look(&e.out)
	}
	return elevationRequest{}
}

// Stderr takes a piece of the standard error.
func (e *elevation) Stderr(p []byte) elevationRequest {
	lines, err := e.errs.feed(p)
	if err != nil {
		return elevationRequest{Err: err}
	}
	for _, line := range lines {
		e.keep(line)
	}
	return e.look(&e.errs)
}

// line takes a whole line of stdout.
func (e *elevation) line(line string) error {
	// With a terminal the line may follow an unfinished prompt or a program's escape codes.
	_, rest, ours := strings.Cut(line, e.marker+" ")
	if !ours || (!e.pty && !strings.HasPrefix(line, e.marker)) {
		e.keep(line)
		return nil
	}
	key, value, ok := strings.Cut(run.StripEscapes(rest), "=")
	if !ok {
		return fmt.Errorf("unexpected line %q", excerpt(rest, false))
	}
	if _, again := e.Values[key]; again || e.Ready != "" {
		return fmt.Errorf("line %q comes twice", key)
	}
	switch key {
	case "started":
		e.Started = true
	case "ready":
		e.Ready = value
		return nil
	case "helper", "need", "error":
	default:
		return fmt.Errorf("unexpected line %q", excerpt(rest, false))
	}
	e.Values[key] = value
	return nil
}

// look decides whether the unfinished line at the end of the output is a question.
func (e *elevation) look(r *lineReader) elevationRequest {
	if e.Started || e.kind == elevationNone {
		return elevationRequest{}
	}
	if e.kind == elevationSudo {
		if _, after, found := strings.Cut(r.partial, e.prompt); found {
			r.partial = after
			return e.askPassword()
		}
		return elevationRequest{}
	}
	partial := strings.TrimLeft(run.StripEscapes(r.partial), "\r ")
	switch {
	case len(partial) > maxPrompt:
	case passwordPrompt().MatchString(partial):
		r.partial = ""
		return e.askPassword()
	case e.kind == elevationRun0 && strings.HasPrefix(partial, "Choose identity to authenticate as ("):
		if strings.HasSuffix(strings.TrimRight(partial, " "), "):") {
			r.partial = ""
			return elevationRequest{Answer: e.choose() + "\n"}
		}
	}
	return elevationRequest{}
}

func (e *elevation) askPassword() elevationRequest {
	if e.asked {
		return elevationRequest{Err: errPassword}
	}
	e.asked, e.hushed = true, true
	return elevationRequest{Password: true, As: e.as}
}

// passwordPrompt matches what PAM modules, doas and polkit's text agent end their prompts with in the C locale.
func passwordPrompt() *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(?:password|passphrase)\b[^:]{0,80}: ?\z`)
}

// keep remembers a line that is not the script's, for errors and for run0's list of identities.
func (e *elevation) keep(line string) {
	if e.hushed {
		e.hushed = false
		return
	}
	plain := strings.TrimSpace(run.StripEscapes(strings.ReplaceAll(line, e.prompt, "")))
	if plain == "" {
		return
	}
	_, _ = e.seen.Write([]byte(plain + "\n"))
	if name, ok := strings.CutPrefix(plain, "Authenticating as: "); ok && e.kind == elevationRun0 {
		// "Full Name,,, (user)" or "user"
		if i := strings.LastIndex(name, "("); i >= 0 {
			name = strings.TrimSuffix(name[i+1:], ")")
		}
		e.as = oneLine(name)
	}
	if number, name, ok := strings.Cut(plain, "."); ok && len(e.choices) < 64 && isNumber(number) {
		e.choices[number] = strings.TrimSpace(name)
	}
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 3 && strings.Trim(s, "0123456789") == ""
}

// choose picks the login user among polkit's administrators, because it is that user's password that a person expects to type.
func (e *elevation) choose() string {
	for number, name := range e.choices {
		if name == e.user || strings.HasSuffix(name, "("+e.user+")") {
			return number
		}
	}
	return "1"
}

// phase counts how far the attempt is: each phase has its own time.
func (e *elevation) phase() int {
	switch {
	case e.Started:
		return 2
	case e.asked:
		return 1
	}
	return 0
}

// Ended says why the program ended without the script's result.
func (e *elevation) Ended() error {
	text := e.Output()
	if e.Started || e.kind == elevationNone {
		return errors.New("it ended early")
	}
	for _, rule := range endings() {
		if rule.what.MatchString(text) {
			return fmt.Errorf("%w: %s", rule.err, excerpt(text, true))
		}
	}
	if text == "" {
		text = "it ended without a word"
	}
	return fmt.Errorf("%w: %s", errRefused, excerpt(text, true))
}

// Output is the end of what was printed beside the script's lines, in the form of an error's text.
func (e *elevation) Output() string {
	text := string(e.seen.data)
	if !e.hushed {
		text += " " + strings.ReplaceAll(e.out.partial+e.errs.partial, e.prompt, "")
	}
	return excerpt(text, true)
}

type ending struct {
	what *regexp.Regexp
	err  error
}

// endings are the C locale's words of sudo, doas (OpenBSD's and the Linux port's) and polkit's text agent.
func endings() []ending {
	return []ending{
		{regexp.MustCompile(`must have a tty|a tty is required|no tty present`), errNeedTTY},
		{regexp.MustCompile(`(?i)incorrect password|sorry, try again|doas: authentication failed|AUTHENTICATION FAILED|no password was provided`), errPassword},
	}
}

// lineReader splits a stream into lines of bounded length.
type lineReader struct{ partial string }

// feed returns the lines that p completes, without their ends.
func (r *lineReader) feed(p []byte) ([]string, error) {
	text := r.partial + string(p)
	var lines []string
	for {
		line, rest, whole := strings.Cut(text, "\n")
		if len(line) > maxPartial {
			return lines, fmt.Errorf("a line is longer than %d bytes", maxPartial)
		}
		if !whole {
			r.partial = line
			return lines, nil
		}
		lines = append(lines, strings.TrimSuffix(line, "\r"))
		text = rest
	}
}
