package transport

import "strings"

// Quote joins args to one command line that a POSIX shell splits into exactly these words again.
// Words of harmless characters stay bare, so that commands remain readable in a process list.
// A NUL cannot be part of an argument on any system; it is dropped.
func Quote(args ...string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quoteWord(strings.ReplaceAll(arg, "\x00", ""))
	}
	return strings.Join(quoted, " ")
}

func quoteWord(word string) string {
	if word == "" {
		return "''"
	}
	// '=' is left out: a first word with it would be an assignment.
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+,"
	if strings.Trim(word, safe) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
