package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"fleet/cmd/fleet-helper/internal/cli"
	"fleet/secretsgen/secret"
)

// maxCandidates bounds how many ids an error lists.
const maxCandidates = 8

// sortSecrets orders ids as they are shown: shared ones first, then by host, then by name.
func sortSecrets(ids []secret.ID) []secret.ID {
	slices.SortFunc(ids, func(a, b secret.ID) int {
		if shared := cmp.Compare(b2i(a.Scope != secret.Shared), b2i(b.Scope != secret.Shared)); shared != 0 {
			return shared
		}
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(ids)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// isPattern says whether a word may name several secrets.
func isPattern(word string) bool { return strings.ContainsAny(word, `*?[\`) }

// matching returns the known secrets that a word can mean: by its whole id where the word has a slash, else by its name.
func matching(known []secret.ID, word string) ([]secret.ID, error) {
	var found []secret.ID
	for _, id := range known {
		text := id.Name
		if strings.Contains(word, "/") {
			text = id.String()
		}
		ok := text == word
		if isPattern(word) {
			var err error
			if ok, err = path.Match(word, text); err != nil {
				return nil, &cli.UsageError{Err: fmt.Errorf("secret %q: it is no pattern: %w", word, err), Remedy: `patterns have *, ? and [a-z]; a slash is matched by a slash alone`}
			}
		}
		if ok {
			found = append(found, id)
		}
	}
	return sortSecrets(found), nil
}

// selectSecrets returns the secrets that words name, or all where there are none. A name that several secrets have means all of them where
// every is set, and is an error otherwise.
func selectSecrets(known []secret.ID, words []string, every bool) ([]secret.ID, error) {
	if len(words) == 0 {
		return sortSecrets(slices.Clone(known)), nil
	}
	var selected []secret.ID
	for _, word := range words {
		found, err := matching(known, word)
		switch {
		case err != nil:
			return nil, err
		case len(found) == 0:
			return nil, unknownSecret(known, word)
		case len(found) > 1 && !every && !isPattern(word):
			return nil, ambiguousSecret(found, word)
		}
		selected = append(selected, found...)
	}
	return sortSecrets(selected), nil
}

// oneSecret returns the secret that a word names. host, unless empty, picks between the secrets of several hosts.
func oneSecret(known []secret.ID, word, host string) (secret.ID, error) {
	if isPattern(word) {
		return secret.ID{}, &cli.UsageError{Err: fmt.Errorf("secret %q: one secret at a time, no pattern", word), Remedy: "name it in full: shared/NAME, or host/HOST/NAME"}
	}
	found, err := matching(known, word)
	if err != nil {
		return secret.ID{}, err
	}
	if own := (secret.ID{Scope: secret.OfHost(host), Name: word}); host != "" && len(found) > 1 && slices.Contains(found, own) {
		return own, nil
	}
	switch len(found) {
	case 0:
		return secret.ID{}, unknownSecret(known, word)
	case 1:
		return found[0], nil
	}
	return secret.ID{}, ambiguousSecret(found, word)
}

func unknownSecret(known []secret.ID, word string) error {
	err := fmt.Errorf("there is no secret %q", word)
	if isPattern(word) {
		err = fmt.Errorf("no secret matches %q", word)
	}
	var words []string
	for _, id := range known {
		words = append(words, id.String())
		if !strings.Contains(word, "/") {
			words = append(words, id.Name)
		}
	}
	remedy := cli.DidYouMean(word, words, "")
	if remedy == "" || isPattern(word) {
		remedy = "fleet secrets status lists all secrets"
	}
	return &cli.UsageError{Err: err, Remedy: remedy}
}

func ambiguousSecret(found []secret.ID, word string) error {
	var list []string
	for i, id := range found {
		if i == maxCandidates {
			list = append(list, fmt.Sprintf("… and %d more", len(found)-i))
			break
		}
		list = append(list, id.String())
	}
	return &cli.UsageError{Err: fmt.Errorf("%d secrets are called %q", len(found), word), Remedy: "name one of: " + strings.Join(list, ", ")}
}
